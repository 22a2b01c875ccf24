"""One running `codex app-server`: a conversation, its turns, and an end that is proven."""

from __future__ import annotations

import asyncio
import logging
import pwd
import time
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, Literal, Self, TypeAlias

import msgspec

from corral.backends.codex import opening, requests, wire
from corral.backends.codex.approvals import Approvals
from corral.backends.codex.turns import CodexTurn
from corral.backends.environment import child_environment
from corral.backends.errors import (
    BackendError,
    ConnectionEndedError,
    RequestError,
    TurnRunningError,
)
from corral.backends.events import (
    BackendStarted,
    Notice,
    TurnEnded,
    TurnEvent,
)
from corral.backends.rpc import RequestId, RpcConnection
from corral.backends.stderr import ErrorOutput
from corral.process import Job, Report
from corral.process.table import is_this_account

log = logging.getLogger(__name__)

Stopped: TypeAlias = Literal["interrupted", "timed_out"]

INTERRUPT_TIMEOUT = 5.0  # seconds for codex to confirm that it stopped
INTERRUPT_PAUSE = 0.1  # seconds until a turn that did not end is interrupted again
STATUS_TIMEOUT = 2.0  # seconds between the end of codex's output and its status, and the other way round
TASKS_TIMEOUT = 5.0  # seconds for the backend's own tasks to be gone, once codex is
# A `break` out of `async for` lets go of the turn, but the loop closes the generator only some rounds later.
LOOP_ROUNDS = 5
WARNINGS = ("warning", "guardianWarning", "configWarning", "deprecationNotice")


