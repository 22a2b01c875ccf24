"""The process table of a host without Linux's /proc (macOS), through psutil.

It fits `table.ProcessTable`. Start times are psutil's create_time in microseconds. No macOS machine was at hand when
this was written: it is tested on Linux against `procfs`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

import psutil

from corral.process.bare.table import UNKNOWN, Births, Namespace, Process, is_gone

_Answer = TypeVar("_Answer")
_CLOCK_MARGIN = 2.0
"""Seconds by which start times may be off: psutil on Linux knows the time of boot to the second."""

_STATES = {
    psutil.STATUS_RUNNING: "R",
    psutil.STATUS_SLEEPING: "S",
    psutil.STATUS_DISK_SLEEP: "D",
    psutil.STATUS_STOPPED: "T",
    psutil.STATUS_TRACING_STOP: "t",
    psutil.STATUS_ZOMBIE: "Z",
    psutil.STATUS_DEAD: "X",
    psutil.STATUS_IDLE: "I",
}


def read(pid: int) -> Process | None:
    """The process, or None if it is gone or may not be read. Raises OSError if that cannot be said."""
    return _ask(lambda: _row(psutil.Process(pid)))


def start_time(pid: int) -> int | None:
    """The start time of the process that has this pid now, or None."""
    return _ask(lambda: round(psutil.Process(pid).create_time() * 1_000_000))


def clock() -> int:
    """A start time that no process born from now on falls below, unless the clock of the host is set back."""
    return round((time.time() - _CLOCK_MARGIN) * 1_000_000)


def scan() -> Iterator[Process]:
    """Every process of the host that may be read, the newest pids first."""
    for pid in sorted(psutil.pids(), reverse=True):
        if (row := read(pid)) is not None:
            yield row


def hides_others() -> bool:
    """False: psutil lists every account's processes, with identity, wherever it runs."""
    return False


def births() -> Births | None:
    """None: macOS has no count of forks that any account may read."""
    return None


def command(pid: int) -> str:
    """The command line with its arguments joined by spaces, or ''."""
    try:
        return " ".join(arguments(pid))
    except OSError:
        return ""


def arguments(pid: int) -> list[str]:
    """The command line as it is, or an empty list."""
    return _ask(lambda: list(psutil.Process(pid).cmdline())) or []


def terminal(pid: int) -> bool:
    """Whether the process has a controlling terminal."""
    return _ask(lambda: psutil.Process(pid).terminal()) is not None


def unit(_pid: int) -> str:
    """'': only systemd has units."""
    return ""


def boot_id() -> str:
    """The time of boot; start times are wall-clock times here, so that is enough to tell two boots apart."""
    return f"boot-{int(psutil.boot_time())}"


def namespace() -> Namespace | None:
    """The only one: macOS has no PID namespaces."""
    return Namespace(0, 0, UNKNOWN)


def host_id() -> str:
    """The host's name."""
    return os.uname().nodename


def has_ended(_namespace: Namespace) -> bool:
    """False: the only one lasts as long as the host."""
    return False


def _row(process: psutil.Process) -> Process:
    with process.oneshot():
        uids = process.uids()
        status = process.status()
        try:
            threads, rss = process.num_threads(), process.memory_info().rss
        except psutil.AccessDenied:
            # macOS shows these of the caller's own account only.
            threads, rss = 1, 0
        return Process(
            pid=process.pid,
            ppid=process.ppid(),
            pgid=_number(os.getpgid, process.pid),
            sid=_number(os.getsid, process.pid),
            start_time=round(process.create_time() * 1_000_000),
            state=_STATES.get(status, "?"),
            threads=threads,
            uid=uids.real,
            euid=uids.effective,
            saved_uid=uids.saved,
            rss=rss,
            comm=process.name(),
        )


def _ask(question: Callable[[], _Answer]) -> _Answer | None:
    """The answer, or None for a process that is gone or may not be read. Raises OSError for what says neither."""
    try:
        return question()
    except (psutil.Error, ValueError):
        return None
    except OSError as error:
        if is_gone(error):
            return None
        raise


def _number(call: Callable[[int], int], pid: int) -> int:
    try:
        return call(pid)
    except OSError:
        return UNKNOWN
