"""Running one command as a job in the foreground: what `corral run` does."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Callable, Sequence

from corral.process.bare.errors import StartError
from corral.process.bare.report import Report
from corral.process.job import DEVNULL, INHERIT, Job

FAILED = 125
NOT_EXECUTABLE = 126
NOT_FOUND = 127

_SIGNALS_ARE_HEARD = 0.01
"""Seconds: a few turns of the event loop."""
_NEEDED = 8
"""Descriptors that a start takes for a moment."""
_STREAMS = {"-": 1, "/dev/stdout": 1, "/dev/stderr": 2}

_STATUS_OF_KIND = {"not_found": NOT_FOUND, "not_executable": NOT_EXECUTABLE}
_ENDING_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


async def run(
    argv: Sequence[str],
    *,
    user: str | None,
    grace: float,
    kill: float,
    report_file: str | None,
    state_dir: str | None,
    tracker: str,
    say: Callable[[str], None],
) -> int:
    """Run argv over this process's standard streams until its tree is gone; the exit status of the contract.

    report_file: `-` is standard output. What names a descriptor of this process (/dev/stdout, /dev/fd/63) is written by
    it, when all is over, and by nobody if it is killed: the reaper has descriptors of its own.

    TERM, INT and HUP end the tree; a second one takes away the grace. A HUP that was ignored at the start (nohup) stays
    ignored. `say` gets sentences for the person.
    """
    descriptor = _own_descriptor(report_file) if report_file is not None else None
    ender = _Ender()
    ender.listen()
    stopper = _Stopper(ender, say)
    stopper.listen()
    stdin = INHERIT
    if _in_background():
        # The command is in a session of its own, where no SIGTTIN keeps it from reading what is typed at the shell.
        stdin = DEVNULL
        say("in the background the command has no input: the terminal is the shell's")
    try:
        job = await Job.start(
            argv,
            user=user,
            stdin=stdin,
            stdout=INHERIT,
            stderr=INHERIT,
            grace=grace,
            kill=kill,
            report_file=report_file if descriptor is None else None,
            state_dir=state_dir,
            tracker=tracker,
            prepared=ender.take,
        )
    except StartError as error:
        await stopper.finish()
        await ender.finish()
        _write(error.report, descriptor, say)
        return _not_started(error, say)
    stopper.take(job)
    report = await job.ended()
    await stopper.finish()
    await ender.finish()
    _write(report, descriptor, say)
    return await _ended(job, report, say)


async def _ended(job: Job, report: Report, say: Callable[[str], None]) -> int:
    for notice in (*job.notices, *report.notes):
        say(notice)
    if not report.empty:
        for line in survivors_text(report):
            say(line)
        return FAILED
    status = await job.wait()
    return status if status >= 0 else 128 - status


def _not_started(error: StartError, say: Callable[[str], None]) -> int:
    if error.report is not None and not error.report.empty:
        for line in (str(error), *survivors_text(error.report)):
            say(line)
        return FAILED
    if error.kind == "interrupted":
        return 128 + signal.SIGTERM  # as if it had come a moment later, and ended the command
    say(str(error))
    return _STATUS_OF_KIND.get(error.kind, FAILED)


def _own_descriptor(path: str) -> int | None:
    """The descriptor of this process that a path names, or None for a file."""
    if path in _STREAMS:
        return _STREAMS[path]
    for folder in ("/dev/fd/", "/proc/self/fd/"):
        number = path.removeprefix(folder)
        if number != path and number.isdecimal():
            return int(number)
    return None


def _write(report: Report | None, descriptor: int | None, say: Callable[[str], None]) -> None:
    if report is None or descriptor is None:
        return
    data = json.dumps(report.to_json(), indent=2).encode() + b"\n"
    try:
        while data:
            data = data[os.write(descriptor, data) :]
    except OSError as error:
        say(f"the report could not be written to descriptor {descriptor}: {error.strerror}")


def has_room() -> bool:
    """Whether the event loop, a lifeline and a pipe for errors can be opened, beside what is open."""
    opened: list[int] = []
    try:
        opened.extend(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC) for _ in range(_NEEDED))
    except OSError:
        return False
    finally:
        for one in opened:
            os.close(one)
    return True


class _Ender:
    """Turns signals to this process into endings of the job."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._job: Job | None = None
        self.asked = 0
        self._endings: set[asyncio.Task[Report]] = set()
        self._numbers: list[signal.Signals] = []

    def listen(self) -> None:
        for number in _ENDING_SIGNALS:
            if number == signal.SIGHUP and signal.getsignal(number) is signal.SIG_IGN:
                continue
            self._loop.add_signal_handler(number, self._ask)
            self._numbers.append(number)

    def take(self, job: Job) -> None:
        self._job = job
        if self.asked:
            self._end()

    async def finish(self) -> None:
        for number in self._numbers:
            self._loop.remove_signal_handler(number)
        # What failed of them is the start, and that is said by its own error.
        await asyncio.gather(*self._endings, return_exceptions=True)

    def _ask(self) -> None:
        self.asked += 1
        if self._job is not None:
            self._end()

    def _end(self) -> None:
        assert self._job is not None
        self._endings.add(self._loop.create_task(self._job.end(grace=None if self.asked == 1 else 0)))


