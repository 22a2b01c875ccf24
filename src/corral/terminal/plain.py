"""A chat over pipes, files and dumb terminals: a line is a message, and events are printed as they come."""

from __future__ import annotations

import asyncio
import sys
import termios
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING

from corral.backends.events import Notice, TurnEnded
from corral.service.front import Seat, Shown
from corral.terminal.approving import Approver
from corral.terminal.lines import MOST_BYTES, Lines
from corral.terminal.session import FAILED

if TYPE_CHECKING:
    from corral.backends.backend import Answer
    from corral.terminal.output import Output
    from corral.terminal.printing import Printer
    from corral.terminal.session import Session

QUIT = ("/quit", "/exit")
# A file of a hundred messages becomes a hundred turns without filling the queue: one runs, one waits.
MOST_AHEAD = 2
MOST_HELD = 1000  # messages read ahead, above which the input waits
ENDING = ("/stop", "/new")
MOVING = ("/engine", "/workspace", "/resume")


class Plain:
    """Lines in, lines out (a corral.terminal.session.View)."""

    def __init__(self, session: Session, output: Output, printer: Printer, *, asks: bool) -> None:
        self._session = session
        self._output = output
        self._printer = printer
        self._approver = Approver(self._decide, None if asks else self._decline)
        self._lines = Lines(0, self._take, self._ended, self._refuse)
        self._held: deque[str] = deque()
        self._ahead = 0
        self._over = self._finished = False
        self._echo = _Echo()

    def begin(self, seat: Seat) -> None:  # noqa: ARG002 - the session has it
        if sys.stdin is None:  # closed: the descriptor may be anything by now
            self._ended()
        else:
            self._lines.start()

    def stopping(self) -> None:
        self._printer.entered()  # the terminal has shown ^C
        self.show(Notice("stopping the turn; Ctrl-C again leaves"))

    def leaving(self) -> None:
        self._output.stop_waiting()
        self._lines.close()
        self._held.clear()

    async def end(self) -> None:
        self._lines.close()
        self._echo.set(shown=True)
        self._printer.fresh_line()

    # Called by the seat (corral.service.front.Front).

    def show(self, event: Shown) -> None:
        self._session.note(event)
        self._printer.show(event)
        self._approver.see(event)
        if isinstance(event, TurnEnded):
            self._approver.forget()
            self._ahead = max(0, self._ahead - 1)
            self._send_held()
        self._set_echo()

    async def ready(self) -> None:
        await self._output.ready()

    def idle(self) -> None:
        self._session.idle()
        self._ahead = 0
        self._send_held()
        # Behind the other lines of this read, which may leave nothing to prompt for.
        asyncio.get_running_loop().call_soon(self._prompt_if_idle)

    def closed(self, reason: str) -> None:
        self._session.closed(reason)

    # Input.

    def _take(self, line: str) -> None:
        self._printer.entered()
        if self._session.left:
            return
        if line.startswith("/"):
            self._command(line)
        elif self._approver.answer(line):
            if wanted := self._approver.waiting:
                self.show(Notice(wanted))
        elif self._approver.question is not None:
            self.show(Notice(self._approver.waiting))
        elif line.strip():
            self._held.append(line.strip())
            self._send_held()
            if len(self._held) >= MOST_HELD:
                self._lines.pause()
            if wanted := self._approver.waiting:
                self.show(Notice(f"a question is open: {wanted}"))
        else:
            self._prompt_if_idle()
        self._set_echo()

    def _refuse(self) -> None:
        self.show(Notice(f"not sent: a line may have at most {MOST_BYTES >> 20} MB"))
        self._session.leave(FAILED)

    def _ended(self) -> None:
        self._over = True
        self._send_held()

    def _send_held(self) -> None:
        if self._session.seat is None:
            return  # there is no seat yet to send it to
        while self._held and self._ahead < MOST_AHEAD:
            self._ahead += 1
            self._session.send(self._held.popleft())
        if self._held or self._session.left:
            return
        self._lines.start()
        if self._over and not self._finished:
            self._finished = True
            self._session.seat.finish()

    def _command(self, line: str) -> None:
        name, _, argument = line.strip().partition(" ")
        if name in QUIT:
            self._session.leave(0)
            return
        if name in ENDING or (name in MOVING and argument):
            while self._held:
                self.show(Notice(f"not sent: {self._held.popleft()}"))
        self._session.command(line)

    def _decide(self, approval_id: str, answer: Answer) -> None:
        if self._session.seat is not None:
            self._session.seat.answer(approval_id, answer)

    def _decline(self, approval_id: str) -> None:
        if self._session.seat is not None:
            self._session.seat.decline(approval_id)

    def _prompt_if_idle(self) -> None:
        if not (self._session.busy or self._session.left):
            self._printer.prompt()

    def _set_echo(self) -> None:
        question = self._approver.question
        self._echo.set(shown=question is None or not question.secret)


class _Echo:
    """Turns the terminal's echo on and off."""

    def __init__(self) -> None:
        self._shown = True

    def set(self, *, shown: bool) -> None:
        """Set it, if there is a terminal."""
        if shown != self._shown:
            self._shown = shown
            with suppress(termios.error):
                attributes = termios.tcgetattr(0)
                attributes[3] = attributes[3] | termios.ECHO if shown else attributes[3] & ~termios.ECHO
                termios.tcsetattr(0, termios.TCSANOW, attributes)
