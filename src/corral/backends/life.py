"""The life of a backend: one task owns its state, and moves it from the start of its engine to a verdict."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from corral.backends import ending, holding
from corral.backends.errors import BackendError
from corral.backends.events import TurnEnded
from corral.backends.inbox import Claim, Inbox, Stop, resolve
from corral.backends.states import Ended, Ending, Failed, Fresh, Idle, InTurn, Launching, Opening, State, Stopping
from corral.tasks import Tasks

if TYPE_CHECKING:
    from corral.backends.attachments import Message
    from corral.backends.backend import Choices
    from corral.backends.engine import Opening as Conversation
    from corral.backends.engine_process import EngineProcess
    from corral.backends.events import BackendEnded, BackendStarted
    from corral.backends.launch import Launch
    from corral.backends.turn import Turn

log = logging.getLogger(__name__)

HANDED_TIMEOUT = 2.0  # seconds from the end of a turn to the reply that the engine took it
TASKS_TIMEOUT = 5.0  # seconds for the backend's own tasks to be gone, once the engine is


class Life:
    """The state of one backend, and the requests of its callers. Once the command runs, `_live` alone changes it."""

    def __init__(self, launch: Launch) -> None:
        self.state: State = Fresh()
        self.gone = ""
        """Why it is to be ended; empty while turns can be held. The first reason counts."""
        self._launch = launch
        self._workspace = ""
        self._process: EngineProcess
        self._inbox = Inbox()
        self._end_asked = asyncio.Event()
        self._living: asyncio.Task[BackendEnded] | None = None
        self._tasks = Tasks(self._finished)

    @property
    def turn(self) -> Turn | None:
        """The turn that runs, or that is being stopped; it may be over."""
        return self.state.turn if isinstance(self.state, InTurn | Stopping | Ending) else None

    @property
    def process(self) -> EngineProcess:
        """The engine's process. Raises BackendError before there is one."""
        self._task()
        return self._process

    # Requests.

    async def start(
        self, start_process: Callable[[], Awaitable[EngineProcess]], conversation: Conversation
    ) -> BackendStarted:
        """Start the engine, and open the conversation; nothing is left running if that fails."""
        if not isinstance(self.state, Fresh):
            raise BackendError("this backend was started before: make another one")
        launching = self.state = Launching()
        self._workspace = conversation.workspace
        try:
            self._process = await start_process()
            self.state = Opening()
            started: asyncio.Future[BackendStarted] = asyncio.get_running_loop().create_future()
            self._living = Tasks(self._ending_failed).own(self._live(conversation, started))
        except BaseException:
            self.state = Failed()
            raise
        finally:
            launching.over.set()
        try:
            return await started
        except BaseException:
            await self.end()
            raise

    async def claim(self, turn: Turn, message: Message, choices: Choices) -> None:
        """Wait for the turn's place, also behind a turn that is being stopped. Raises TurnRunningError."""
        if self.gone:
            turn.fail(self.gone)
        else:
            await self._inbox.claim(turn, message, choices)

    async def interrupt(self, reason: str) -> bool:
        """Stop what runs, and wait for its end; False if nothing ran."""
        turn = self.turn
        if turn is not None and not turn.over:
            turn.stop(TurnEnded("interrupted", reason))
            if isinstance(self.state, InTurn | Stopping):
                await self.state.done.wait()
            launch = self._launch
            return await turn.ended(launch.goodbye + launch.grace + launch.kill + TASKS_TIMEOUT)
        if self.gone or not isinstance(self.state, Idle | InTurn | Stopping):
            return False
        return await self._inbox.stop(reason)

    async def end(self) -> BackendEnded:
        """End the engine; callers share one ending, and one who is cancelled does not cut it short."""
        await self._launched()
        living = self._task()
        self._ask_for_end("the backend was ended")
        return await asyncio.shield(living)

    async def wait(self) -> BackendEnded:
        """Wait until it has ended."""
        await self._launched()
        return await asyncio.shield(self._task())

    # The task that owns the state.

    async def _live(self, conversation: Conversation, started: asyncio.Future[BackendStarted]) -> BackendEnded:
        """Hold one turn after the other until an end is asked for; then end the engine."""
        self._tasks.own(self._process.stderr.run())
        self._tasks.own(self._read())
        self._tasks.own(self._watch_job())
        serving = self._tasks.own(self._serve(conversation, started))
        try:
            await self._end_asked.wait()
        except asyncio.CancelledError:
            # asyncio.run cancels every task when it is interrupted, and then waits for them: the engine is ended first.
            self._ask_for_end("the event loop is being closed")
            task = asyncio.current_task()
            assert task is not None, "it runs in one"
            task.uncancel()  # or a timeout below would pass for another cancellation
        serving.cancel()
        await asyncio.wait([serving])
        turn = self.turn
        self.state = Ending(turn)
        self._inbox.refuse(self.gone)
        if not started.done():
            started.set_exception(BackendError(f"{self._process.name} did not start: {self.gone}"))
        try:
            ended = await ending.end(self._process, turn, self._launch.goodbye)  # bounded by the ladder
            await self._tasks.settle(TASKS_TIMEOUT)
            await self._process.engine.settle(TASKS_TIMEOUT)
        finally:
            if turn is not None:
                turn.fail(self.gone)  # in case the engine's output could not be read to its end
        self.state = Ended(ended)
        return ended

    async def _serve(self, conversation: Conversation, started: asyncio.Future[BackendStarted]) -> None:
        try:
            opened = await self._process.open(conversation)
        except BackendError as error:
            if not started.done():
                started.set_exception(error)
            self._ask_for_end(str(error))
            return
        self.state = Idle()
        resolve(started, opened)
        while not self.gone:
            match await self._inbox.get():
                case Claim() as claim:
                    await self._hold(claim)
                case Stop() as stop:
                    await self._stop_own_turn(stop)
            self.state = Idle()

    async def _hold(self, claim: Claim) -> None:
        """Hold a turn, from its claim until the next one may begin."""
        turn, done = claim.turn, asyncio.Event()
        self.state = InTurn(turn, done)
        stops = self._inbox.accept(claim)
        handing = None
        try:
            before = await self._process.look_if_possible()
            handing = self._tasks.own(self._hand_over(claim))
            await turn.run()
            if turn.stopped:
                self.state = Stopping(turn, done)
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
        fault = await self._launch.folder_fault(self._workspace)
        fault = fault or await holding.hand_over(self._process, claim.turn, claim.message, claim.choices)
        if fault:
            self._give_up(claim.turn, fault)

    # Why it ends.

    async def _read(self) -> None:
        """Read the engine until it ends, say so to the turn that runs, and have what it left ended."""
        how = await self._process.read()
        self._ask_for_end(f"{self._process.name} {how}")
        if self.turn is not None:
            reason = f"{self._process.name} {how} in the middle of the turn"
            self.turn.fail(self._process.with_last_words(reason))

    async def _watch_job(self) -> None:
        """Fail the turn when the tree is ended without being asked.

        Its commands die first, and what the engine makes of that is not the turn that the person asked for.
        """
        job = self._process.job
        await job.ending()
        if self.gone or job.returncode is not None:
            return
        why = f"the processes of {self._process.name} are being ended: their reaper was killed, or told to end them"
        self._ask_for_end(why)
        if self.turn is not None:
            self.turn.stop(TurnEnded("failed", why))

    def _give_up(self, turn: Turn, reason: str) -> None:
        """End a turn of which the engine may still think that it runs: the next one would be folded into it."""
        self._ask_for_end(f"{reason}; the backend was ended")
        turn.fail(reason)

    def _ask_for_end(self, why: str) -> None:
        self.gone = self.gone or why
        self._end_asked.set()

    def _finished(self, error: BaseException | None) -> None:
        if error is not None:
            log.error("a task of the %s backend failed", self._process.name, exc_info=error)
            self._ask_for_end(f"a fault in corral: {error!r}")
            if self.turn is not None:
                self.turn.fail(f"a fault in corral: {error!r}")

    def _ending_failed(self, error: BaseException | None) -> None:
        if error is not None:
            log.error("the ending of the %s backend failed", self._process.name, exc_info=error)

    # Internals.

    async def _launched(self) -> None:
        if isinstance(self.state, Launching):
            await self.state.over.wait()

    def _task(self) -> asyncio.Task[BackendEnded]:
        if self._living is None:
            raise BackendError("this backend was not started")
        return self._living
