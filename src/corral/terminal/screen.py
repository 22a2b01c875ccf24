"""The terminal below and above the prompt: what is printed goes above, and stays; what is live is drawn anew."""

from __future__ import annotations

import asyncio
import os
import select
import signal
import sys
import termios
from collections.abc import Callable
from contextlib import suppress
from io import StringIO
from typing import TYPE_CHECKING, TextIO, cast

from prompt_toolkit.application import Application, in_terminal
from prompt_toolkit.data_structures import Size
from prompt_toolkit.input.posix_utils import PosixStdinReader
from prompt_toolkit.input.typeahead import store_typeahead
from prompt_toolkit.input.vt100 import Vt100Input
from prompt_toolkit.input.vt100_parser import Vt100Parser
from prompt_toolkit.output import ColorDepth
from prompt_toolkit.output.vt100 import Vt100_Output
from prompt_toolkit.styles import Style
from rich.console import Console
from rich.theme import Theme

if TYPE_CHECKING:
    from prompt_toolkit.key_binding import KeyBindingsBase
    from prompt_toolkit.key_binding.key_processor import KeyPress
    from prompt_toolkit.layout import Layout
    from rich.console import RenderableType

    from corral.terminal.output import Output

MOST_AHEAD = 16 * 1024  # keys
BACKLOG = 4096  # characters not yet taken by the terminal, above which nothing is drawn for its own sake
EXIT_TIMEOUT = 1.0  # seconds for the last drawing
LEAST_COLUMNS = 20  # in a narrower window lines are cut
REDRAW = 0.03  # seconds between two drawings
STYLE = Style.from_dict({"dim": "fg:ansibrightblack", "thought": "fg:ansibrightblack italic", "prompt": "bold"})
THEME = Theme({"markdown.code": "cyan", "markdown.h1": "bold underline", "markdown.h2": "bold underline"})


class _Terminal(Vt100_Output):
    """Erases so that nothing erased is kept.

    tmux takes ED (`CSI J`) at the top left corner for the clearing of the screen, and scrolls what was there into its
    history: a prompt as high as the window would leave a copy of itself there each time.
    """

    def erase_down(self) -> None:
        # The cursor's own line first, then what is below it; in the last line, that line twice.
        self.write_raw("\x1b7\x1b[K\x1b[B\x1b[J\x1b8")


