"""The supervisor's side of a job: asyncio streams to the command, and one ending that any number of callers share."""

from __future__ import annotations

import asyncio
import fcntl
import math
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import IO, Any, Self

from corral.process import part
from corral.process.bare import ledger, lifeline, procfs
from corral.process.bare import limits as resource_limits
from corral.process.bare import mark as marks
from corral.process.bare.ending import Ladder
from corral.process.bare.errors import JobError, StartError, describe
from corral.process.bare.host import host_table, why_unusable
from corral.process.bare.report import SURVIVORS, Report
from corral.process.bare.report import clear as clear_report
from corral.process.bare.table import UNKNOWN, Identity, Process, is_this_account, remember_account
from corral.process.inherit import Inheritance, add_job, remove_job
from corral.workers import Workers

PIPE = subprocess.PIPE
DEVNULL = subprocess.DEVNULL
INHERIT = None

TRACKERS = ("auto", "subreaper", "subreaper-scan", "portable")

_START_WITHIN = 30.0
_REAPER_MARGIN = 10.0
"""Seconds beyond its ladder after which a reaper that has not reported (a stopped one) is killed and inherited from."""
_EXIT_WITHIN = 5.0
_SUSPEND_WITHIN = 10.0
_PART_MARGIN = 30.0
"""Seconds beyond its ladder for the calls of sudo that end a part of a tree."""
_PARTS = Workers("corral-part", usual=8, most=32)
_STREAM_LIMIT = 1 << 20
_NOT_STARTED = "the reaper could not be started"
_BOOT = os.path.join(os.path.dirname(__file__), "bare", "boot.py")
# What sudo and the reaper need to work; a command under another account gets its environment from sudo.
_BARE_NAMES = ("PATH", "LANG", "LC_ALL", "LC_CTYPE", "TERM", "TZ")
# glibc takes it out of the environment of every set-uid program, so that no sudo can keep it (ld.so(8), secure mode).
_WITHHELD = ("TMPDIR",)
_LOADER_PREFIXES = ("LD_", "DYLD_")


