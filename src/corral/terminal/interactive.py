"""A chat on a terminal: what an agent says above, what the person types below, and what goes on between them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from corral.backends.events import ApprovalRequested, Notice, TurnEnded
from corral.display.wording import question as worded
from corral.service.front import CommandHelp, Reply, Seat, Shown
from corral.tasks import Tasks
from corral.terminal import keys, prompt
from corral.terminal.activity import FRAME, LEAVING, STOPPING, WAITING, Activity, Fragments
from corral.terminal.approving import Approver
from corral.terminal.history import history_file, history_of
from corral.terminal.plain import QUIT
from corral.terminal.render import in_columns
from corral.terminal.screen import Screen
from corral.terminal.session import FAILED
from corral.terminal.transcript import Transcript

if TYPE_CHECKING:
    from rich.console import RenderableType

    from corral.backends.backend import Answer
    from corral.backends.events import Decision
    from corral.terminal.output import Output
    from corral.terminal.session import Session

log = structlog.get_logger(__name__)

LIVE_LINES = 8
SURPRISE = 0.4  # seconds after a question within which a key was meant for something else
KEYS = """\
Enter sends; Alt-Enter and Ctrl-J begin a new line; Ctrl-R searches what you typed before.
Ctrl-C stops the turn, and pressed again leaves; so do Ctrl-D on an empty line, and /quit."""
QUIT_HELP = CommandHelp("/quit", "", "end the agent and leave")


class Interactive:
    """The terminal's side of a session (a corral.terminal.session.View)."""

    def __init__(self, session: Session, output: Output, state_dir: Path | None) -> None:
        self._session = session
        self._output = output
        self._state_dir = state_dir
        self._approver = Approver(self._answer)
        self._activity = Activity(lambda: self._approver.current is not None)
        self._transcript = Transcript(self._put)
        self._asked: tuple[str, float] = ("", 0.0)
        self._early: list[RenderableType] = []
        self._screen: Screen | None = None
        self._tasks = Tasks(_log_fault)

    def begin(self, seat: Seat) -> None:
        welcome = seat.welcome
        path = history_file(self._state_dir, welcome.person) if self._state_dir is not None else None
        history = history_of(path, lambda why: self.show(Notice(why)))
        self._buffer = prompt.buffer_with(history, [*welcome.commands, QUIT_HELP])
        shows = prompt.Shows(_careful(self._live), _careful(self._status), _careful(self._prompt), self._secret)
        layout = prompt.build(self._buffer, shows)
        self._screen = Screen(
            self._output, layout, keys.bindings(self._buffer, self), lambda: self._session.leave(FAILED)
        )
        for block in self._early:
            self._screen.put(block)
        self._screen.start()
        self._tasks.own(self._spin())

    def stopping(self) -> None:
        self._activity.do(STOPPING)
        self._refresh()

    def leaving(self) -> None:
        self._output.stop_waiting()
        self._activity.do(LEAVING, last=True)
        self._approver.forget()
        self._refresh()

    async def end(self) -> None:
        self._tasks.cancel()
        if self._screen is not None:
            await self._screen.stop()

    # Called by the seat (corral.service.front.Front).

    def show(self, event: Shown) -> None:
        self._session.note(event)
        self._activity.note(event)
        self._approver.see(event)
        self._transcript.show(event)
        if isinstance(event, TurnEnded):
            self._approver.forget()
        elif isinstance(event, Reply) and event.about == "help":
            self._transcript.show(Reply(KEYS))
        self._ask()
        self._refresh()

    async def ready(self) -> None:
        await self._output.ready()

    def idle(self) -> None:
        self._session.idle()
        self._activity.idle()
        self._refresh()

    def closed(self, reason: str) -> None:
        self._session.closed(reason)

    # Called by the keys (corral.terminal.keys.Handler).

    def enter(self) -> None:
        text, secret = self._buffer.text, self._secret()
        if self._session.left:
            return
        if self._is_command(text, secret=secret):
            self._keep()
            self._transcript.said(text)
            self._command(text)
        elif self._approver.answer(text):
            self._buffer.reset()
            self._transcript.said("•••" if secret else text)
        elif self._approver.question is not None:
            self.show(Notice(self._approver.waiting))
        elif text.strip():
            self._keep()
            self._transcript.said(text.strip())
            self._say(text.strip())
        self._ask()

    def interrupt(self) -> None:
        if self._buffer.text and not self._session.busy and not self._session.left:
            self._buffer.reset()
        else:
            self._session.interrupt()

    def leave(self) -> None:
        self._session.leave(0)

    def suspend(self) -> None:
        if self._screen is not None:
            self._screen.suspend()

    def can_decide(self, decision: Decision) -> bool:
        return self._approver.offers(decision) and time.monotonic() - self._asked[1] > SURPRISE

    def decide(self, decision: Decision) -> None:
        self._approver.decide(decision)
        self._ask()

    # Internals.

    def _is_command(self, text: str, *, secret: bool) -> bool:
        if not text.startswith("/"):
            return False
        # A password may begin with a slash.
        name = text.split(maxsplit=1)[0]
        seat = self._session.seat
        return not secret or (seat is not None and name in (*QUIT, *(one.name for one in seat.welcome.commands)))

    def _command(self, line: str) -> None:
        if line.split(maxsplit=1)[0] in QUIT:
            self._session.leave(0)
            return
        self._begin_work()
        self._session.command(line)

    def _say(self, text: str) -> None:
        self._begin_work()
        self._session.send(text)
        if self._approver.current is not None:
            self.show(Notice(f"a question is open: {self._approver.waiting}"))

    def _begin_work(self) -> None:
        if not self._session.busy:
            self._activity.do(WAITING)

    def _keep(self) -> None:
        """Take the line, and keep it in the history."""
        self._buffer.append_to_history()
        self._buffer.reset()

    def _answer(self, approval_id: str, answer: Answer) -> None:
        if self._session.seat is not None:
            self._session.seat.answer(approval_id, answer)

    def _ask(self) -> None:
        """Show what is asked, when it is its turn."""
        approval, question = self._approver.current, self._approver.question
        if approval is None:
            self._asked = ("", 0.0)
            return
        name = f"{approval.approval_id} {question.question_id if question else ''}"
        if name != self._asked[0]:
            if not self._asked[0].startswith(f"{approval.approval_id} "):
                self._request(approval)
            self._asked = (name, time.monotonic())

    def _request(self, approval: ApprovalRequested) -> None:
        self._transcript.request(approval, "  ".join(self._approver.keys))

    def _put(self, block: RenderableType) -> None:
        if self._screen is None:
            self._early.append(block)
        else:
            self._screen.put(block)

    def _refresh(self) -> None:
        if self._screen is not None:
            self._screen.refresh()

    async def _spin(self) -> None:
        while True:
            await asyncio.sleep(FRAME)
            if self._activity.running:
                self._refresh()

    # Drawing.

    def _live(self) -> Fragments:
        assert self._screen is not None
        height = max(1, min(LIVE_LINES, self._screen.rows // 3))
        return self._transcript.live(self._screen.columns, height)

    def _status(self) -> Fragments:
        assert self._screen is not None
        return self._activity.line(self._screen.columns)

    def _prompt(self) -> Fragments:
        question = self._approver.question
        if question is not None:
            assert self._screen is not None
            asked = in_columns(" ".join(worded(question).split()), self._screen.columns // 2)
            return [("ansiyellow", asked), ("class:prompt", " > ")]
        if self._approver.current is not None:
            keys = "/".join(key[0] for key in self._approver.keys)
            return [("ansiyellow", f"{keys} "), ("class:prompt", prompt.PROMPT)]
        return [("class:prompt", prompt.PROMPT)]

    def _secret(self) -> bool:
        question = self._approver.question
        return question is not None and question.secret


def _careful(draw: Callable[[], Fragments]) -> Callable[[], Fragments]:
    """What is drawn, or nothing: a fault in drawing must not freeze the screen, or the keys that leave it."""

    def drawn() -> Fragments:
        try:
            return draw()
        except Exception as error:  # noqa: BLE001 - whatever the text of an agent brings about
            log.warning("a line could not be drawn", error=repr(error))
            return []

    return drawn


def _log_fault(error: BaseException | None) -> None:
    if error is not None:
        log.error("the status line is no longer drawn", exc_info=error)