class _Stopper:
    """Ctrl-Z: the tree stops with this process and goes on with it, as a shell's own job does.

    The command is in a session of its own, where the terminal's signals do not reach it: it would go on reading.
    """

    def __init__(self, ender: _Ender, say: Callable[[str], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._job: Job | None = None
        self._ender = ender
        self._asked = False
        self._say = say
        self._task: asyncio.Task[None] | None = None
        self._continued = False

    def listen(self) -> None:
        # Ignored where there is no shell that could continue it.
        if signal.getsignal(signal.SIGTSTP) is not signal.SIG_IGN:
            self._loop.add_signal_handler(signal.SIGTSTP, self._stop)

    def take(self, job: Job) -> None:
        self._job = job
        if self._asked:
            self._stop()

    async def finish(self) -> None:
        self._loop.remove_signal_handler(signal.SIGTSTP)
        if self._task is not None:
            await self._task

    def _stop(self) -> None:
        self._asked = True
        # While the command starts there is nobody to stop yet.
        if self._job is not None and (self._task is None or self._task.done()):
            self._task = self._loop.create_task(self._stop_and_go_on(self._job))

    async def _stop_and_go_on(self, job: Job) -> None:
        await job.suspend()
        number = signal.SIGTSTP
        while job.report is None and self._is_stopped_by(number):
            # What was sent with the CONT that ended the stop (`kill %1` sends TERM) is heard first.
            await asyncio.sleep(_SIGNALS_ARE_HEARD)
            if self._ender.asked or not _in_background():
                break
            self._say("it stays stopped in the background, where its command would read this terminal: use fg")
            number = signal.SIGTTIN
        job.resume()

    def _is_stopped_by(self, number: signal.Signals) -> bool:
        # The kernel drops these signals for a process group that nobody would continue (setpgid(2), orphaned).
        self._continued = False
        self._loop.remove_signal_handler(signal.SIGTSTP)
        before = signal.signal(signal.SIGCONT, self._on_continue)
        os.kill(os.getpid(), number)
        signal.signal(signal.SIGCONT, before)
        self._loop.add_signal_handler(signal.SIGTSTP, self._stop)
        return self._continued

    def _on_continue(self, _number: int, _frame: object) -> None:
        self._continued = True


def _in_background() -> bool:
    """Whether standard input is the terminal of this session, and another process group has it."""
    try:
        return os.tcgetpgrp(0) != os.getpgrp()
    except OSError:
        return False


def survivors_text(report: Report) -> list[str]:
    """The survivors of a report, a line each, with what would help."""
    holder = "their reaper holds them and goes on trying" if report.ended_by == "reaper" else "later: corral sweep"
    return [
        f"{len(report.survivors)} processes still run; {holder}:",
        *(
            f"  pid {one.pid} ({one.user}, state {one.state}) {one.command[:80]}: {one.reason}"
            for one in report.survivors
        ),
    ]