class Job:
    """One supervised command. Made by `Job.start`; used as an async context manager it is ended on the way out.

    It belongs to the event loop that it was started in.
    """

    def __init__(self, job_id: str, ladder: Ladder, state_dir: str, report_file: str | None, mark: int) -> None:
        self.id = job_id
        self.pid = -1
        """The command's pid; sudo's, when it runs under another account."""
        self.reaper_pid = -1
        self.user = ""
        """The account that the command runs as."""
        self.stdin: asyncio.StreamWriter | None = None
        self.stdout: asyncio.StreamReader | None = None
        self.stderr: asyncio.StreamReader | None = None
        self.notices: list[str] = []
        """Sentences for the person: a missing rule, a message that was not understood."""
        self._ladder = ladder
        self._state_dir = state_dir
        self._report_file = report_file
        self._mark = mark
        self._command: Identity | None = None
        """The command, until the reaper has collected it: from then on its pid can be anybody's."""
        self._reaper_identity: Identity = (-1, UNKNOWN)
        self._uid = UNKNOWN
        """The account that the command runs as; not known before the start."""
        loop = asyncio.get_running_loop()
        self._loop = loop
        self._started: asyncio.Future[None] = loop.create_future()
        self._status: asyncio.Future[int] = loop.create_future()
        self._report: asyncio.Future[Report] = loop.create_future()
        self._wire: _Wire | None = None
        self._reaper: subprocess.Popen[bytes] | None = None
        self._watchdog: asyncio.TimerHandle | None = None
        self._read_transports: list[asyncio.ReadTransport] = []
        self._collecting = 0.0
        self._told: Report | None = None
        self._adopts = False
        self._ending = asyncio.Event()
        self._suspended: asyncio.Future[None] | None = None
        self._unsent_end: float | None = None
        """The grace of an end that was requested before there was a reaper."""

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
        folder = _absolute(state_dir if state_dir is not None else ledger.default_state_dir())
        report_path = _absolute(report_file) if report_file is not None else None
        wanted_cwd = _absolute(cwd) if cwd is not None else None
        # First of all: a start that fails must not leave the report of an earlier run to be taken for its own.
        notice = _clear_report(report_path) if report_path is not None else ""
        _check(argv, user, {**(kept_env or {}), **(env or {})}, grace, kill, tracker)
        resource_limits.check(limits or {})
        job_id = job_id or ledger.new_id()
        if not ledger.is_id(job_id):
            raise StartError("invalid", f"{job_id!r} is not a job id: use ledger.new_id()")
        job = cls(job_id, Ladder(grace, kill), folder, report_path, marks.choose())
        if notice:
            job.notices.append(notice)
        config = {
            "id": job.id,
            "supervisor": _own_identity(),
            "argv": list(argv),
            "user": user,
            **_environment(user, env, kept_env),
            "cwd": wanted_cwd,
            "here": _here(),
            "grace": grace,
            "kill": kill,
            "state_dir": folder,
            "report_file": report_path,
            "tracker": tracker,
            "label": label,
            "mark": job._mark,
            "limits": dict(limits or {}),
        }
        # From here on somebody may wait for the job: what fails is told to them too, by `_begin`.
        if prepared is not None:
            prepared(job)
        beginning = asyncio.ensure_future(job._begin(config, (stdin, stdout, stderr)))
        try:
            await asyncio.shield(beginning)
        except asyncio.CancelledError:
            # The start goes on to its end, which is bounded, and the job is ended then: half started it could be lost.
            job._request_end(0)
            beginning.add_done_callback(job._abandon)
            await job._let_go(beginning)
            raise
        return job

    @property
    def report(self) -> Report | None:
        """The report, once the ending is over."""
        return self._report.result() if self._report.done() else None

    @property
    def returncode(self) -> int | None:
        """The command's status as `wait` gives it, or None while it runs."""
        return self._status.result() if self._status.done() else None

    async def wait(self) -> int:
        """Wait for the command: its status, or -N if signal N ended it, as subprocess has it.

        If the reaper was killed, and the status went with it, that is -9.
        """
        return await asyncio.shield(self._status)

    async def ending(self) -> None:
        """Wait until the tree is being ended, for whatever reason: the command's exit, a request, a killed reaper."""
        await self._ending.wait()

    async def ended(self) -> Report:
        """Wait for the ending without asking for it. The command's exit is a reason to end what it left behind."""
        return await asyncio.shield(self._report)

    async def end(self, *, grace: float | None = None) -> Report:
        """End the tree and say what can be proven.

        Any number of callers, at once or later, share one ending and get the same report. A caller that is cancelled
        does not cut it short; one with a shorter grace hurries it.
        """
        if not self._report.done():
            self._request_end(self._ladder.grace if grace is None else grace)
        return await self.ended()

    async def suspend(self) -> None:
        """Stop the tree (SIGSTOP), and return when nobody of it runs, when it has ended, or after a bounded time."""
        if self._report.done():
            return
        self._suspended = self._loop.create_future()
        self._send({"suspend": {}})
        await asyncio.wait([self._suspended], timeout=_SUSPEND_WITHIN)

    def resume(self) -> None:
        """Continue what `suspend` stopped. An end that is asked for meanwhile needs none."""
        self._send({"resume": {}})

    def _request_end(self, grace: float) -> None:
        self._ending.set()
        if self._wire is None:
            self._unsent_end = grace if self._unsent_end is None else min(grace, self._unsent_end)
            return
        self._send({"end": {"grace": grace}})
        self._watch_the_reaper(grace)

    def _never_started(self, error: BaseException) -> None:
        """Tell callers of `end`, `ended` and `wait` who came before the start had failed; there may be none."""
        if isinstance(error, StartError) and error.report is not None and not self._report.done():
            self._report.set_result(error.report)
        self._ending.set()
        failure = error if isinstance(error, Exception) else StartError("interrupted", "the event loop was closed")
        for awaited in (self._report, self._status):
            if not awaited.done():
                awaited.set_exception(failure)
                awaited.exception()

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
        if self._report.done() or sys.platform != "linux":
            return []
        call = partial(part.end_part, self._reaper_identity, self.user, choose, grace=grace, kill=kill)
        return await _PARTS.run(call, grace + kill + _PART_MARGIN)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.end()
        self._close_streams()
        # The transports close their descriptors in the loop's next turn.
        await asyncio.sleep(0)

    async def _begin(self, config: dict[str, Any], streams: tuple[int | None, int | None, int | None]) -> None:
        """Start the command. However that fails, those who wait for the job hear of it."""
        try:
            await self._set_up(config, streams)
        except OSError as error:
            text = f"the job could not be set up ({error.strerror}): end some processes, or raise the limit"
            failure = StartError("fork", text)
            self._never_started(failure)
            raise failure from error
        except BaseException as error:
            self._never_started(error)
            raise

    async def _set_up(self, config: dict[str, Any], streams: tuple[int | None, int | None, int | None]) -> None:
        own, theirs = _lifeline()
        self._adopts = config["tracker"] != "portable"
        add_job(adopts=self._adopts)
        try:
            self._reaper = _start_reaper(theirs.fileno(), streams)
        except BaseException:
            own.close()
            self._forget()
            raise
        finally:
            theirs.close()
        self.reaper_pid = self._reaper.pid
        try:
            # Nobody has waited for it: the pid is surely its own.
            self._reaper_identity = (self.reaper_pid, host_table().start_time(self.reaper_pid) or UNKNOWN)
            _, self._wire = await self._loop.create_connection(lambda: _Wire(self), sock=own)
        except BaseException:
            # The closed lifeline ends the reaper, which has nothing yet.
            own.close()
            self._forget()
            raise
        try:
            self._send({"start": config})
            if self._unsent_end is not None:
                self._request_end(self._unsent_end)
            await self._connect_streams(self._reaper)
            async with asyncio.timeout(_START_WITHIN):
                await asyncio.shield(self._started)
        except StartError as error:
            await self._failed_to_start(error)
        except TimeoutError:
            self._started.add_done_callback(lambda started: started.exception())
            self._request_end(0)
            why = "its program, its folder or sudo does not answer"
            await self._failed_to_start(StartError("hung", f"it did not start within {_START_WITHIN:g} s: {why}"))
        except BaseException:
            # The loop is closing: the lifeline goes with it.
            self._abandon()
            raise

    async def _connect_streams(self, reaper: subprocess.Popen[bytes]) -> None:
        if reaper.stdin is not None:
            # A protocol with a reader of its own, because StreamWriter.wait_closed asks it.
            transport, protocol = await self._loop.connect_write_pipe(
                lambda: asyncio.StreamReaderProtocol(asyncio.StreamReader()), reaper.stdin
            )
            self.stdin = asyncio.StreamWriter(transport, protocol, None, self._loop)
        if reaper.stdout is not None:
            self.stdout = await self._connect_reader(reaper.stdout)
        if reaper.stderr is not None:
            self.stderr = await self._connect_reader(reaper.stderr)

    async def _connect_reader(self, pipe: IO[bytes]) -> asyncio.StreamReader:
        reader = asyncio.StreamReader(limit=_STREAM_LIMIT)
        transport, _ = await self._loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), pipe)
        self._read_transports.append(transport)
        return reader

    async def _failed_to_start(self, error: StartError) -> None:
        said, report = b"", None
        try:
            async with asyncio.timeout(self._ladder.grace + self._ladder.kill + _REAPER_MARGIN):
                report = await asyncio.shield(self._report)
                if self.stderr is not None and report.empty:
                    said = await self.stderr.read(2048)
        except TimeoutError:
            pass
        self._close_streams()
        text = said.decode("utf-8", "replace").strip()
        message = f"{error} (it said: {text})" if text else str(error)
        if report is not None and not report.empty:
            left = ", ".join(f"pid {one.pid} (state {one.state})" for one in report.survivors)
            message += f"; what was started for it cannot be ended yet: {left or 'nobody can say what'}"
        failure = StartError(error.kind, message)
        failure.report = report
        raise failure from None

    def _forget(self) -> None:
        remove_job(adopts=self._adopts)

    def _abandon(self, beginning: asyncio.Future[None] | None = None) -> None:
        """End what nobody will ask for. It is driven by the wire, and needs nobody to wait for it."""
        if beginning is not None and (beginning.cancelled() or beginning.exception() is not None):
            return
        self._started.add_done_callback(lambda started: started.exception())
        self._send({"end": {"grace": 0}})
        self._watch_the_reaper(0)
        self._report.add_done_callback(lambda _: self._close_streams())

    async def _let_go(self, beginning: asyncio.Future[None]) -> None:
        """Wait until what was begun is ended: a caller whose start was cancelled may count on there being nothing.

        One that is cancelled again does not wait; the ending goes on all the same.
        """
        await asyncio.wait([beginning])
        if self._wire is not None:
            await asyncio.wait([self._report], timeout=self._ladder.kill + _REAPER_MARGIN)

    def _close_streams(self) -> None:
        if self.stdin is not None:
            self.stdin.close()
        for transport in self._read_transports:
            transport.close()

    def _send(self, message: dict[str, Any]) -> None:
        transport = self._wire.transport if self._wire is not None else None
        if transport is None:
            return
        data = lifeline.encode(message)
        if not transport.get_write_buffer_size():
            # Not by the transport, as long as the kernel takes it: a write that failed, because the reaper has just
            # gone, would make the transport throw its last report away unread.
            try:
                data = data[os.write(transport.get_extra_info("socket").fileno(), data) :]
            except BlockingIOError:
                pass
            except OSError:
                return
        if data:
            transport.write(data)

    def _watch_the_reaper(self, grace: float) -> None:
        """A reaper that was stopped would neither report nor let go: give it its time, then inherit from it."""
        if self._watchdog is None and self._reaper is not None:
            reaper = self._reaper
            self._watchdog = self._loop.call_later(grace + self._ladder.kill + _REAPER_MARGIN, reaper.kill)

    def on_message(self, message: dict[str, Any]) -> None:
        """Take in what the reaper says. For the wire. What is malformed costs only itself."""
        try:
            self._take_in(message)
        except (KeyError, TypeError, ValueError) as error:
            self.notices.append(f"a message of the reaper was not understood ({describe(error)}): {list(message)[:3]}")

    def _take_in(self, message: dict[str, Any]) -> None:
        if "started" in message and not self._started.done():
            started = message["started"]
            pid, uid, user = int(started["pid"]), int(started["uid"]), str(started["user"])
            self._command = (pid, int(started["start_time"]))
            self.pid, self._uid, self.user = pid, uid, user
            remember_account(uid, user)
            self._started.set_result(None)
        elif "error" in message and not self._started.done():
            self._started.set_exception(StartError(str(message["error"]["kind"]), str(message["error"]["message"])))
        elif "exited" in message and not self._status.done():
            self._status.set_result(int(message["exited"]))
            self._command = None
        elif "notice" in message:
            self.notices.append(str(message["notice"]))
        elif "suspended" in message:
            self._hear_suspended()
        elif "ending" in message:
            self._ending.set()
            self._watch_the_reaper(self._ladder.grace)
        elif "report" in message:
            self._told = Report.from_json(message["report"])
            if not self._told.empty:
                self._finish(self._told)

    def _hear_suspended(self) -> None:
        if self._suspended is not None and not self._suspended.done():
            self._suspended.set_result(None)

    def _finish(self, report: Report) -> None:
        self._ending.set()
        self._hear_suspended()
        if self._watchdog is not None:
            self._watchdog.cancel()
            self._watchdog = None
        if not self._started.done():
            why = "; ".join(report.notes) or "no reason is known"
            self._started.set_exception(StartError("internal", f"the command could not be held: {why}"))
        if not self._status.done():
            self._status.set_result(-signal.SIGKILL)
        if not self._report.done():
            self._report.set_result(report)
        if report.empty and self.stdin is not None:
            self.stdin.close()

    def on_lifeline_closed(self) -> None:
        """The reaper has gone: as it should, after its report, or killed. For the wire."""
        if self._wire is not None:
            self._wire.transport = None
        self._collect_reaper()

    def _collect_reaper(self) -> None:
        assert self._reaper is not None
        if self._reaper.poll() is None and self._collecting < _EXIT_WITHIN:
            # Its end of the lifeline closes a moment before it can be waited for.
            pause = max(0.0005, min(self._collecting, 0.05))
            self._collecting += pause
            self._loop.call_later(pause, self._collect_reaper)
            return
        if self._told is not None and self._told.empty:
            self._forget()
            # Only now: an empty verdict covers the reaper too.
            self._finish(self._told)
        else:
            self._inherit()

    def _inherit(self) -> None:
        """The reaper was killed: the tree, or what it still held of it, has fallen to this process, which ends it."""
        self._ending.set()
        inheritance = Inheritance(
            state_dir=self._state_dir,
            job_id=self.id,
            command_pid=self.pid,
            reaper_pid=self.reaper_pid,
            seeds={self._command} if self._command is not None else set(),
            mark=self._mark,
            uid=self._uid,
            ladder=self._ladder,
            report_file=self._report_file,
            adopts=self._adopts,
        )
        try:
            inheritance.start(self._loop, self._inherited, self._forget)
        except Exception as error:  # noqa: BLE001 - whatever it is, those who wait for the end must hear of it
            note = f"the reaper was killed, and the supervisor could not end the tree: {describe(error)}"
            self._finish(
                Report(SURVIVORS, None, 0.0, cause="reaper_died", ended_by="supervisor", notes=(note,), job_id=self.id)
            )

    def _inherited(self, report: Report, status: int | None) -> None:
        if status is not None and not self._status.done():
            self._status.set_result(status)
        self._finish(report)