class CodexBackend:
    """A conversation with codex; made by `CodexBackend.start`, ended by `end` (or by leaving `async with`).

    `turn` yields a turn's events, `interrupt` stops it. Every request of codex is answered; approvals by the `approve`
    policy. It belongs to the event loop that it was started in.
    """

    started: BackendStarted

    def __init__(self, job: Job, approve: requests.Approve, approval_timeout: float, goodbye: float) -> None:
        assert job.stdin is not None, "the job was started with pipes"
        assert job.stdout is not None, "the job was started with pipes"
        assert job.stderr is not None, "the job was started with pipes"
        self.job = job
        self._claimed = time.monotonic()
        self._stdin = job.stdin
        self._approvals = Approvals(approve, approval_timeout, self._emit)
        self._goodbye = goodbye
        self._rpc = RpcConnection(job.stdout, job.stdin, self)
        self._stderr = ErrorOutput(job.stderr)
        self._thread_id = ""
        self._turn: CodexTurn | None = None
        self._abandoned: asyncio.Task[None] | None = None
        self._stopping = asyncio.Lock()
        self._gone = ""
        self._said: dict[str, bool] = {}
        self._ending: asyncio.Task[Report] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._own(self._stderr.run())
        self._own(self._watch())

    @classmethod
    async def start(
        cls,
        command: Sequence[str],
        *,
        user: str | None = None,
        cwd: str | PathLike[str] | None = None,
        overrides: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
        resume: str | None = None,
        model: str | None = None,
        approval_policy: str = "on-request",
        sandbox: str = "workspace-write",
        approve: requests.Approve = requests.decline,
        approval_timeout: float = 600.0,
        goodbye: float = 3.0,
        grace: float = 5.0,
        kill: float = 10.0,
        state_dir: str | PathLike[str] | None = None,
        report_file: str | PathLike[str] | None = None,
        label: str = "codex",
    ) -> Self:
        """Start `command` (without `app-server`) as a job and open a conversation.

        user: the account it runs as; None for this process's own.
        cwd: the workspace of the conversation; by default the account's home, or this folder for the own account.
        overrides: codex settings as `key=value` in TOML, each handed over with `-c`.
        env: variables on top of the environment without the service's secrets; for another account those that sudo is
            asked to pass on (its rule needs SETENV).
        resume: the id of a conversation to go on with, instead of a new one.
        approve: asked at each approval, for `approval_timeout` seconds at the most; it declines by default.
        goodbye, grace, kill: seconds for each step of the ladder.
        report_file: where the reaper writes its report, whether or not this process lives to see it.

        Raises corral.process.StartError if the command does not start, BackendError if codex does not speak as it
        should, ResumeError if it does not know the conversation. Nothing is left running then.
        """
        if is_this_account(user):
            user = None
        arguments = [part for override in overrides for part in ("-c", override)]
        job = await Job.start(
            [*command, *arguments, "app-server"],
            user=user,
            env=env if user is not None else child_environment(env),
            # The person's folders may be closed to the service's account, and entering them is done under it.
            cwd="/" if user is not None else cwd,
            grace=grace,
            kill=kill,
            state_dir=state_dir,
            report_file=report_file,
            label=label,
        )
        backend = cls(job, approve, approval_timeout, goodbye)
        try:
            workspace = str(cwd) if cwd is not None else _home(user)
            await backend._open(resume, opening.ThreadSettings(workspace, model, approval_policy, sandbox))
        except BaseException:
            await backend.end()
            raise
        return backend

    @property
    def thread_id(self) -> str:
        """The conversation's id: `start(resume=…)` goes on with it."""
        return self._thread_id

    @property
    def approvals_open(self) -> int:
        """How many approvals wait for a decision."""
        return self._approvals.open

    @property
    def busy(self) -> bool:
        """Whether a turn runs, read or abandoned."""
        return self._turn is not None and not self._turn.over

    @property
    def gone(self) -> str:
        """Why no turn can run in this backend any more; empty while one can."""
        return self._gone

    async def turn(self, text: str, *, silence: float = 600.0, limit: float = 3600.0) -> AsyncIterator[TurnEvent]:
        """Send a message and yield what comes of it; the last event is the one TurnEnded.

        `silence`: seconds without a sign of life, not counted while an approval is open, and `limit`: seconds
        altogether, after which the turn is stopped and ends `timed_out`. If codex dies, the turn ends `failed`. A
        caller who stops reading has the turn interrupted. Raises TurnRunningError if another caller's turn runs.
        """
        turn = await self._claim()
        deadline = time.monotonic() + limit
        self._own(self._send(turn, text))
        try:
            while True:
                wait = self._patience(silence, deadline)
                if wait <= 0 and turn.stopped is None:
                    overall = time.monotonic() >= deadline
                    timer = f"its limit of {limit:g} s" if overall else f"{silence:g} s of silence"
                    turn.stop(TurnEnded("timed_out", f"the turn reached {timer}"))
                    self._own(self._stop(turn))
                try:
                    event = await turn.feed.get(wait if wait > 0 else INTERRUPT_TIMEOUT)
                except TimeoutError:
                    continue
                yield event
                if isinstance(event, TurnEnded):
                    return
        finally:
            if not turn.over:
                turn.stop(TurnEnded("interrupted", "nobody read on"))
                self._abandoned = self._own(self._stop(turn))

    async def interrupt(self, *, status: Stopped = "interrupted", reason: str = "stopped on request") -> bool:
        """Stop the running turn and what it left running in the background; False if no turn ran.

        Returns when the turn has ended, after some 10 s at the most. A codex that does not confirm takes no more turns.
        """
        turn = self._turn
        if turn is None or turn.over:
            await self._stop(None)
            return False
        turn.stop(TurnEnded(status, reason))
        await self._stop(turn)
        return True

    async def end(self) -> Report:
        """Say goodbye (bounded by `goodbye` seconds), then end the job; the report is the job's.

        Any number of callers share one ending; one that is cancelled does not cut it short.
        """
        if self._ending is None:
            self._ending = asyncio.get_running_loop().create_task(self._end())
        return await asyncio.shield(self._ending)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.end()

    # What codex sends by itself (corral.backends.rpc.Handler).

    def on_notification(self, method: str, params: msgspec.Raw) -> None:
        """Hand it to the turn; a message that is not as expected is logged and skipped."""
        try:
            if method in WARNINGS:
                warned = msgspec.json.decode(params, type=wire.Warned)
                self._notice(" ".join(part for part in (warned.message, warned.summary, warned.details) if part))
            elif method == "serverRequest/resolved":
                self._rpc.drop_request(msgspec.json.decode(params, type=wire.Resolved).request_id)
            elif self._turn is not None:
                self._turn.take(method, params)
        except msgspec.DecodeError as error:
            log.warning("skipped a %s that is not as expected: %s", method, error)

    async def on_request(self, request_id: RequestId, method: str, params: msgspec.Raw) -> object:
        """Answer codex; approvals by the policy."""
        return await requests.answer(request_id, method, params, self._approvals.ask, self._emit)

    def _emit(self, event: TurnEvent) -> None:
        if self._turn is not None:
            self._turn.feed.put(event)

    def _notice(self, message: str) -> None:
        """Tell the person once: codex repeats its warnings with every turn."""
        if message in self._said:
            return
        told = self.busy
        self._said[message] = told
        if told:
            self._emit(Notice(message))

    async def _open(self, resume: str | None, settings: opening.ThreadSettings) -> None:
        try:
            opened = await opening.open_thread(self._rpc, resume, settings)
        except ConnectionEndedError as error:
            raise BackendError(self._said_last(f"codex did not start: {error}")) from error
        except TimeoutError as error:
            raise BackendError(self._said_last(f"codex did not answer in {opening.OPEN_TIMEOUT:g} s")) from error
        self._thread_id = opened.thread.id
        self.started = BackendStarted(
            "codex", self.job.pid, self.job.user, opened.thread.id, opened.model, resumed=resume is not None
        )

    # Turns.

    async def _claim(self) -> CodexTurn:
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
            turn = self._turn = CodexTurn(self._thread_id)
            self._claimed = time.monotonic()
        for message, told in self._said.items():
            if not told:
                self._said[message] = True
                turn.feed.put(Notice(message))
        return turn

    async def _send(self, turn: CodexTurn, text: str) -> None:
        if self._gone:
            turn.fail(self._gone)
            return
        message = {"type": "text", "text": text}
        try:
            result = await self._rpc.request("turn/start", {"threadId": self._thread_id, "input": [message]})
            turn.begin(msgspec.json.decode(result, type=wire.TurnNote).turn.id)
        except RequestError as error:
            turn.fail(f"codex did not take the message: {error.reason} ({error.code})")
        except TimeoutError:
            self._give_up(turn, "codex did not take the message in time")
        except ConnectionEndedError as error:
            # A codex that died is _watch's matter, which knows the status; one that lives on is stuck.
            if not await turn.feed.ended(3 * STATUS_TIMEOUT):
                self._give_up(turn, str(error))
        except msgspec.DecodeError as error:
            self._give_up(turn, f"codex took the message in words not known here: {error}")

    def _give_up(self, turn: CodexTurn, reason: str) -> None:
        """End a turn of which codex may still think that it runs: the next one would be folded into it."""
        self._gone = self._gone or f"{reason}; start a new backend"
        turn.fail(reason)

    def _patience(self, silence: float, deadline: float) -> float:
        """Seconds that the reader of a turn may wait from now on."""
        now = time.monotonic()
        if self._approvals.open:
            # The silence of a person is not codex's; look again soon, for the approval may be over.
            return min(deadline - now, 1.0)
        return min(deadline, max(self._rpc.last_read, self._approvals.last_closed, self._claimed) + silence) - now

    async def _stop(self, turn: CodexTurn | None) -> None:
        """Interrupt the turn, wait for its end, and clean what it left running; one stop at a time.

        Cleaning takes all background terminals of the conversation: until it is done no new turn begins.
        """
        async with self._stopping:
            if turn is not None and not turn.over:
                await self._interrupt(turn)
            try:
                await self._clean(INTERRUPT_TIMEOUT)
            except (BackendError, TimeoutError) as error:
                if not self._gone:
                    log.warning("codex did not clean its background terminals: %s", error)

    async def _interrupt(self, turn: CodexTurn) -> None:
        try:
            async with asyncio.timeout(INTERRUPT_TIMEOUT):
                await self._interrupt_until_over(turn)
        except TimeoutError:
            if not turn.over:
                self._give_up(turn, f"codex did not confirm the stop in {INTERRUPT_TIMEOUT:g} s")
        except ConnectionEndedError as error:
            log.debug("codex ended before it was interrupted: %s", error)

    async def _interrupt_until_over(self, turn: CodexTurn) -> None:
        turn_id = await turn.known(INTERRUPT_TIMEOUT)
        while not turn.over:
            params = {"threadId": self._thread_id, "turnId": turn_id}
            try:
                await self._rpc.request("turn/interrupt", params, timeout=INTERRUPT_TIMEOUT)
            except RequestError as error:
                # Between its answer to turn/start and turn/started codex knows "no active turn" to interrupt.
                log.debug("turn/interrupt: %s", error)
            await turn.feed.ended(INTERRUPT_PAUSE)

    async def _clean(self, timeout: float) -> None:
        if self._thread_id and not self._rpc.ended:
            await self._rpc.request("thread/backgroundTerminals/clean", {"threadId": self._thread_id}, timeout=timeout)

    # Ending.

    async def _watch(self) -> None:
        """Read codex until it ends, and say so to the turn that runs."""
        reading = asyncio.get_running_loop().create_task(self._rpc.run())
        exiting = asyncio.get_running_loop().create_task(self.job.wait())
        try:
            await asyncio.wait([reading, exiting], return_when=asyncio.FIRST_COMPLETED)
            # The one follows the other soon; what codex wrote before it died still counts.
            await asyncio.wait([reading, exiting], timeout=STATUS_TIMEOUT)
        finally:
            how = "ended" if not exiting.done() or exiting.cancelled() else f"ended with status {exiting.result()}"
            for task in (reading, exiting):
                task.cancel()
            await asyncio.gather(reading, exiting, return_exceptions=True)
            self._rpc.close()
        self._gone = self._gone or f"codex {how}"
        if self._turn is not None and not self._turn.over:
            self._turn.fail(self._said_last(f"codex {how} in the middle of the turn"))

    def _said_last(self, reason: str) -> str:
        last = self._stderr.last_line
        return f"{reason}; it said last: {last}" if last else reason

    async def _end(self) -> Report:
        try:
            async with asyncio.timeout(self._goodbye):
                await self._say_goodbye()
        except TimeoutError:
            log.debug("codex did not end by itself in %g s", self._goodbye)
        self._stdin.close()
        report = await self.job.end()  # bounded by the job's own ladder
        if self._tasks:
            await asyncio.wait(list(self._tasks), timeout=TASKS_TIMEOUT)
        for task in self._tasks:
            task.cancel()
        await self._rpc.settle(TASKS_TIMEOUT)
        return report

    async def _say_goodbye(self) -> None:
        turn = self._turn
        if turn is not None and not turn.over:
            turn.stop(TurnEnded("interrupted", "the backend was ended"))
            if turn.id is not None:
                await self._goodbye_request("turn/interrupt", {"threadId": self._thread_id, "turnId": turn.id})
        if self._thread_id:
            await self._goodbye_request("thread/backgroundTerminals/clean", {"threadId": self._thread_id})
        self._stdin.close()
        await self.job.wait()

    async def _goodbye_request(self, method: str, params: dict[str, str]) -> None:
        try:
            await self._rpc.request(method, params, timeout=self._goodbye / 3)
        except (BackendError, TimeoutError) as error:
            log.debug("%s at the goodbye: %s", method, error)

    def _own(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._finished)
        return task

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a task of the codex backend failed", exc_info=error)
            self._gone = self._gone or f"a fault in corral: {error!r}"
            if self._turn is not None:
                self._turn.fail(self._gone)


def _home(user: str | None) -> str:
    return str(Path.cwd()) if user is None else pwd.getpwnam(user).pw_dir