class Screen:
    """A prompt_toolkit application that never makes the event loop wait for the terminal."""

    def __init__(self, output: Output, layout: Layout, keys: KeyBindingsBase, on_gone: Callable[[], None]) -> None:
        """`on_gone`: the terminal is gone, or drawing failed."""
        self._output = output
        self._on_gone = on_gone
        self._rendered = StringIO()
        self._console = Console(file=self._rendered, force_terminal=True, width=80, highlight=False, theme=THEME)
        self._above: list[str] = []
        self._task: asyncio.Task[None] | None = None
        self._attributes = termios.tcgetattr(0)
        self.app: Application[None] = Application(
            layout=layout,
            key_bindings=keys,
            style=STYLE,
            input=_input(),
            output=_Terminal(
                cast("TextIO", output),
                self._size,
                term=os.environ.get("TERM"),
                enable_cpr=False,  # it would wait for a terminal that does not answer
            ),
            color_depth=ColorDepth.from_env(),
            erase_when_done=True,
            min_redraw_interval=REDRAW,
            after_render=lambda _: output.release(),
        )

    @property
    def columns(self) -> int:
        """How wide the terminal is."""
        return max(self._size().columns, LEAST_COLUMNS)

    @property
    def rows(self) -> int:
        """How high it is."""
        return self._size().rows

    def start(self) -> None:
        """Draw, and read keys: first those of the lines that were typed before."""
        store_typeahead(self.app.input, _typed_ahead())
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def stop(self) -> None:
        """Draw no more, and leave the terminal as it was. Raises what broke the drawing, if anything did."""
        try:
            if self._task is not None:
                if not self.app.is_running:
                    self._task.cancel()
                elif not self.app.is_done:
                    self.app.exit()
                await asyncio.wait([self._task], timeout=EXIT_TIMEOUT)
                self._task.cancel()
            self._print_above()
        finally:
            self._output.release()
            with suppress(termios.error):  # the terminal is gone
                termios.tcsetattr(0, termios.TCSANOW, self._attributes)
        if self._task is not None and self._task.done() and not self._task.cancelled():
            self._task.result()

    def suspend(self) -> None:
        """Stop this process, and what the shell has started with it, until the shell continues it."""
        self.app.create_background_task(self._suspend())

    async def _suspend(self) -> None:
        async with in_terminal():
            await self._output.drained(EXIT_TIMEOUT)
            os.kill(0, signal.SIGTSTP)

    def put(self, block: RenderableType) -> None:
        """Print above the prompt."""
        self._rendered.seek(0)
        self._rendered.truncate()
        self._console.width = self.columns
        self._console.print(block, crop=False)
        if not self._above:
            # What one read of the engine brings is printed at once.
            asyncio.get_running_loop().call_soon(self._print_above)
        self._above.append(trimmed(self._rendered.getvalue()))

    def refresh(self) -> None:
        """Draw again, soon, unless the terminal has enough to do."""
        if self._output.waiting < BACKLOG:
            self.app.invalidate()

    def _print_above(self) -> None:
        text = "".join(self._above)
        self._above.clear()
        if not text:
            return
        if self.app.is_running and not self.app.is_done:
            self._output.hold()  # until the prompt is there again
            self.app.renderer.erase()
            self._output.write(text)
            self.app.invalidate()
        else:
            self._output.write(text)

    async def _run(self) -> None:
        try:
            await self.app.run_async(handle_sigint=False, set_exception_handler=False)
        except EOFError:
            self._on_gone()
        except Exception:
            # Whatever broke: the agent must be ended and the terminal restored before it is reported.
            self._on_gone()
            raise

    def _size(self) -> Size:
        try:
            columns, rows = os.get_terminal_size(1)
        except OSError:
            columns, rows = 0, 0
        return Size(rows=rows or 24, columns=columns or 80)


class _Reader(PosixStdinReader):
    """One that sees when the terminal is gone: EIO does not pass."""

    def read(self, count: int = 1024) -> str:
        try:
            data = os.read(self.stdin_fd, count)
        except InterruptedError:
            return ""
        except OSError:
            data = b""
        if not data:
            self.closed = True
        return self._stdin_decoder.decode(data)


def _input() -> Vt100Input:
    made = Vt100Input(sys.stdin)
    made.stdin_reader = _Reader(0, encoding="utf-8")
    return made


def _typed_ahead() -> list[KeyPress]:
    """The lines that wait, as keys. The terminal has made Enter a new line of each, which now is another key."""
    keys: list[KeyPress] = []
    parser = Vt100Parser(keys.append)
    with suppress(OSError):
        while select.select([0], [], [], 0)[0] and len(keys) < MOST_AHEAD:
            line = os.read(0, 4096)
            if not line:
                break
            parser.feed(line.decode(errors="replace").replace("\n", "\r"))
    return keys


def trimmed(text: str) -> str:
    """Rendered lines without the blanks that fill them up, and without blank lines around them; at least one line."""
    lines = [_without_trailing_blanks(line) for line in text.split("\n")]
    while len(lines) > 1 and not lines[-1]:
        lines.pop()
    while len(lines) > 1 and not lines[0]:
        lines.pop(0)
    return "\n".join(lines) + "\n"


def _without_trailing_blanks(line: str) -> str:
    styled = False
    end = len(line)
    while end:
        if line[end - 1] == " ":
            end -= 1
            continue
        start = line.rfind("\x1b[", 0, end)
        if start < 0 or line[end - 1] != "m" or not line[start + 2 : end - 1].replace(";", "").isdecimal():
            break
        styled, end = True, start
    return line[:end] + ("\x1b[0m" if styled and end else "")