class _Wire(asyncio.Protocol):
    """The supervisor's end of the lifeline."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._decoder = lifeline.Decoder()
        self.transport: asyncio.WriteTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        for message in self._decoder.feed(data):
            if isinstance(message, dict):
                self._job.on_message(message)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the protocol's own
        self._job.on_lifeline_closed()


def _lifeline() -> tuple[socket.socket, socket.socket]:
    try:
        own, theirs = (_above_the_streams(end) for end in socket.socketpair())
    except OSError as error:
        raise StartError("fork", f"{_NOT_STARTED} ({error.strerror}): close some files, or raise the limit") from error
    own.setblocking(False)
    return own, theirs


def _above_the_streams(end: socket.socket) -> socket.socket:
    # Where the caller has closed its standard streams, a new socket would get the number of one of them.
    if end.fileno() > 2:
        return end
    above = fcntl.fcntl(end.fileno(), fcntl.F_DUPFD_CLOEXEC, 3)
    end.close()
    return socket.socket(fileno=above)


def _check(
    argv: Sequence[str], user: str | None, env: Mapping[str, str], grace: float, kill: float, tracker: str
) -> None:
    if tracker not in TRACKERS:
        raise StartError("invalid", f"tracker {tracker!r} is not one of {', '.join(TRACKERS)}")
    if not argv:
        raise StartError("invalid", "there is no command to run")
    if bad := [word for word in [*argv, *env, user or ""] if not _can_be_told(word)]:
        raise StartError("invalid", f"{bad[0]!r} holds a NUL byte, or what no argument can hold")
    # The value is not shown: it may be a secret.
    if names := [name for name, value in env.items() if not name or "=" in name or not _can_be_told(value)]:
        raise StartError("invalid", f"the variable {names[0]!r} cannot be given to a command: a bad name or a NUL byte")
    if not (0 <= grace < math.inf and 0 <= kill < math.inf):
        raise StartError("invalid", "grace and kill are seconds: finite, and not negative")
    # One message carries both to the reaper; the kernel would refuse them at a fraction of that.
    if sum(map(len, [*argv, *env, *env.values()])) > lifeline.MOST_BYTES // 8:
        raise StartError("invalid", "the arguments and the environment are larger than any command may have")


def _own_identity() -> Identity:
    if (why := why_unusable()) is not None:
        raise StartError("proc", f"no job can be held here: {why}")
    try:
        start_time = host_table().start_time(os.getpid())
    except OSError as error:
        raise StartError("fork", f"{_NOT_STARTED} ({error.strerror}): close some files, or raise the limit") from error
    if start_time is None:
        # A record that does not know its supervisor would be taken for a dead one's, and its job ended by a sweep.
        raise StartError(
            "internal", "this process's own entry in the process table cannot be read: without it no job is started"
        )
    return os.getpid(), start_time


def _absolute(path: str | os.PathLike[str]) -> str:
    try:
        found = os.path.abspath(path)
    except FileNotFoundError:
        raise StartError("cwd", "this process's own folder is gone, and a path is relative to it") from None
    if not _can_be_told(found):
        raise StartError("invalid", f"the path {found!r} holds a NUL byte, or what no file name can hold")
    return found


def _can_be_told(word: str) -> bool:
    """Whether the kernel takes it as a name or an argument."""
    try:
        return b"\0" not in os.fsencode(word)
    except UnicodeEncodeError:
        return False


def _clear_report(path: str) -> str:
    """Remove the report of an earlier run; a sentence if it may still be there."""
    try:
        clear_report(path)
    except OSError as error:
        return f"the report of an earlier run could not be removed from {path}: {error.strerror}"
    return ""


def _here() -> str:
    try:
        return os.getcwd()
    except OSError:
        return "/"


def _start_reaper(descriptor: int, streams: tuple[int | None, int | None, int | None]) -> subprocess.Popen[bytes]:
    stdin, stdout, stderr = streams
    if not sys.executable:
        raise StartError("internal", "this Python does not know its own interpreter (sys.executable is empty)")
    try:
        return subprocess.Popen(
            [sys.executable, "-I", "-S", _BOOT, str(descriptor)],
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            bufsize=0,
            pass_fds=[descriptor],
            start_new_session=True,
            env={name: os.environ[name] for name in _BARE_NAMES if name in os.environ},
            cwd="/",
        )
    except OSError as error:
        raise StartError(
            "fork", f"{_NOT_STARTED} ({error.strerror}): end some processes, or raise the limit"
        ) from error


def _environment(
    user: str | None, env: Mapping[str, str] | None, kept: Mapping[str, str] | None
) -> dict[str, dict[str, str] | list[str]]:
    """The environment of the command (or of the sudo above it), and what sudo is to pass on or to set."""
    if is_this_account(user):
        own = dict(os.environ) if env is None and kept is None else {**(kept or {}), **(env or {})}
        return {"env": own, "preserve": [], "assign": {}}
    bare = {name: os.environ[name] for name in _BARE_NAMES if name in os.environ}
    # Of a service that is root the loader would obey them in sudo itself; of another it takes them out.
    below = {name: value for name, value in (kept or {}).items() if not name.startswith(_LOADER_PREFIXES)}
    assign = {name: below.pop(name) for name in _WITHHELD if name in below and name not in (env or {})}
    return {"env": {**bare, **below, **(env or {})}, "preserve": sorted(env or {}), "assign": assign}


__all__ = ["DEVNULL", "INHERIT", "PIPE", "Job", "JobError"]
