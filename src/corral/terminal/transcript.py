"""What stays on the screen of a conversation, printed once and in order; and the end of what is not finished yet."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from rich.cells import chop_cells
from rich.console import RenderableType
from rich.text import Text as Styled

from corral.backends.events import (
    ApprovalClosed,
    BackendEnded,
    BackendStarted,
    Notice,
    Reasoning,
    Text,
    ToolEnded,
    ToolOutput,
    ToolStarted,
    TurnEnded,
)
from corral.display import processes, wording
from corral.printable import as_shown, harmless, in_one_line
from corral.service.front import Missed, Reply, Shown
from corral.terminal.blocks import Block, Blocks
from corral.terminal.markdown import TAB, rendered
from corral.terminal.render import in_columns, rich_block, rich_line

if TYPE_CHECKING:
    from corral.backends.events import ApprovalRequested
    from corral.terminal.activity import Fragments

TAIL = 4096  # characters of a thought, or of a tool's output, that are looked at


class Transcript:
    """Shows events through `put`, which prints a renderable above the prompt."""

    def __init__(self, put: Callable[[RenderableType], None]) -> None:
        self._put = put
        self._last = ""
        self._blocks = Blocks()
        self._message = ""
        self._thought = ""
        self._output = ""

    def show(self, event: Shown) -> None:
        """Show an event, or keep it until it is whole. Requests are shown when it is their turn: `request`."""
        match event:
            case Text():
                self._text(event)
            case Reasoning():
                self._reasoning(event)
            case ToolStarted():
                self._finish()
                self._output = ""
            case ToolOutput():
                self._output = (self._output + event.delta)[-TAIL:]
            case ToolEnded():
                self._output = ""
                self._print("tool", rich_block(wording.tool_end(event)))
            case TurnEnded():
                self._turn_end(event)
            case _:
                self._show_whole(event)

    def said(self, text: str) -> None:
        """What the person said."""
        lines = Styled.assemble(("> ", "bold"), (harmless(text).replace("\n", "\n  "), "bold cyan"))
        self._print("said", lines, close=False)

    def request(self, event: ApprovalRequested, keys: str) -> None:
        """What is asked."""
        self._finish()
        self._print("asked", rich_block(wording.request(event, keys=keys)), close=False)

    def live(self, width: int, height: int) -> Fragments:
        """The end of what is not finished: so many lines at the most, each shorter than `width`."""
        style = ""
        text = harmless(self._blocks.rest(height + 1, width * height))
        if self._thought:
            text, height = harmless(_last_line(self._thought)), 1
            style = "class:thought"
        elif not text and self._output:
            text, height = f"  {as_shown(_last_line(self._output))}", 1
            style = "class:dim"
        lines: list[str] = []
        for line in text.expandtabs(TAB).split("\n") if text.strip() else ():
            lines += chop_cells(line, width - 1) or [""]
        if height == 1:
            lines = [in_columns(text, width - 1)] if text.strip() else []
        return [(style, "\n".join(lines[-height:]))] if lines else []

    def _show_whole(self, event: Shown) -> None:
        match event:
            case ApprovalClosed():
                self._print("asked", rich_line(wording.decided(event)))
            case BackendStarted():
                self._print("backend", rich_line(wording.started(event)))
            case BackendEnded():
                self._print("backend", rich_block(processes.report(event.report)))
            case Notice():
                self._print("notice", rich_line(wording.notice(event)))
            case Missed():
                self._finish()
                self._print("notice", rich_line(wording.missed(event)))
            case Reply():
                self._print("reply", rich_line(wording.reply(event)))
            case _:
                pass

    def _turn_end(self, event: TurnEnded) -> None:
        self._finish()
        self._output = ""
        if (end := wording.turn_end(event)) is not None:
            self._print("notice", rich_line(end))

    def _text(self, event: Text) -> None:
        if event.message_id != self._message:
            self._finish()
        self._end_thought()
        self._message = event.message_id
        self._print_blocks(self._blocks.feed(event.delta))

    def _reasoning(self, event: Reasoning) -> None:
        if not self._thought:
            self._finish()
        self._thought = (self._thought + event.delta)[-TAIL:]

    def _end_thought(self) -> None:
        thought, self._thought = self._thought, ""
        if line := in_one_line(_last_line(thought)):
            self._print("thought", Styled(f"· {line}", "dim italic"))

    def _finish(self) -> None:
        """The message, or the thought, that was open has no more to come."""
        self._end_thought()
        self._print_blocks(self._blocks.finish())
        self._blocks = Blocks()

    def _print_blocks(self, blocks: list[Block]) -> None:
        for block in blocks:
            if (shown := rendered(block)) is not None:
                self._print("text", shown, close=block.close)

    def _print(self, kind: str, block: RenderableType, *, close: bool | None = None) -> None:
        """Print with a blank line before it, unless it belongs to what is above it."""
        together = kind == self._last and kind != "text" if close is None else close
        if self._last and not together:
            self._put(Styled())
        self._last = kind
        self._put(block)


def _last_line(text: str) -> str:
    """The last line that says something, without markdown's stars."""
    return text.rstrip().rpartition("\n")[2].strip().strip("*")
