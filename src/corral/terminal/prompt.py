"""The lines at the bottom of the terminal: the end of what comes, what goes on, and what the person types."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from prompt_toolkit.buffer import Buffer
from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document
from prompt_toolkit.filters import Condition
from prompt_toolkit.formatted_text.utils import fragment_list_width
from prompt_toolkit.layout import (
    BufferControl,
    ConditionalContainer,
    Dimension,
    Float,
    FloatContainer,
    FormattedTextControl,
    HSplit,
    Layout,
    Window,
)
from prompt_toolkit.layout.menus import CompletionsMenu
from prompt_toolkit.layout.processors import ConditionalProcessor, PasswordProcessor
from prompt_toolkit.widgets import SearchToolbar

from corral.service.front import CommandHelp

if TYPE_CHECKING:
    from prompt_toolkit.history import History

    from corral.terminal.activity import Fragments

MENU = 8  # lines
PROMPT = "> "


@dataclass(frozen=True, slots=True)
class Shows:
    """What is drawn, asked for at every drawing."""

    live: Callable[[], Fragments]
    status: Callable[[], Fragments]
    prompt: Callable[[], Fragments]
    secret: Callable[[], bool]


def build(buffer: Buffer, shows: Shows) -> Layout:
    """The layout, with the cursor in the buffer."""
    search = SearchToolbar()

    def prefix(line: int, wrapped: int) -> Fragments:
        first = shows.prompt()
        return first if line == wrapped == 0 else [("", " " * fragment_list_width(first))]

    def height() -> Dimension:
        # The menu of completions has only the room that the application takes.
        return Dimension(min=MENU + 1 if buffer.complete_state is not None else 1)

    typing = Window(
        BufferControl(
            buffer,
            input_processors=[ConditionalProcessor(PasswordProcessor(), Condition(shows.secret))],
            search_buffer_control=search.control,
        ),
        height=height,
        wrap_lines=True,
        get_line_prefix=prefix,
        dont_extend_height=True,
    )
    menu = Float(CompletionsMenu(max_height=MENU, scroll_offset=1), xcursor=True, ycursor=True)
    above = [Window(height=1), _if_any(shows.live), _if_any(shows.status)]
    return Layout(FloatContainer(HSplit([*above, typing, search]), [menu]), focused_element=typing)


def _if_any(text: Callable[[], Fragments]) -> ConditionalContainer:
    window = Window(FormattedTextControl(text), dont_extend_height=True, wrap_lines=False)
    return ConditionalContainer(window, Condition(lambda: bool(text())))


class Commands(Completer):
    """Completes the commands, in the first word of the line."""

    def __init__(self, commands: Sequence[CommandHelp]) -> None:
        self._commands = commands

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:  # noqa: ARG002
        """Those that begin as the line does."""
        typed = document.text_before_cursor
        if not typed.startswith("/") or typed != document.text:
            return
        for one in self._commands:
            if one.name.startswith(typed.lower()) and one.name != typed:
                usage = f"{one.name} {one.arguments}".rstrip()
                yield Completion(one.name, -len(typed), usage, one.summary)


def buffer_with(history: History, commands: Sequence[CommandHelp]) -> Buffer:
    """The line that the person types, which may be several."""
    return Buffer(history=history, completer=Commands(commands), complete_while_typing=True, multiline=True)
