"""One running engine, whichever it is: a `Backend` whose state one task owns."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Self

from corral.backends import ending, holding
from corral.backends.attachments import read_input
from corral.backends.backend import Answer, Choices, Input, Limits
from corral.backends.bounds import NOTICE_LENGTH
from corral.backends.engine import EngineKind
from corral.backends.engine import Opening as Conversation
from corral.backends.engine_process import EngineProcess
from corral.backends.errors import BackendError, TurnRunningError
from corral.backends.events import ApprovalRequested, BackendEnded, BackendStarted, Limit, Notice, TurnEnded, TurnEvent
from corral.backends.inbox import Claim, Inbox, Stop, resolve
from corral.backends.launch import Launch
from corral.backends.notices import Notices
from corral.backends.states import Ended, Ending, Failed, Fresh, Idle, InTurn, Launching, Opening, State, Stopping
from corral.backends.turn import DECLINE, Turn
from corral.printable import shortened
from corral.process import Job, Process
from corral.tasks import Tasks

if TYPE_CHECKING:
    from collections.abc import Sequence

log = logging.getLogger(__name__)

HANDED_TIMEOUT = 2.0  # seconds from the end of a turn to the reply that the engine took it
TASKS_TIMEOUT = 5.0  # seconds for the backend's own tasks to be gone, once the engine is
STEER_TIMEOUT = 5.0  # seconds for a turn to be taken before something can be folded into it
# A `break` out of `async for` lets go of the turn, but the loop closes the generator only some rounds later.
LOOP_ROUNDS = 5


class BackendProcess:
    """A `Backend` for any `EngineKind`, and the `Host` of its engine.

    It belongs to the event loop that it is started in. `async with BackendProcess(…) as backend` starts it with a new
    conversation and ends it. Once the command runs, one task (`_live`) changes the state; callers send it requests.
    """

    started: BackendStarted

    def __init__(self, kind: EngineKind, launch: Launch | None = None, limits: Limits | None = None) -> None:
        self.kind = kind
        self.launch = launch or Launch()
        self._limits = limits or Limits()
        self._state: State = Fresh()
        self._process: EngineProcess
        self._life: asyncio.Task[BackendEnded] | None = None
        self._inbox = Inbox()
        self._gone = ""
        """Why it is to be ended; the first reason counts."""
        self._end_asked = asyncio.Event()
        self._conversation = ""
        self._workspace = ""
        self._notices = Notices()
        self._tasks = Tasks(self._finished)

    # What it tells (corral.backends.backend.Backend).

    @property
    def job(self) -> Job:
        """The engine's job. Raises BackendError before there is one."""
        self._must_run()
        return self._process.job

    @property
    def conversation(self) -> str:
        return self._conversation

    @property
    def busy(self) -> bool:
        return self.turn is not None and not self.turn.over

    @property
    def approvals(self) -> tuple[ApprovalRequested, ...]:
        return self.turn.approvals if self.turn is not None else ()

    @property
    def limit(self) -> Limit | None:
        return self.turn.limit() if self.turn is not None and not self.turn.over else None

    @property
    def gone(self) -> str:
        return self._gone

    def tree(self) -> list[Process]:
        return self.job.tree()

    async def background(self) -> list[Process]:
        self._must_run()
        return await self._process.background()

    # What it is asked for.

    async def start(self, conversation: str | None = None) -> BackendStarted:
        if not isinstance(self._state, Fresh):
            raise BackendError("this backend was started before: make another one")
        launching = self._state = Launching()
        opening = Conversation(conversation or None, self.launch.folder())
        self._workspace = opening.workspace
        try:
            self._process = await self._launch(opening)
            self._state = Opening()
            started: asyncio.Future[BackendStarted] = asyncio.get_running_loop().create_future()
            self._life = Tasks(self._ending_failed).own(self._live(opening, started))
        except BaseException:
            self._state = Failed()
            raise
        finally:
            launching.over.set()
        try:
            self.started = await started
        except BaseException:
            await self.end()
            raise
        return self.started

    async def send(
        self, message: Input, *, choices: Choices | None = None, limits: Limits | None = None
    ) -> AsyncIterator[TurnEvent]:
        self._must_run()
        ready = await read_input(message, self.launch.account)
        turn = Turn(limits or self._limits, self._untold)
        try:
            for _ in range(LOOP_ROUNDS):
                if self._is_read:
                    await asyncio.sleep(0)
            if self._is_read:
                raise TurnRunningError("a turn is running: interrupt it, or wait for its end")
            if self._gone:
                turn.fail(self._gone)
            else:
                await self._inbox.claim(turn, ready, choices or Choices())
            while True:
                event = await turn.feed.get()
                yield event
                if isinstance(event, TurnEnded):
                    return
        finally:
            if not turn.over:
                turn.unread = True
                turn.stop(TurnEnded("interrupted", "its reader left"))

    async def steer(self, message: Input) -> bool:
        ready = await read_input(message, self.launch.account)
        turn = self.turn
        if turn is None or turn.stopped or await turn.taken(STEER_TIMEOUT) is None:
            return False
        return not turn.over and await self._process.engine.steer(turn, ready)

    async def interrupt(self, reason: str = "stopped on request") -> bool:
        turn = self.turn
        if turn is not None and not turn.over:
            turn.stop(TurnEnded("interrupted", reason))
            if isinstance(self._state, InTurn | Stopping):
                await self._state.done.wait()
            return await turn.ended(self._end_timeout)
        if self._gone or not isinstance(self._state, Idle | InTurn | Stopping):
            return False
        return await self._inbox.stop(reason)

    def answer(self, approval_id: str, answer: Answer) -> bool:
        return self.turn is not None and self.turn.answer(approval_id, answer)

    async def end(self) -> BackendEnded:
        if isinstance(self._state, Launching):
            await self._state.over.wait()
        life = self._must_run()
        self._ask_for_end("the backend was ended")
        return await asyncio.shield(life)

    async def hurry(self) -> None:
        if self._gone:
            await self._process.job.end(grace=0)

    async def wait(self) -> BackendEnded:
        if isinstance(self._state, Launching):
            await self._state.over.wait()
        return await asyncio.shield(self._must_run())

    async def __aenter__(self) -> Self:
        if isinstance(self._state, Fresh):
            await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.end()

    # What the engine asks for (corral.backends.engine.Host).

    @property
    def turn(self) -> Turn | None:
        """The turn that runs, or that is being stopped."""
        state = self._state
        return state.turn if isinstance(state, InTurn | Stopping | Ending) else None

    def remember(self, conversation: str) -> None:
        self._conversation = conversation

    def notice(self, message: str) -> None:
        message = shortened(message, NOTICE_LENGTH)
        turn = self.turn if self.busy else None
        if self._notices.add(message, told=turn is not None) and turn is not None:
            turn.put(Notice(message))

    def notice_of_host(self, message: str) -> None:
        if self.launch.tell_operator is not None:
            self.launch.tell_operator(shortened(message, NOTICE_LENGTH))
        else:
            self.notice(message)

    async def ask(self, approval: ApprovalRequested) -> Answer:
        turn = self.turn
        return await turn.ask(approval) if turn is not None else DECLINE

    def fail_turn(self, reason: str) -> None:
        if self.turn is not None:
            self.turn.stop(TurnEnded("failed", reason))

    @property
    def _is_read(self) -> bool:
        """Whether a turn runs whose reader has not left."""
        return self.busy and self.turn is not None and not self.turn.unread

    # The task that owns the state.

    async def _live(self, opening: Conversation, started: asyncio.Future[BackendStarted]) -> BackendEnded:
        """Hold one turn after the other until an end is asked for; then end the engine."""
        self._tasks.own(self._process.stderr.run())
        self._tasks.own(self._read())
        self._tasks.own(self._watch_job())
        serving = self._tasks.own(self._serve(opening, started))
        await self._end_asked.wait()
        serving.cancel()
        await asyncio.wait([serving])
        turn = self.turn
        self._state = Ending(turn)
        self._inbox.refuse(self._gone)
        if not started.done():
            started.set_exception(BackendError(f"{self.kind.name} did not start: {self._gone}"))
        try:
            ended = await ending.end(self._process, turn, self.launch.goodbye)  # bounded by the ladder
            await self._tasks.settle(TASKS_TIMEOUT)
            await self._process.engine.settle(TASKS_TIMEOUT)
        finally:
            if turn is not None:
                turn.fail(self._gone)  # in case the engine's output could not be read to its end
        self._state = Ended(ended)
        return ended

    async def _serve(self, opening: Conversation, started: asyncio.Future[BackendStarted]) -> None:
        try:
            opened = await self._process.open(opening)
        except BackendError as error:
            if not started.done():
                started.set_exception(error)
            self._ask_for_end(str(error))
            return
        if opened.resumed:
            self._conversation = opened.conversation
        self._state = Idle()
        resolve(started, opened)
        while not self._gone:
            match await self._inbox.get():
                case Claim() as claim:
                    await self._hold(claim)
                case Stop() as stop:
                    await self._stop_own_turn(stop)
            self._state = Idle()

    async def _hold(self, claim: Claim) -> None:
        """Hold a turn, from its claim until the next one may begin."""
        turn, done = claim.turn, asyncio.Event()
        self._state = InTurn(turn, done)
        stops = self._inbox.accept(claim)
        handing = None
        try:
            before = await self._process.look_if_possible()
            handing = self._tasks.own(self._hand_over(claim))
            await turn.run()
            if turn.stopped:
                self._state = Stopping(turn, done)
                if fault := await holding.stop(self._process, turn, before):
                    self._give_up(turn, fault)
            await asyncio.wait([handing], timeout=HANDED_TIMEOUT)
        finally:
            if handing is not None:
                handing.cancel()
            done.set()
            for stop in stops:
                resolve(stop.stopped, True)

    async def _stop_own_turn(self, stop: Stop) -> None:
        stopped = False
        try:
            stopped = await holding.stop_own_turn(self._process)
        finally:
            resolve(stop.stopped, stopped)

    async def _hand_over(self, claim: Claim) -> None:
        # The process stays in a folder that was removed, even if another of the same name is made.
        fault = await self.launch.folder_fault(self._workspace)
        fault = fault or await holding.hand_over(self._process, claim.turn, claim.message, claim.choices)
        if fault:
            self._give_up(claim.turn, fault)

    async def _read(self) -> None:
        """Read the engine until it ends, say so to the turn that runs, and have what it left ended."""
        how = await self._process.read()
        self._ask_for_end(f"{self.kind.name} {how}")
        if self.turn is not None:
            reason = f"{self.kind.name} {how} in the middle of the turn"
            self.turn.fail(self._process.with_last_words(reason))

    # Internals.

    async def _watch_job(self) -> None:
        """Fail the turn when the tree is ended without being asked: what the engine says while its commands die counts
        for nothing."""
        job = self._process.job
        await job.ending()
        if self._gone or job.returncode is not None:
            return
        why = f"the processes of {self.kind.name} are being ended: their reaper was killed, or told to end them"
        self._ask_for_end(why)
        self.fail_turn(why)

    def _give_up(self, turn: Turn, reason: str) -> None:
        """End a turn of which the engine may still think that it runs: the next one would be folded into it."""
        self._ask_for_end(f"{reason}; the backend was ended")
        turn.fail(reason)

    def _ask_for_end(self, why: str) -> None:
        self._gone = self._gone or why
        self._end_asked.set()

    async def _launch(self, opening: Conversation) -> EngineProcess:
        enters = self.launch.account is None or self.kind.starts_in_workspace
        # An engine that is only told of its folder would start all the same, and fail with every command.
        if not enters and (fault := await self.launch.folder_fault(opening.workspace)):
            raise BackendError(fault)
        folder = opening.workspace if enters else None
        job = await self.launch.start(self.kind.argv(opening), folder, self.kind.name)
        return EngineProcess(self.kind, job, self)

    def _must_run(self) -> asyncio.Task[BackendEnded]:
        if self._life is None:
            raise BackendError("this backend was not started")
        return self._life

    @property
    def _end_timeout(self) -> float:
        """Seconds that an ending may take."""
        return self.launch.goodbye + self.launch.grace + self.launch.kill + TASKS_TIMEOUT

    def _untold(self) -> Sequence[str]:
        """What was to be told between turns, or before the first."""
        return self._notices.untold((*self.launch.notices, *self._process.job.notices))

    def _finished(self, error: BaseException | None) -> None:
        if error is not None:
            log.error("a task of the %s backend failed", self.kind.name, exc_info=error)
            self._ask_for_end(f"a fault in corral: {error!r}")
            if self.turn is not None:
                self.turn.fail(f"a fault in corral: {error!r}")

    def _ending_failed(self, error: BaseException | None) -> None:
        if error is not None:
            log.error("the ending of the %s backend failed", self.kind.name, exc_info=error)
