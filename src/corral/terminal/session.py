"""One session of the terminal at a seat: what is said there, what begins its end, and the exit status."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from corral.backends.backend import Input
from corral.backends.events import (
    ApprovalRequested,
    BackendEnded,
    Reasoning,
    Text,
    ToolOutput,
    ToolStarted,
    TurnEnded,
    TurnStarted,
)
from corral.service.front import Front, Seat, Shown

if TYPE_CHECKING:
    from corral.terminal.connectors import Connector

FAILED = 1
LEAVE_TIMEOUT = 60.0  # seconds from leaving to the seat's last word; a ladder is shorter

# A turn that somebody else began, or that began before this front end came, has no TurnStarted here.
WORK = (TurnStarted, Text, Reasoning, ToolStarted, ToolOutput, ApprovalRequested)


class View(Front, Protocol):
    """A front end that a person, or a program, sits before."""

    def begin(self, seat: Seat) -> None:
        """There is a seat: begin to take input."""

    def stopping(self) -> None:
        """Tell that the turn is being stopped, and how to leave."""

    def leaving(self) -> None:
        """It is time to leave: take no more input, and wait for nobody."""

    async def end(self) -> None:
        """Show no more, and leave the terminal as it was."""


class Session:
    """Held by `hold`, from the seat's beginning to its last word."""

    def __init__(self, *, strict: bool) -> None:
        """`strict`: whether a turn that fails makes the whole fail, because nobody sits there to see it."""
        self.seat: Seat | None = None
        self.busy = False
        """Whether something was said that is not done."""
        self.reason = ""
        """Why the seat was taken away, if it was."""
        self._strict = strict
        self._view: View | None = None
        self._left: int | None = None
        self._interrupts = 0
        self._failures = 0
        self._survivors = False
        self._leaving = asyncio.Event()
        self._closed = asyncio.Event()

    @property
    def left(self) -> bool:
        """Whether it is on its way out."""
        return self._left is not None

    @property
    def status(self) -> int:
        """Of the exit: that of `leave`; else FAILED if something survived or, for a strict session, a turn failed."""
        return self._left or (FAILED if self._survivors or (self._strict and self._failures) else 0)

    async def hold(self, connector: Connector, view: View) -> None:
        """Take a seat, and stay until it is closed; it is left by `leave`."""
        self._view = view
        visiting = asyncio.get_running_loop().create_task(self._visit(connector, view))
        leaving = asyncio.get_running_loop().create_task(self._leaving.wait())
        try:
            await asyncio.wait([visiting, leaving], return_when=asyncio.FIRST_COMPLETED)
            if self.seat is None:
                visiting.cancel()  # there is nothing yet that could be left
            await asyncio.wait([visiting])
        finally:
            leaving.cancel()
            visiting.cancel()
        if not visiting.cancelled():
            visiting.result()

    async def _visit(self, connector: Connector, view: View) -> None:
        async with connector(view) as seat:
            self.seat = seat
            view.begin(seat)
            await self._leaving.wait()
            if not self._closed.is_set():
                seat.leave()
            try:
                async with asyncio.timeout(LEAVE_TIMEOUT):
                    await self._closed.wait()
            except TimeoutError:
                self.reason = f"the agent's end was not told in {LEAVE_TIMEOUT:g} s; `corral ps` shows what is left"
                self._left = self._left or FAILED

    # What the front end hears.

    def note(self, event: Shown) -> None:
        """Take notice of what counts for the exit status."""
        if isinstance(event, WORK):
            self.busy = True
        elif isinstance(event, TurnEnded):
            self._failures += event.status in ("failed", "timed_out")
        elif isinstance(event, BackendEnded):
            self._survivors = self._survivors or not event.report.empty

    def idle(self) -> None:
        """Nothing is left to be done."""
        self.busy = False
        self._interrupts = 0

    def closed(self, reason: str) -> None:
        """The seat is closed."""
        self.reason = reason
        self._closed.set()
        self.leave(FAILED if reason else 0)

    # What the front end does.

    def send(self, text: str) -> None:
        """Say something to the agent."""
        if self.seat is not None and not self.left:
            self.busy = True
            self.seat.send(Input(text))

    def command(self, line: str) -> None:
        """Do what a command says."""
        if self.seat is not None and not self.left:
            self.busy = True
            self.seat.command(line)

    def interrupt(self) -> None:
        """Ctrl-C: stop the turn; without one, or for the second time, leave; on the way out, hurry."""
        if self.left:
            if self.seat is not None:
                self.seat.hurry()
        elif self.busy and not self._interrupts and self.seat is not None and self._view is not None:
            self._interrupts += 1
            self._view.stopping()
            self.seat.interrupt()
        else:
            self.leave(0)

    def leave(self, status: int) -> None:
        """It is time to go; the first status counts."""
        if self._left is None:
            self._left = status
            self._leaving.set()
            if self._view is not None:
                self._view.leaving()

    def on_signal(self, number: int) -> None:
        """INT as Ctrl-C; TERM and HUP leave, and INT or TERM on the way out hurries.

        A terminal that goes away is told in several ways at once, HUP among them: that is no impatience.
        """
        if number == signal.SIGINT or (self.left and number != signal.SIGHUP):
            self.interrupt()
        else:
            self.leave(128 + number)


class Signals:
    """INT, TERM and HUP to a function while it lasts; stopped jobs and the rest stay the shell's matter."""

    NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def __init__(self, on_signal: Callable[[int], None]) -> None:
        self._on_signal = on_signal
        self._loop = asyncio.get_running_loop()

    def __enter__(self) -> None:
        for number in self.NUMBERS:
            self._loop.add_signal_handler(number, self._on_signal, number)

    def __exit__(self, *_: object) -> None:
        for number in self.NUMBERS:
            self._loop.remove_signal_handler(number)
