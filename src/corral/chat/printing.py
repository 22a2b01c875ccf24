"""How a conversation's events are shown: as text for a person, or as one JSON object a line for a program."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Sequence
from typing import IO, Protocol

from rich.console import Console, Group, RenderableType
from rich.text import Text as Styled

from corral import view
from corral.backends.base import (
    ApprovalRequested,
    BackendEnded,
    BackendStarted,
    Event,
    Notice,
    Question,
    Reasoning,
    Text,
    ToolEnded,
    ToolStarted,
    TurnEnded,
    to_json,
)
from corral.process import Process

OUTPUT_LINES = 5
LINE_WIDTH = 160  # characters of a line of a tool's output
PROMPT = "> "

# What an agent prints must not move the cursor, retitle the window or answer for the person: sequences and controls go.
_SEQUENCES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\-_]?)")
_CONTROLS = dict.fromkeys([*range(0x09), *range(0x0B, 0x20), *range(0x7F, 0xA0)])


def harmless(text: str) -> str:
    """The text without terminal sequences and control characters, newline and tab excepted."""
    return _SEQUENCES.sub("", text).translate(_CONTROLS)


class Printer(Protocol):
    """What shows a chat."""

    def show(self, event: Event) -> None:
        """Show an event."""

    def status(self, line: str, tree: Sequence[Process]) -> None:
        """Show where things stand."""

    def prompt(self) -> None:
        """Invite the person to speak, where there is one."""

    def entered(self) -> None:
        """Hear that the person ended a line, which the terminal has shown."""


class JsonPrinter:
    """One object a line, for programs."""

    def __init__(self, out: IO[str]) -> None:
        self._out = out

    def show(self, event: Event) -> None:
        self._out.write(json.dumps(to_json(event), ensure_ascii=False) + "\n")

    def status(self, line: str, tree: Sequence[Process]) -> None:
        self.show(Notice(f"{line}; processes: {', '.join(f'{one.pid} {one.comm}' for one in tree) or 'none'}"))

    def prompt(self) -> None:
        """Programs need none."""

    def entered(self) -> None:
        """Programs do not echo."""


class TextPrinter:
    """Streamed text, tools with the end of their output, verdicts; and a prompt on a terminal."""

    def __init__(self, console: Console, *, prompts: bool) -> None:
        self._console = console
        self._prompts = prompts
        self._message = ""
        self._open_line = False
        self._prompted = False
        self._tools: dict[str, float] = {}

    def show(self, event: Event) -> None:
        match event:
            case BackendStarted():
                self._started(event)
            case Text() | Reasoning():
                self._text(event)
            case ToolStarted():
                self._tools[event.tool_id] = time.monotonic()
                self._line(Styled.assemble(("▸ ", "cyan"), _title(event.title)))
            case ToolEnded():
                self._line(self._tool_end(event))
            case ApprovalRequested():
                self._line(_question(event))
            case TurnEnded():
                self._turn_end(event)
            case BackendEnded():
                self._line(view.report(event.report))
            case Notice():
                self._line(Styled(harmless(event.message), "yellow"))

    def status(self, line: str, tree: Sequence[Process]) -> None:
        self._line(Styled(line))
        if tree:
            self._line(view.tree(tree))

    def prompt(self) -> None:
        if self._prompts and not self._prompted:
            self.fresh_line()
            self._console.print(Styled(PROMPT, "bold"), end="")
            self._prompted = self._open_line = True

    def entered(self) -> None:
        self._prompted = self._open_line = False

    def say(self, block: RenderableType) -> None:
        """Something of the program's own, on a line of its own."""
        self._line(block)

    def fresh_line(self) -> None:
        """End the line that is open."""
        if self._open_line:
            self._console.print()
        self._open_line = self._prompted = False

    def _line(self, block: RenderableType) -> None:
        self.fresh_line()
        self._console.print(block)

    def _started(self, event: BackendStarted) -> None:
        parts = [event.engine, event.model, f"as {event.user}", f"pid {event.pid}"]
        if event.conversation:
            parts.append(f"conversation {event.conversation}")
        more = ", gone on with" if event.resumed else ""
        self._line(Styled(" · ".join(part for part in parts if part) + more, "dim"))

    def _text(self, event: Text | Reasoning) -> None:
        if event.message_id != self._message or self._prompted:
            self.fresh_line()
        self._message = event.message_id
        text = harmless(event.delta)
        if text:
            style = "dim italic" if isinstance(event, Reasoning) else ""
            self._console.print(Styled(text, style), end="")
            self._open_line = not text.endswith("\n")

    def _tool_end(self, event: ToolEnded) -> RenderableType:
        good = event.status == "completed"
        took = f" in {time.monotonic() - self._tools.pop(event.tool_id, time.monotonic()):.1f} s"
        status = f", status {event.exit_code}" if event.exit_code else ""
        head = Styled.assemble(
            ("✓ " if good else "✗ ", "green" if good else "red"),
            (f"{event.status}{status}{'' if event.status == 'declined' else took}", "dim"),
        )
        lines = [line[:LINE_WIDTH] for line in harmless(event.output).rstrip().splitlines()]
        if len(lines) > OUTPUT_LINES:
            lines = ["…", *lines[-OUTPUT_LINES:]]
        return Group(head, *(Styled(f"  {line}", "dim") for line in lines))

    def _turn_end(self, event: TurnEnded) -> None:
        self._message = ""
        self.fresh_line()
        if event.status != "completed":
            style = "yellow" if event.status == "interrupted" else "red"
            self._line(Styled(harmless(f"the turn was {_ENDINGS[event.status]}: {event.reason}"), style))


_ENDINGS = {"interrupted": "interrupted", "failed": "not completed", "timed_out": "timed out"}


def _question(event: ApprovalRequested) -> RenderableType:
    reason = f" ({event.reason})" if event.reason else ""
    what = harmless(f"{event.what}{reason}")
    if event.questions:
        lines = [Styled(f"  {_ask(question)}") for question in event.questions]
        return Group(Styled.assemble(("the agent asks: ", "bold yellow"), what), *lines)
    keys = "y, n, or s for the whole session" if "accept_for_session" in event.decisions else "y or n"
    return Styled.assemble(("leave is asked for: ", "bold yellow"), what, (f"  [{keys}]", "bold"))


def _ask(question: Question) -> str:
    options = "  ".join(f"{number}) {option}" for number, option in enumerate(question.options, start=1))
    return harmless(f"{question.text}  {options}".rstrip())


def _title(title: str, most: int = 200) -> str:
    line = " ".join(harmless(title).split())
    return line if len(line) <= most else line[: most - 1] + "…"
