"""The process table of a host without Linux's /proc (macOS), through psutil.

It fits `table.ProcessTable`. Start times are psutil's create_time in microseconds. No macOS machine was at hand when
this was written: it is tested on Linux against `procfs`.
"""

from __future__ import annotations

import os

import psutil

from corral.process.table import UNKNOWN, Process

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
    """The process, or None if it is gone or may not be read."""
    try:
        return _row(psutil.Process(pid))
    except (psutil.Error, OSError, ValueError):
        return None


def scan() -> list[Process]:
    """Every process of the host that may be read."""
    return [row for process in psutil.process_iter() if (row := _try_row(process)) is not None]


def command(pid: int) -> str:
    """The command line with its arguments joined by spaces, or ''."""
    try:
        return " ".join(psutil.Process(pid).cmdline())
    except (psutil.Error, OSError):
        return ""


def boot_id() -> str:
    """The time of boot; start times are wall-clock times here, so that is enough to tell two boots apart."""
    return f"boot-{int(psutil.boot_time())}"


def _try_row(process: psutil.Process) -> Process | None:
    try:
        return _row(process)
    except (psutil.Error, OSError):
        return None


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
            pgid=_ask(os.getpgid, process.pid),
            sid=_ask(os.getsid, process.pid),
            start_time=round(process.create_time() * 1_000_000),
            state=_STATES.get(status, "?"),
            threads=threads,
            uid=uids.real,
            euid=uids.effective,
            saved_uid=uids.saved,
            rss=rss,
            comm=process.name(),
        )


def _ask(call: object, pid: int) -> int:
    try:
        return int(call(pid))  # type: ignore[operator]
    except OSError:
        return UNKNOWN
