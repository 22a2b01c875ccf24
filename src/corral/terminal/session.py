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
LEAVE_TIMEOUT = 60.0  # seconds from leaving to `closed`; a ladder is shorter

# A turn that another front end began, or that began before this one attached, has no TurnStarted here.
WORK = (TurnStarted, Text, Reasoning, ToolStarted, ToolOutput, ApprovalRequested)


class View(Front, Protocol):
    """The terminal's side: what shows a conversation and takes input for it."""

    def begin(self, seat: Seat) -> None:
        """Called when there is a seat: begin to take input."""

    def stopping(self) -> None:
        """Called when the turn is being stopped: say so, and how to leave."""

    def leaving(self) -> None:
        """Called when the session leaves: take no more input, and wait for no reader."""

    async def end(self) -> None:
        """Show no more, and restore the terminal."""


class Session:
    """One session: `hold` takes a seat, and returns when it is closed."""

    def __init__(self, *, strict: bool) -> None:
        """`strict`: a failed turn makes the exit status FAILED, for input that is not typed."""
        self.seat: Seat | None = None
        self.busy = False
        """Whether a message or a command is not done yet."""
        self.reason = ""
        """Why the service closed the seat; empty if it did not."""
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
        """Whether it is leaving."""
        return self._left is not None

    @property
    def status(self) -> int:
        """The exit status: that of `leave`; else FAILED if a process survived or, if strict, a turn failed."""
        return self._left or (FAILED if self._survivors or (self._strict and self._failures) else 0)

    async def hold(self, connector: Connector, view: View) -> None:
        """Take a seat, and return when it is closed; `leave` closes it."""
        self._view = view
        visiting = asyncio.get_running_loop().create_task(self._visit(connector, view))
        leaving = asyncio.get_running_loop().create_task(self._leaving.wait())
        try:
            await asyncio.wait([visiting, leaving], return_when=asyncio.FIRST_COMPLETED)
            if self.seat is None:
                visiting.cancel()  # there is no seat yet to leave
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
                self.reason = (
                    f"the agent was not reported ended within {LEAVE_TIMEOUT:g} s: `corral ps` shows what is left"
                )
                self._left = self._left or FAILED

    # Called by the view, with what the seat shows.

    def note(self, event: Shown) -> None:
        """Note what counts for `busy` and for the exit status."""
        if isinstance(event, WORK):
            self.busy = True
        elif isinstance(event, TurnEnded):
            self._failures += event.status in ("failed", "timed_out")
        elif isinstance(event, BackendEnded):
            self._survivors = self._survivors or not event.report.empty

    def idle(self) -> None:
        """Nothing runs and nothing waits."""
        self.busy = False
        self._interrupts = 0

    def closed(self, reason: str) -> None:
        """The seat is closed."""
        self.reason = reason
        self._closed.set()
        self.leave(FAILED if reason else 0)

    # Called by the view, for the person.

    def send(self, text: str) -> None:
        """Send a message to the agent."""
        if self.seat is not None and not self.left:
            self.busy = True
            self.seat.send(Input(text))

    def command(self, line: str) -> None:
        """Run a command."""
        if self.seat is not None and not self.left:
            self.busy = True
            self.seat.command(line)

    def interrupt(self) -> None:
        """Ctrl-C: stop the turn; if none runs, or at the second press, leave; while leaving, hurry."""
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
        """Leave; the first status counts."""
        if self._left is None:
            self._left = status
            self._leaving.set()
            if self._view is not None:
                self._view.leaving()

    def on_signal(self, number: int) -> None:
        """INT acts as Ctrl-C; TERM and HUP leave; INT or TERM while leaving hurries.

        A terminal that goes away sends several signals at once, HUP among them, so HUP never hurries.
        """
        if number == signal.SIGINT or (self.left and number != signal.SIGHUP):
            self.interrupt()
        else:
            self.leave(128 + number)


class Signals:
    """Calls a function for INT, TERM and HUP while the context lasts."""

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
