"""A terminal as a person sees it: a pseudo-terminal whose other side is a terminal emulator (pyte)."""

import fcntl
import os
import struct
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass, field
from typing import Any, TypeVar

import pyte

from corral.terminal.activity import FRAMES
from tests.harness.service import Service
from tests.harness.stage import Account
from tests.harness.waiting import until

TIMEOUT = 40.0  # seconds
COLUMNS, ROWS = 100, 30
E = TypeVar("E", bound="Emulated")


class Scrolling(pyte.HistoryScreen):  # type: ignore[misc]  # pyte has no types
    """A screen that keeps what is erased all at once, as tmux does: it scrolls that into the history."""

    def erase_in_display(self, how: int = 0, *args: Any, **more: Any) -> None:
        if how == 0 and (self.cursor.x, self.cursor.y) == (0, 0):
            written = max((y for y, row in enumerate(self.display) if row.strip()), default=-1)
            self.history.top.extend(copy(self.buffer[y]) for y in range(written + 1))
        super().erase_in_display(how, *args, **more)


@dataclass
class Emulated:
    """A program on an emulated terminal."""

    process: subprocess.Popen[bytes]
    terminal: int
    slave: int
    before: list[object]
    """The attributes of the terminal before the program ran."""
    raw: bytes = b""
    gone: bool = False
    emulator: pyte.HistoryScreen = field(default_factory=lambda: Scrolling(COLUMNS, ROWS, history=5000))

    def __post_init__(self) -> None:
        self._stream = pyte.ByteStream(self.emulator)

    def read(self) -> None:
        """Take what is there."""
        try:
            while data := os.read(self.terminal, 65536):
                self.raw += data
                self._stream.feed(data)
        except OSError:  # nothing there now, or nobody writes any more
            pass

    @property
    def rows(self) -> list[str]:
        """What is on the screen now."""
        self.read()
        return [row.rstrip() for row in self.emulator.display]

    @property
    def screen(self) -> str:
        """All that there is to be seen, scrolling back."""
        rows = self.rows
        above = [
            "".join(row[x].data for x in range(self.emulator.columns)).rstrip() for row in self.emulator.history.top
        ]
        return "\n".join([*above, *rows]).rstrip()

    @property
    def line(self) -> str:
        """The line with the cursor."""
        line: str = self.rows[self.emulator.cursor.y]
        return line

    @property
    def spinning(self) -> str:
        """The line with the spinner, if there is one."""
        return next((row for row in self.rows if row and row[0] in FRAMES), "")

    @property
    def attributes(self) -> list[object]:
        return termios.tcgetattr(self.slave)

    @property
    def echoes(self) -> bool:
        """Whether the terminal shows what is typed."""
        return bool(termios.tcgetattr(self.slave)[3] & termios.ECHO)

    def type(self, text: str) -> None:
        os.write(self.terminal, text.encode())

    def enter(self, text: str) -> None:
        self.type(f"{text}\r")

    def resize(self, rows: int, columns: int) -> None:
        self.emulator.resize(rows, columns)
        fcntl.ioctl(self.terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    @property
    def untaken(self) -> int:
        """How many bytes the program has written that nobody has read."""
        return int.from_bytes(fcntl.ioctl(self.terminal, termios.FIONREAD, bytes(4)), sys.byteorder)

    def vanish(self) -> None:
        """The terminal goes away, as a window that is closed."""
        os.close(self.terminal)
        os.close(self.slave)
        self.gone = True

    async def until(self, condition: Callable[[], object], what: str) -> None:
        await until(condition, TIMEOUT, what, lambda: self.screen)

    async def shows(self, text: str, times: int = 1) -> None:
        await self.until(lambda: self.screen.count(text) >= times, f"it showed {text!r} {times} times")

    async def prompts(self) -> None:
        await self.until(lambda: self.line.startswith(">") and not self.spinning, "it prompted, and was idle")

    async def exited(self) -> int:
        def ended() -> bool:
            self.read()
            return self.process.poll() is not None

        await self.until(ended, "it ended")
        self.read()
        return self.process.returncode


@contextmanager
def on_screen(
    service: Service,
    argv: Sequence[str],
    env: dict[str, str] | None = None,
    kind: Callable[..., E] = Emulated,  # type: ignore[assignment]  # a default of a generic parameter
    account: Account | None = None,
) -> Iterator[E]:
    """Start a program with a new pseudo-terminal as its controlling terminal."""
    master, slave = os.openpty()
    os.set_blocking(master, False)
    fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    try:
        before = termios.tcgetattr(slave)
        # Not the leader of a group yet, setsid makes itself one without a fork: the pid is the program's.
        process = service.start(
            ["setsid", "-c", *argv],
            account=account,
            env={"TERM": "xterm-256color", **(env or {})},
            stdin=slave,
            stdout=slave,
            stderr=slave,
        )
        shown = kind(process, master, slave, before)
    except BaseException:
        os.close(master)
        os.close(slave)
        raise
    try:
        yield shown
    finally:
        if not shown.gone:
            shown.vanish()
