"""The supervisor's side of a job: asyncio streams to the command, and one ending that any number of callers share."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import Any, Self

from corral.process import part
from corral.process.bare import procfs
from corral.process.bare.containment import NAMES as TRACKERS
from corral.process.bare.containment import adopts
from corral.process.bare.ending import Ladder
from corral.process.bare.errors import JobError, StartError, describe
from corral.process.bare.report import SURVIVORS, Report
from corral.process.bare.request import StartRequest
from corral.process.bare.table import UNKNOWN, Identity, Process, remember_account
from corral.process.inherit import Inheritance, add_job, remove_job
from corral.process.lifecycle import Lifecycle, Starting
from corral.process.reaper_process import ReaperProcess, Stdio
from corral.process.requesting import make_request
from corral.process.streams import Streams
from corral.workers import Workers

PIPE = subprocess.PIPE
DEVNULL = subprocess.DEVNULL
INHERIT = None

_START_WITHIN = 30.0
_REAPER_MARGIN = 10.0
"""Seconds beyond its ladder after which a reaper that has not reported (a stopped one) is killed and inherited from."""
_SUSPEND_WITHIN = 10.0
_PART_MARGIN = 30.0
"""Seconds beyond its ladder for the calls of sudo that end a part of a tree."""
_PARTS = Workers("corral-part", usual=8, most=32)


class Job:
    """One supervised command. Made by `Job.start`; used as an async context manager it is ended on the way out.

    It belongs to the event loop that it was started in.
    """

    def __init__(self, request: StartRequest) -> None:
        self.id = request.job_id
        self.pid = -1
        """The command's pid; sudo's, when it runs under another account."""
        self.user = ""
        """The account that the command runs as."""
        self.notices: list[str] = []
        """Sentences for the person: a missing rule, a message that was not understood."""
        self._request = request
        self._loop = asyncio.get_running_loop()
        self._life = Lifecycle(self._loop)
        self._streams = Streams()
        self._reaper: ReaperProcess | None = None
        self._reaper_identity: Identity = (-1, UNKNOWN)
        self._uid = UNKNOWN
        """The account that the command runs as; not known before the start."""
        self._last_report: Report | None = None
        """What the reaper has reported last. An empty verdict counts only when the reaper is gone too."""
        self._suspended: asyncio.Future[None] | None = None

    @classmethod
    async def start(
        cls,
        argv: Sequence[str],
        *,
        user: str | None = None,
        env: Mapping[str, str] | None = None,
        kept_env: Mapping[str, str] | None = None,
        cwd: str | os.PathLike[str] | None = None,
        stdin: int | None = PIPE,
        stdout: int | None = PIPE,
        stderr: int | None = PIPE,
        grace: float = 5.0,
        kill: float = 10.0,
        state_dir: str | os.PathLike[str] | None = None,
        report_file: str | os.PathLike[str] | None = None,
        tracker: str = "auto",
        label: str = "",
        job_id: str = "",
        limits: Mapping[str, int] | None = None,
        prepared: Callable[[Job], None] | None = None,
    ) -> Job:
        """Start a command below a reaper of its own.

        user: the account to run as (`sudo -n -H -u USER`); None or this account's own name for this one.
        env: replaces the environment. Under another account sudo makes the environment, and env names what it is
            asked to pass on besides (which needs SETENV in the rule). It never appears in an argument list.
        kept_env: lies below env. Under another account it becomes sudo's own environment, and sudo hands on what its
            rules keep (env_keep) and drops the rest without a word; TMPDIR alone appears in an argument list.
        cwd: the folder to start in; None for this process's own, or / where the account may not enter that.
        stdin, stdout, stderr: PIPE, DEVNULL, INHERIT or a file descriptor.
        grace, kill: seconds from TERM to KILL, and for the rounds of KILL before survivors are reported.
        report_file: where the reaper writes the report's JSON when the tree has ended, whether or not the supervisor
            lives to see it.
        tracker: `auto`; `subreaper` to start nothing where there is none; `portable` to do as a host without subreapers
            must; `subreaper-scan` to do as one without children files must.
        limits: resource limits of the command and of all that it starts, by the names in `limits.NAMES`.
        job_id: a fresh `ledger.new_id()`, for a caller who must know it before the start.
        prepared: called with the job before anything is started, for a caller who may have to `end` it meanwhile. The
            start then raises StartError of kind `interrupted`, unless the command runs already.

        Raises StartError, with nothing left running but what its `report` names (a process that cannot die). A caller
        that is cancelled leaves nothing either: the cancellation takes as long as ending what was begun does, with no
        grace; a second one does not wait for that.
        """
        request, notice = make_request(
            argv,
            user=user,
            env=env,
            kept_env=kept_env,
            cwd=cwd,
            ladder=Ladder(grace, kill),
            state_dir=state_dir,
            report_file=report_file,
            tracker=tracker,
            label=label,
            job_id=job_id,
            limits=limits,
        )
        job = cls(request)
        if notice:
            job.notices.append(notice)
        # From here on there may be callers who wait for the job: what fails is told to them too, by `_begin`.
        if prepared is not None:
            prepared(job)
        await job._start((stdin, stdout, stderr))
        return job

    @property
    def stdin(self) -> asyncio.StreamWriter | None:
        return self._streams.stdin

    @property
    def stdout(self) -> asyncio.StreamReader | None:
        return self._streams.stdout

    @property
    def stderr(self) -> asyncio.StreamReader | None:
        return self._streams.stderr

    @property
    def reaper_pid(self) -> int:
        """The reaper's pid; -1 before there is one."""
        return self._reaper.pid if self._reaper is not None else -1

    @property
    def report(self) -> Report | None:
        """The report, once the ending is over."""
        return self._life.reported.result() if self._life.is_over else None

    @property
    def returncode(self) -> int | None:
        """The command's status as `wait` gives it, or None while it runs."""
        return self._life.exited.result() if self._life.exited.done() else None

    async def wait(self) -> int:
        """Wait for the command: its status, or -N if signal N ended it, as subprocess has it.

        If the reaper was killed, and the status went with it, that is -9.
        """
        return await asyncio.shield(self._life.exited)

    async def ending(self) -> None:
        """Wait until the tree is being ended, for whatever reason: the command's exit, a request, a killed reaper."""
        await self._life.ending.wait()

    async def ended(self) -> Report:
        """Wait for the ending without asking for it. The command's exit is a reason to end what it left behind."""
        return await asyncio.shield(self._life.reported)

    async def end(self, *, grace: float | None = None) -> Report:
        """End the tree and say what can be proven.

        Any number of callers, at once or later, share one ending and get the same report. A caller that is cancelled
        does not cut it short; one with a shorter grace hurries it.
        """
        if not self._life.is_over:
            self._request_end(self._request.ladder.grace if grace is None else grace)
        return await self.ended()

    async def suspend(self) -> None:
        """Stop the tree (SIGSTOP), and return when nobody of it runs, when it has ended, or after a bounded time."""
        if self._life.is_over:
            return
        self._suspended = self._loop.create_future()
        self._send({"suspend": {}})
        await asyncio.wait([self._suspended], timeout=_SUSPEND_WITHIN)

    def resume(self) -> None:
        """Continue what `suspend` stopped. An end that is asked for meanwhile needs none."""
        self._send({"resume": {}})

    def tree(self) -> list[Process]:
        """The living tree now, parents before children; the command has depth 1.

        A picture and no proof: it is empty as well on hosts without /proc, when no descriptor is left to look with, and
        when the reaper was killed.
        """
        if (self.report is not None and self.report.empty) or sys.platform != "linux":
            return []
        try:
            return procfs.tree_of(self._reaper_identity)
        except OSError:
            return []

    async def end_part(
        self, choose: Callable[[Process], bool], *, grace: float = 1.0, kill: float = 3.0
    ) -> list[Process]:
        """End those of the living tree that `choose` picks and keep the rest; who is left after grace + kill seconds.

        There is no proof in it, as there is in `end`: a process that forks faster than it is looked for can escape.
        A caller that is cancelled does not cut it short. Raises JobError if the tree could not be looked at,
        TimeoutError where calls of sudo hang, OSError where no thread can be started; what is left is not known then.
        """
        if self._life.is_over or sys.platform != "linux":
            return []
        call = partial(part.end_part, self._reaper_identity, self.user, choose, grace=grace, kill=kill)
        return await _PARTS.run(call, grace + kill + _PART_MARGIN)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.end()
        self._streams.close()
        # The transports close their descriptors in the loop's next turn.
        await asyncio.sleep(0)

    # Starting.

    async def _start(self, stdio: Stdio) -> None:
        beginning = asyncio.ensure_future(self._begin(stdio))
        try:
            await asyncio.shield(beginning)
        except asyncio.CancelledError:
            # The start goes on to its end, which is bounded, and the job is ended then: half started it could be lost.
            self._request_end(0)
            beginning.add_done_callback(self._abandon)
            await self._let_go(beginning)
            raise

    async def _begin(self, stdio: Stdio) -> None:
        """Start the command. However that fails, those who wait for the job hear of it."""
        try:
            await self._start_reaper(stdio)
            await self._start_command()
        except OSError as error:
            text = f"the job could not be set up ({error.strerror}): end some processes, or raise the limit"
            failure = StartError("fork", text)
            self._life.fail(failure)
            raise failure from error
        except BaseException as error:
            self._life.fail(error)
            raise

    async def _start_reaper(self, stdio: Stdio) -> None:
        add_job(adopts=adopts(self._request.tracker))
        try:
            self._reaper = ReaperProcess(stdio)
            self._reaper_identity = await self._reaper.connect(self._on_message, self._on_reaper_gone)
        except BaseException:
            self._forget()
            raise

    async def _start_command(self) -> None:
        assert self._reaper is not None
        try:
            self._send({"start": self._request.encode()})
            if isinstance(self._life.state, Starting) and self._life.state.grace is not None:
                self._request_end(self._life.state.grace)
            await self._streams.connect(self._reaper.process)
            async with asyncio.timeout(_START_WITHIN):
                await asyncio.shield(self._life.started)
        except StartError as error:
            await self._failed_to_start(error)
        except TimeoutError:
            self._life.started.add_done_callback(lambda started: started.exception())
            self._request_end(0)
            why = "its program, its folder or sudo does not answer"
            await self._failed_to_start(StartError("hung", f"it did not start within {_START_WITHIN:g} s: {why}"))
        except BaseException:
            # The loop is closing: the lifeline goes with it.
            self._abandon()
            raise

    async def _failed_to_start(self, error: StartError) -> None:
        said, report = b"", None
        try:
            async with asyncio.timeout(self._request.ladder.grace + self._request.ladder.kill + _REAPER_MARGIN):
                report = await self.ended()
                if self.stderr is not None and report.empty:
                    said = await self.stderr.read(2048)
        except TimeoutError:
            pass
        self._streams.close()
        text = said.decode("utf-8", "replace").strip()
        message = f"{error} (it said: {text})" if text else str(error)
        if report is not None and not report.empty:
            left = ", ".join(f"pid {one.pid} (state {one.state})" for one in report.survivors)
            message += f"; what was started for it cannot be ended yet: {left or 'nobody can say what'}"
        failure = StartError(error.kind, message)
        failure.report = report
        raise failure from None

    def _abandon(self, beginning: asyncio.Future[None] | None = None) -> None:
        """End what nobody will ask for. It is driven by the wire, and needs nobody to wait for it."""
        if beginning is not None and (beginning.cancelled() or beginning.exception() is not None):
            return
        self._life.started.add_done_callback(lambda started: started.exception())
        self._request_end(0)
        self._life.reported.add_done_callback(lambda _: self._streams.close())

    async def _let_go(self, beginning: asyncio.Future[None]) -> None:
        """Wait until what was begun is ended: a caller whose start was cancelled may count on there being nothing.

        One that is cancelled again does not wait; the ending goes on all the same.
        """
        await asyncio.wait([beginning])
        if self._has_reaper():
            await asyncio.wait([self._life.reported], timeout=self._request.ladder.kill + _REAPER_MARGIN)

    # Ending.

    def _has_reaper(self) -> bool:
        return self._reaper is not None and self._reaper.wire is not None

    def _request_end(self, grace: float) -> None:
        if not self._has_reaper():
            self._life.end_later(grace)
            return
        self._send({"end": {"grace": grace}})
        self._life.begin_ending()
        self._limit_the_reaper(grace)

    def _limit_the_reaper(self, grace: float) -> None:
        if self._reaper is not None:
            self._reaper.kill_after(grace + self._request.ladder.kill + _REAPER_MARGIN)

    def _send(self, message: dict[str, Any]) -> None:
        if self._reaper is not None:
            self._reaper.send(message)

    def _forget(self) -> None:
        remove_job(adopts=adopts(self._request.tracker))

    def _finish(self, report: Report) -> None:
        self._hear_suspended()
        if self._reaper is not None:
            self._reaper.spare()
        self._life.end(report)
        if report.empty:
            self._streams.close_input()

    # What the reaper says, and that it is gone.

    def _on_message(self, message: dict[str, Any]) -> None:
        try:
            self._take_in(message)
        except (KeyError, TypeError, ValueError) as error:
            # What is malformed costs only itself.
            self.notices.append(f"a message of the reaper was not understood ({describe(error)}): {list(message)[:3]}")

    def _take_in(self, message: dict[str, Any]) -> None:
        if "started" in message and not self._life.started.done():
            started = message["started"]
            pid, uid, user = int(started["pid"]), int(started["uid"]), str(started["user"])
            command = (pid, int(started["start_time"]))
            self.pid, self._uid, self.user = pid, uid, user
            remember_account(uid, user)
            self._life.run(command)
        elif "error" in message and not self._life.started.done():
            self._life.refuse(StartError(str(message["error"]["kind"]), str(message["error"]["message"])))
        elif "exited" in message:
            self._life.exit(int(message["exited"]))
        elif "notice" in message:
            self.notices.append(str(message["notice"]))
        elif "suspended" in message:
            self._hear_suspended()
        elif "ending" in message:
            self._life.begin_ending()
            self._limit_the_reaper(self._request.ladder.grace)
        elif "report" in message:
            self._last_report = Report.from_json(message["report"])
            if not self._last_report.empty:
                self._finish(self._last_report)

    def _hear_suspended(self) -> None:
        if self._suspended is not None and not self._suspended.done():
            self._suspended.set_result(None)

    def _on_reaper_gone(self) -> None:
        """It has gone: as it should, after its report, or killed."""
        if self._last_report is not None and self._last_report.empty:
            self._forget()
            # Only now: an empty verdict covers the reaper too.
            self._finish(self._last_report)
        else:
            self._inherit()

    def _inherit(self) -> None:
        """The reaper was killed: the tree, or what it still held of it, has fallen to this process, which ends it."""
        self._life.begin_ending()
        command = self._life.command
        inheritance = Inheritance(
            request=self._request,
            command_pid=self.pid,
            reaper_pid=self.reaper_pid,
            seeds={command} if command is not None else set(),
            uid=self._uid,
        )
        try:
            inheritance.start(self._loop, self._inherited, self._forget)
        except Exception as error:  # noqa: BLE001 - whatever it is, those who wait for the end must hear of it
            note = f"the reaper was killed, and the supervisor could not end the tree: {describe(error)}"
            self._finish(
                Report(SURVIVORS, None, 0.0, cause="reaper_died", ended_by="supervisor", notes=(note,), job_id=self.id)
            )

    def _inherited(self, report: Report, status: int | None) -> None:
        if status is not None:
            self._life.exit(status)
        self._finish(report)


__all__ = ["DEVNULL", "INHERIT", "PIPE", "TRACKERS", "Job", "JobError"]
