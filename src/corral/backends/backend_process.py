"""One running engine, whichever it is: its turns, its limits, and an end that is proven."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from typing import Any, Self

from corral.backends.approvals import Approvals
from corral.backends.attachments import Message, read_input
from corral.backends.backend import Answer, Choices, Input, Limits
from corral.backends.bounds import NOTICE_LENGTH
from corral.backends.engine import Engine, EngineKind, Opening
from corral.backends.errors import (
    BackendError,
    ConnectionEndedError,
    LookError,
    RefusedError,
    ResumeError,
    TurnRunningError,
)
from corral.backends.events import (
    ApprovalRequested,
    BackendEnded,
    BackendStarted,
    Notice,
    Step,
    StepName,
    TurnEnded,
    TurnEvent,
)
from corral.backends.launch import Launch
from corral.backends.stderr import ErrorOutput
from corral.backends.turn import Turn
from corral.printable import shortened
from corral.process import Job, JobError, Process
from corral.tasks import Tasks
from corral.workers import Workers

log = logging.getLogger(__name__)

OPEN_TIMEOUT = 60.0  # seconds until an engine that was started must be ready
INTERRUPT_TIMEOUT = 5.0  # seconds for an engine to confirm that it stopped
INTERRUPT_PAUSE = 0.1  # seconds until a turn that did not end is interrupted again
STEER_TIMEOUT = 5.0  # seconds for a turn to be taken before something can be folded into it
STATUS_TIMEOUT = 2.0  # seconds between the end of the engine's output and its status, and the other way round
TASKS_TIMEOUT = 5.0  # seconds for the backend's own tasks to be gone, once the engine is
MOST_NOTICES = 500  # that are remembered as told
# A `break` out of `async for` lets go of the turn, but the loop closes the generator only some rounds later.
LOOP_ROUNDS = 5
LOOK_TIMEOUT = 5.0  # seconds for a look at the process table
LATE_LOOKS_TIMEOUT = 1.0  # seconds that a report waits for the looks which tell what ended in which step
# Looks at the process table take as long as the trees are large, and a hundred backends may want one at once: they are
# taken beside the event loop, one at a time while none hangs.
LOOKING = Workers("corral-look", usual=1, most=8)


class BackendProcess:
    """A `Backend` for any `EngineKind`, and the `Host` of its engine.

    It belongs to the event loop that it is started in. `async with BackendProcess(…) as backend` starts it with a new
    conversation and ends it.
    """

    started: BackendStarted

    def __init__(self, kind: EngineKind, launch: Launch | None = None, limits: Limits | None = None) -> None:
        self.kind = kind
        self.launch = launch or Launch()
        self._limits = limits or Limits()
        self._engine: Engine
        self._stderr: ErrorOutput
        self._begun = False
        self._launched = asyncio.Event()
        self._job: Job | None = None
        self._conversation = ""
        self._folder = ""
        self._turn: Turn | None = None
        self._own_sessions: set[int] = set()
        """The sessions of the engine itself."""
        self._before: Sequence[Process] = ()
        """The tree when the turn began."""
        self._approvals = Approvals()
        self._abandoned: asyncio.Task[None] | None = None
        self._stopping = asyncio.Lock()
        self._gone = ""
        self._said: dict[str, bool] = {}
        self._ending: asyncio.Task[BackendEnded] | None = None
        self._ending_begun = asyncio.Event()
        self._tasks = Tasks(self._finished)

    @property
    def job(self) -> Job:
        """The engine's job. Raises BackendError before there is one."""
        if self._job is None:
            raise BackendError("this backend was not started")
        return self._job

    @property
    def conversation(self) -> str:
        return self._conversation

    @property
    def busy(self) -> bool:
        return self._turn is not None and not self._turn.over

    @property
    def approvals_open(self) -> int:
        return len(self._approvals)

    @property
    def gone(self) -> str:
        return self._gone

    def tree(self) -> list[Process]:
        return self.job.tree()

    async def background(self) -> list[Process]:
        # What an engine keeps, its MCP servers and helpers, shares the engine's session; commands have their own.
        seen = [process for process in await self._look() if process.readable and process.living]
        return [process for process in seen if process.sid not in self._own_sessions]

    async def start(self, conversation: str | None = None, *, fork: bool = False) -> BackendStarted:
        if self._begun:
            raise BackendError("this backend was started before: make another one")
        self._begun = True
        opening = Opening(conversation or None, fork, self.launch.folder())
        enters = self.launch.account is None or self.kind.starts_in_workspace
        folder = opening.workspace if enters else None
        self._folder = opening.workspace
        try:
            # An engine that is only told of its folder would start all the same, and fail with every command.
            if not enters and (fault := await self.launch.folder_fault(opening.workspace)):
                raise BackendError(fault)
            job = self._job = await self.launch.start(self.kind.argv(opening), folder, self.kind.name)
        finally:
            self._launched.set()
        assert job.stdin is not None, "the job was started with pipes"
        assert job.stdout is not None, "the job was started with pipes"
        assert job.stderr is not None, "the job was started with pipes"
        self._engine = self.kind.connect(job.stdout, job.stdin, self)
        self._stderr = ErrorOutput(job.stderr)
        self._own(self._stderr.run())
        self._own(self._watch())
        try:
            self.started = await self._open(opening)
            self._own_sessions = {job.pid, *(process.sid for process in await self._look_if_possible())}
        except BaseException:
            await self.end()
            raise
        return self.started

    async def send(
        self, message: Input, *, choices: Choices | None = None, limits: Limits | None = None
    ) -> AsyncIterator[TurnEvent]:
        if self._job is None:
            raise BackendError("this backend was not started")
        ready = await read_input(message, self.launch.account)
        turn = await self._claim(limits or self._limits)
        self._own(self._hand_over(turn, ready, choices or Choices()))
        self._own(self._keep_time(turn))
        try:
            while True:
                event = await turn.feed.get()
                yield event
                if isinstance(event, TurnEnded):
                    return
        finally:
            if not turn.over:
                turn.stop(TurnEnded("interrupted", "nobody read on"))
                self._abandoned = self._own(self._stop(turn))

    async def steer(self, message: Input) -> bool:
        ready = await read_input(message, self.launch.account)
        turn = self._turn
        if turn is None or turn.stopped or await turn.taken(STEER_TIMEOUT) is None:
            return False
        return not turn.over and await self._engine.steer(turn, ready)

    async def interrupt(self, reason: str = "stopped on request") -> bool:
        turn = self._turn
        if turn is None or turn.over:
            return await self._stop_its_own()
        turn.stop(TurnEnded("interrupted", reason))
        await asyncio.shield(self._own(self._stop(turn)))  # a caller who is cancelled does not cut it short
        return True

    def answer(self, approval_id: str, answer: Answer) -> bool:
        return self._approvals.answer(approval_id, answer)

    async def end(self) -> BackendEnded:
        if self._begun:
            await self._launched.wait()
        if self._job is None:
            raise BackendError("this backend was not started")
        return await asyncio.shield(self._begin_end("the backend was ended"))

    async def hurry(self) -> None:
        if self._ending is not None:
            await self.job.end(grace=0)

    async def wait(self) -> BackendEnded:
        if self._begun:
            await self._launched.wait()
        if self._job is not None:
            await self._ending_begun.wait()
        return await self.end()

    async def __aenter__(self) -> Self:
        if not self._begun:
            await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.end()

    # What the engine asks for (corral.backends.engine.Host).

    @property
    def turn(self) -> Turn | None:
        return self._turn

    def remember(self, conversation: str) -> None:
        self._conversation = conversation

    def notice(self, message: str) -> None:
        message = shortened(message, NOTICE_LENGTH)
        if message in self._said:
            return
        if len(self._said) >= MOST_NOTICES:
            self._said.clear()
        self._said[message] = self.busy
        if self._turn is not None and self.busy:
            self._turn.put(Notice(message))

    def notice_of_host(self, message: str) -> None:
        if self.launch.tell_operator is not None:
            self.launch.tell_operator(shortened(message, NOTICE_LENGTH))
        else:
            self.notice(message)

    async def ask(self, approval: ApprovalRequested) -> Answer:
        turn = self._turn
        answer = await self._approvals.ask(turn, approval)
        if answer.decision == "cancel" and turn is not None and not turn.over:
            turn.stop(TurnEnded("interrupted", "stopped by the answer to an approval"))
            self._own(self._stop_after_answer(turn))
        return answer

    def fail_turn(self, reason: str) -> None:
        turn = self._turn
        if turn is not None and not turn.over:
            turn.stop(TurnEnded("failed", reason))
            self._own(self._stop(turn))

    # Starting.

    async def _open(self, opening: Opening) -> BackendStarted:
        try:
            async with asyncio.timeout(OPEN_TIMEOUT):
                opened = await self._engine.open(opening)
        except ConnectionEndedError as error:
            unknown = self.kind.is_unknown_conversation(opening, self._stderr.last_words)
            kind = ResumeError if unknown else BackendError
            raise kind(self._with_last_words(f"{self.kind.name} did not start: {error}")) from error
        except TimeoutError as error:
            reason = f"{self.kind.name} was not ready in {OPEN_TIMEOUT:g} s"
            raise BackendError(self._with_last_words(reason)) from error
        resumed = opening.conversation is not None
        if resumed:
            self._conversation = opened.conversation
        return BackendStarted(
            self.kind.name, self.job.pid, self.job.user, opened.conversation, opened.model, resumed=resumed
        )

    # Turns.

    async def _claim(self, limits: Limits) -> Turn:
        """The place of the running turn. An abandoned turn is waited for; a stop that is under way too."""
        for _ in range(LOOP_ROUNDS):
            if self.busy and self._abandoned is None:
                await asyncio.sleep(0)
        if self._abandoned is not None:
            await asyncio.wait([self._abandoned], timeout=3 * INTERRUPT_TIMEOUT)
            self._abandoned = None
        async with self._stopping:
            if self.busy:
                raise TurnRunningError("a turn is running: interrupt it, or wait for its end")
            before = () if self._gone else await self._look_if_possible()
            turn = self._turn = Turn(limits, self._untold)
            self._before = before
        return turn

    async def _hand_over(self, turn: Turn, message: Message, choices: Choices) -> None:
        if self._gone:
            turn.fail(self._gone)
            return
        if fault := await self.launch.folder_fault(self._folder):
            # The process stays in a folder that was removed, even if another of the same name is made.
            self._give_up(turn, fault)
            return
        name = self.kind.name
        try:
            await self._engine.begin(turn, message, choices)
        except RefusedError as error:
            turn.fail(str(error))
        except ConnectionEndedError as error:
            # An engine that died is _watch's matter, which knows the status; one that lives on is stuck.
            if not await turn.ended(3 * STATUS_TIMEOUT):
                self._give_up(turn, str(error))
        except TimeoutError:
            self._give_up(turn, f"{name} did not take the message in time")
        except BackendError as error:
            self._give_up(turn, str(error))

    def _untold(self) -> Sequence[str]:
        """What was to be told between turns, or before the first: from now on it is told."""
        for said in (*self.launch.notices, *self.job.notices):
            self._said.setdefault(said, False)
        untold = [said for said, told in self._said.items() if not told]
        self._said |= dict.fromkeys(untold, True)
        return untold

    async def _keep_time(self, turn: Turn) -> None:
        if timer := await turn.outlasted():
            turn.stop(TurnEnded("timed_out", f"the turn reached {timer}"))
            await self._stop(turn)
        self._approvals.withdraw(turn)

    def _give_up(self, turn: Turn, reason: str) -> None:
        """End a turn of which the engine may still think that it runs: the next one would be folded into it."""
        turn.fail(reason)
        self._begin_end(f"{reason}; the backend was ended")

    async def _stop(self, turn: Turn) -> None:
        """Interrupt the turn, wait for its end, and clean what it left running; one stop at a time.

        Until it is done no new turn begins, whose work would be cleaned away.
        """
        async with self._stopping:
            if not turn.over:
                await self._interrupt(turn)
            if self._gone or self._turn is not turn:
                return
            try:
                async with asyncio.timeout(INTERRUPT_TIMEOUT):
                    await self._engine.stop_background_work(everything=False)
            except (BackendError, TimeoutError) as error:
                log.warning("%s did not clean up behind the turn: %s", self.kind.name, error)
            await self._end_what_it_started()

    async def _stop_its_own(self) -> bool:
        """Stop a turn that the engine began of itself, and wait for a stop that is under way; whether there was one."""
        async with self._stopping:
            if self._gone or not self._engine.at_work:
                return False
            await self._bounded("interrupt", self._engine.interrupt(None), INTERRUPT_TIMEOUT)
            await self._bounded("cleaning", self._engine.stop_background_work(everything=False), INTERRUPT_TIMEOUT)
            return True

    async def _stop_after_answer(self, turn: Turn) -> None:
        """The engine was told to stop the turn by itself."""
        await turn.ended(INTERRUPT_TIMEOUT)
        await self._stop(turn)

    async def _end_what_it_started(self) -> None:
        """End what the engine lost sight of: whoever is in a session of its own, made since the turn began.

        What an engine keeps, its MCP servers and helpers, shares the engine's session; commands have their own.
        """
        if not self._before:
            return  # nobody could be seen when the turn began, and so nobody can be told apart now
        processes = {process.identity for process in self._before}
        # The command leads a session of its own: it is spared even if the look had missed it.
        sessions = {self.job.pid, *(process.sid for process in self._before)}
        try:
            left = await self.job.end_part(lambda one: one.identity not in processes and one.sid not in sessions)
        except (JobError, OSError) as error:  # a TimeoutError too
            log.warning("what a turn left running could not be ended: %s", error)
            return
        if left:
            log.warning("%d processes outlived the turn that started them", len(left))

    async def _interrupt(self, turn: Turn) -> None:
        try:
            async with asyncio.timeout(INTERRUPT_TIMEOUT):
                while not turn.over:
                    await self._engine.interrupt(turn)
                    await turn.ended(INTERRUPT_PAUSE)
        except (BackendError, TimeoutError) as error:
            log.debug("%s was interrupted: %s", self.kind.name, error)
            # An engine that died is _watch's matter.
            ended = await turn.ended(3 * STATUS_TIMEOUT if isinstance(error, ConnectionEndedError) else 0)
            if not ended:
                self._give_up(turn, f"{self.kind.name} did not confirm the stop in {INTERRUPT_TIMEOUT:g} s")

    # Ending.

    async def _watch(self) -> None:
        """Read the engine until it ends, say so to the turn that runs, and end what it left."""
        reading = asyncio.get_running_loop().create_task(self._engine.read())
        exiting = asyncio.get_running_loop().create_task(self.job.wait())
        try:
            await asyncio.wait([reading, exiting], return_when=asyncio.FIRST_COMPLETED)
            # The one follows the other soon; what the engine wrote before it died still counts.
            await asyncio.wait([reading, exiting], timeout=STATUS_TIMEOUT)
        finally:
            died = exiting.done() and not exiting.cancelled()
            how = f"ended with status {exiting.result()}" if died else "ended its output"
            for task in (reading, exiting):
                task.cancel()
            results = await asyncio.gather(reading, exiting, return_exceptions=True)
            self._engine.close()
        if isinstance(results[0], Exception):
            log.error("reading %s failed", self.kind.name, exc_info=results[0])
            how = f"could not be read: {results[0]!r}"
        if self._turn is not None and not self._turn.over:
            self._turn.fail(self._with_last_words(f"{self.kind.name} {how} in the middle of the turn"))
        self._begin_end(f"{self.kind.name} {how}")

    def _with_last_words(self, reason: str) -> str:
        last = self._stderr.last_words
        return f"{reason}; it said last: {last}" if last else reason

    def _begin_end(self, why: str) -> asyncio.Task[BackendEnded]:
        if self._ending is None:
            self._gone = why
            self._ending = Tasks(self._ending_failed).own(self._end())
            self._ending_begun.set()
        return self._ending

    async def _end(self) -> BackendEnded:
        steps = _Steps(self._look)
        steps.begin()
        if self.job.returncode is not None:
            steps.done("death")
        else:
            try:
                await self._say_goodbye(steps)
            except Exception:  # whatever goes wrong in a goodbye, the tree must be ended
                log.exception("the goodbye to %s failed", self.kind.name)
        self._close_input()
        report = await self.job.end()  # bounded by the job's own ladder
        steps.done("signals")
        await self._tasks.settle(TASKS_TIMEOUT)
        await self._engine.settle(TASKS_TIMEOUT)
        return BackendEnded(report, await steps.all())

    async def _say_goodbye(self, steps: _Steps) -> None:
        deadline = time.monotonic() + self.launch.goodbye
        turn = self._turn
        if turn is not None and not turn.over:
            turn.stop(TurnEnded("interrupted", "the backend was ended"))
            await self._bounded("interrupt", self._engine.interrupt(turn), self.launch.goodbye / 3)
        elif self._engine.at_work:
            await self._bounded("interrupt", self._engine.interrupt(None), self.launch.goodbye / 3)
        await self._bounded("cleaning", self._engine.stop_background_work(everything=True), self.launch.goodbye / 3)
        steps.done("goodbye")
        self._close_input()
        await self._bounded("exit", self.job.wait(), deadline - time.monotonic())
        steps.done("end_of_input")

    async def _bounded(self, what: str, work: Awaitable[object], seconds: float) -> None:
        try:
            async with asyncio.timeout(max(seconds, 0)):
                await work
        except (BackendError, TimeoutError) as error:
            log.debug("%s, %s at the goodbye: %r", self.kind.name, what, error)

    def _close_input(self) -> None:
        assert self.job.stdin is not None
        self.job.stdin.close()

    async def _look(self) -> Sequence[Process]:
        """The tree now. Raises LookError."""
        try:
            return await LOOKING.run(self.tree, LOOK_TIMEOUT)
        except OSError as error:  # a TimeoutError too
            raise LookError(f"the processes of {self.kind.name} could not be looked at: {error}") from error

    async def _look_if_possible(self) -> Sequence[Process]:
        try:
            return await self._look()
        except LookError as error:
            log.warning("%s", error)
            return ()

    def _own(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        return self._tasks.own(work)

    def _finished(self, error: BaseException | None) -> None:
        if error is not None:
            log.error("a task of the %s backend failed", self.kind.name, exc_info=error)
            if self._turn is not None:
                self._turn.fail(f"a fault in corral: {error!r}")
            self._begin_end(f"a fault in corral: {error!r}")

    def _ending_failed(self, error: BaseException | None) -> None:
        if error is not None:
            log.error("the ending of the %s backend failed", self.kind.name, exc_info=error)


class _Steps:
    """Which step of an ending ended what, as far as looks at the tree tell that are taken beside it.

    The ending waits for none of them: a look may hang.
    """

    def __init__(self, look: Callable[[], Coroutine[Any, Any, Sequence[Process]]]) -> None:
        self._look = look
        self._tasks = Tasks(lambda _: None)  # `_names` raises nothing
        self._looks: list[asyncio.Task[dict[tuple[int, int], str] | None]] = []
        self._steps: list[tuple[StepName, float]] = []
        self._since = 0.0

    def begin(self) -> None:
        """The first step begins."""
        self._looks.append(self._tasks.own(self._names()))
        self._since = time.monotonic()

    def done(self, name: StepName) -> None:
        """A step is over."""
        now = time.monotonic()
        self._steps.append((name, round(now - self._since, 3)))
        self._looks.append(self._tasks.own(self._names()))
        self._since = now

    async def all(self) -> tuple[Step, ...]:
        """The steps, once the ending is over; without names where a look is not done by then."""
        await self._tasks.settle(LATE_LOOKS_TIMEOUT)
        seen = [look.result() if look.done() and not look.cancelled() else None for look in self._looks]
        steps = []
        for (name, seconds), before, after in zip(self._steps, seen, seen[1:], strict=False):
            gone = {} if before is None or after is None else {one: before[one] for one in before if one not in after}
            steps.append(Step(name, seconds, tuple(gone.values())))
        return tuple(steps)

    async def _names(self) -> dict[tuple[int, int], str] | None:
        try:
            return {process.identity: process.comm for process in await self._look()}
        except LookError as error:
            log.warning("which step of an ending ended what is not known: %s", error)
            return None
