"""The supervisor's side of a job: asyncio streams to the command, and one ending that any number of callers share."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import Self

from corral.process import part
from corral.process.bare import procfs
from corral.process.bare.containment import NAMES as TRACKERS
from corral.process.bare.ending import Ladder
from corral.process.bare.errors import JobError
from corral.process.bare.report import Report
from corral.process.bare.request import StartRequest
from corral.process.bare.table import Process
from corral.process.requesting import make_request
from corral.process.supervision import Supervision
from corral.workers import Workers

PIPE = subprocess.PIPE
DEVNULL = subprocess.DEVNULL
INHERIT = None

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
        self._supervision = Supervision(request)

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
        that is cancelled leaves nothing either: the cancellation takes as long as ending what was started does, with no
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
        # From here on there may be callers who wait for the job: what fails is told to them too.
        if prepared is not None:
            prepared(job)
        await job._supervision.start((stdin, stdout, stderr))
        return job

    @property
    def pid(self) -> int:
        """The command's pid; sudo's, when it runs under another account; -1 before the command runs."""
        return self._supervision.pid

    @property
    def user(self) -> str:
        """The account that the command runs as; '' before the command runs."""
        return self._supervision.user

    @property
    def notices(self) -> list[str]:
        """Sentences for the person: a missing rule, a message that was not understood."""
        return self._supervision.notices

    @property
    def stdin(self) -> asyncio.StreamWriter | None:
        return self._supervision.streams.stdin

    @property
    def stdout(self) -> asyncio.StreamReader | None:
        return self._supervision.streams.stdout

    @property
    def stderr(self) -> asyncio.StreamReader | None:
        return self._supervision.streams.stderr

    @property
    def reaper_pid(self) -> int:
        """The reaper's pid; -1 before there is one."""
        reaper = self._supervision.reaper
        return reaper.pid if reaper is not None else -1

    @property
    def report(self) -> Report | None:
        """The report, once the ending is over."""
        return self._supervision.life.reported.result() if self._supervision.life.is_over else None

    @property
    def returncode(self) -> int | None:
        """The command's status as `wait` gives it, or None while it runs."""
        return self._supervision.life.exited.result() if self._supervision.life.exited.done() else None

    async def wait(self) -> int:
        """Wait for the command: its status, or -N if signal N ended it, as subprocess has it.

        If the reaper was killed, and the status went with it, that is -9.
        """
        return await asyncio.shield(self._supervision.life.exited)

    async def ending(self) -> None:
        """Wait until the tree is being ended, for whatever reason: the command's exit, a request, a killed reaper."""
        await self._supervision.life.ending.wait()

    async def ended(self) -> Report:
        """Wait for the ending without asking for it. The command's exit is a reason to end what it left behind."""
        return await asyncio.shield(self._supervision.life.reported)

    async def end(self, *, grace: float | None = None) -> Report:
        """End the tree and say what can be proven.

        Any number of callers, at once or later, share one ending and get the same report. A caller that is cancelled
        does not cut it short; one with a shorter grace hurries it.
        """
        if not self._supervision.life.is_over:
            self._supervision.request_end(grace)
        return await self.ended()

    async def suspend(self) -> None:
        """Stop the tree (SIGSTOP), and return when nobody of it runs, when it has ended, or after a bounded time."""
        if self._supervision.life.is_over:
            return
        await asyncio.wait([self._supervision.request_suspension()], timeout=_SUSPEND_WITHIN)

    def resume(self) -> None:
        """Continue what `suspend` stopped. An end that is asked for meanwhile needs none."""
        self._supervision.request_resumption()

    def tree(self) -> list[Process]:
        """The living tree now, parents before children; the command has depth 1.

        A picture and no proof: it is empty as well on hosts without /proc, when no descriptor is left to look with, and
        when the reaper was killed.
        """
        if (self.report is not None and self.report.empty) or sys.platform != "linux":
            return []
        try:
            return procfs.tree_of(self._supervision.reaper_identity)
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
        if self._supervision.life.is_over or sys.platform != "linux":
            return []
        call = partial(part.end_part, self._supervision.reaper_identity, self.user, choose, grace=grace, kill=kill)
        return await _PARTS.run(call, grace + kill + _PART_MARGIN)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.end()
        self._supervision.streams.close()
        # The transports close their descriptors in the loop's next turn.
        await asyncio.sleep(0)


__all__ = ["DEVNULL", "INHERIT", "PIPE", "TRACKERS", "Job", "JobError"]
