"""How a conversation's events are printed: as text, or as one JSON object a line for a program."""

from __future__ import annotations

import json
from typing import IO, Protocol

from rich.console import Console, RenderableType
from rich.text import Text as Styled

from corral.backends.events import (
    ApprovalRequested,
    BackendEnded,
    BackendStarted,
    Notice,
    Reasoning,
    Text,
    ToolEnded,
    ToolStarted,
    TurnEnded,
)
from corral.display import processes, wording
from corral.printable import harmless, harmless_json, in_one_line
from corral.service.front import Missed, Reply, Shown, to_json
from corral.terminal.approving import MEANINGS, WORDS
from corral.terminal.render import rich_block, rich_line

PROMPT = "> "


class Printer(Protocol):
    """Prints a chat."""

    def show(self, event: Shown) -> None:
        """Show an event."""

    def prompt(self) -> None:
        """Show the prompt, if a person types here."""

    def entered(self) -> None:
        """Called when the person has ended a line, which the terminal has echoed."""

    def fresh_line(self) -> None:
        """End the line that is open."""


class JsonPrinter:
    """One object a line, for programs."""

    def __init__(self, out: IO[str]) -> None:
        self._out = out

    def show(self, event: Shown) -> None:
        self._out.write(harmless_json(json.dumps(to_json(event), ensure_ascii=False)) + "\n")

    def prompt(self) -> None:
        """No prompt for a program."""

    def entered(self) -> None:
        """A program's input is not echoed."""

    def fresh_line(self) -> None:
        """No line is ever open."""


class TextPrinter:
    """Streamed text, tools with the end of their output, verdicts; and a prompt on a terminal."""

    def __init__(self, console: Console, *, prompts: bool) -> None:
        self._console = console
        self._prompts = prompts
        self._message = ""
        self._open_line = False
        self._prompted = False

    def show(self, event: Shown) -> None:
        match event:
            case BackendStarted():
                self._line(rich_line(wording.started(event)))
            case Text() | Reasoning():
                self._text(event)
            case ToolStarted():
                self._line(Styled.assemble(("▸ ", "cyan"), in_one_line(event.title)))
            case ToolEnded():
                self._line(rich_block(wording.tool_result(event)))
            case ApprovalRequested():
                keys = [f"{key}: {text}" for key, text in MEANINGS.items() if WORDS[key] in event.decisions]
                self._line(rich_block(wording.request(event, keys="  ".join(keys))))
            case TurnEnded():
                self._turn_end(event)
            case BackendEnded():
                self._line(rich_block(processes.report(event.report)))
            case Notice():
                self._line(rich_line(wording.notice(event)))
            case Missed():
                self._line(rich_line(wording.missed(event)))
            case Reply():
                self._line(rich_line(wording.reply(event)))

    def prompt(self) -> None:
        if self._prompts and not self._prompted:
            self.fresh_line()
            self._console.print(Styled(PROMPT, "bold"), end="")
            self._prompted = self._open_line = True

    def entered(self) -> None:
        self._prompted = self._open_line = False

    def say(self, block: RenderableType) -> None:
        """Print something of the program's own, on a new line."""
        self._line(block)

    def fresh_line(self) -> None:
        if self._open_line:
            self._console.print()
        self._open_line = self._prompted = False

    def _line(self, block: RenderableType) -> None:
        self.fresh_line()
        self._console.print(block)

    def _text(self, event: Text | Reasoning) -> None:
        if event.message_id != self._message or self._prompted:
            self.fresh_line()
        self._message = event.message_id
        text = harmless(event.delta)
        if text:
            style = "dim italic" if isinstance(event, Reasoning) else ""
            self._console.print(Styled(text, style), end="")
            self._open_line = not text.endswith("\n")

    def _turn_end(self, event: TurnEnded) -> None:
        self._message = ""
        self.fresh_line()
        if (end := wording.turn_end(event)) is not None:
            self._line(rich_line(end))
