"""The job's mark: an odd value of RLIMIT_RTTIME that every process of the job inherits.

A resource limit is inherited over fork and exec, setsid, setuid and sudo (pam_limits sets only what its files name);
/proc/PID/limits is readable across accounts, and a process without CAP_SYS_RESOURCE can lower the mark but never
raise it. So a process that carries the number of a job was started, at whatever distance, by that job: the sweep finds
daemons that no record ever named, and the supervisor tells a job's orphans from its own children.

RLIMIT_RTTIME bounds the CPU time of a *real-time* process between two blocking calls, in microseconds. The smallest
mark is 12 days of it, the largest 146,000 years, so nothing that runs notices. A process that lowers the limit for
itself (rtkit clients do) loses the mark, and so does what it starts: the mark adds to the record, and replaces nothing.
"""

from __future__ import annotations

import os
import sys

RLIMIT_RTTIME = 15
"""Linux, on every architecture; the resource module does not name it."""

_LOWEST = 1 << 40
_HIGHEST = 1 << 62
_LINE = b"Max realtime timeout"


def choose() -> int:
    """A new mark, or 0 where this host or the limits of this process leave no room for one."""
    if sys.platform != "linux":
        return 0
    import resource

    _soft, hard = resource.getrlimit(RLIMIT_RTTIME)
    ceiling = _HIGHEST if hard == resource.RLIM_INFINITY else min(hard, _HIGHEST)
    if ceiling <= _LOWEST * 2:
        return 0
    return _LOWEST + int.from_bytes(os.urandom(8), "big") % (ceiling - _LOWEST)


def apply(mark: int) -> None:
    """Give this process the mark, and with it all that it will start. Called between fork and exec."""
    import resource

    _soft, hard = resource.getrlimit(RLIMIT_RTTIME)
    # Inside another job the hard limit is that job's mark: it stays, so that both can be told.
    resource.setrlimit(RLIMIT_RTTIME, (mark, mark if hard == resource.RLIM_INFINITY else hard))


def carries(pid: int, mark: int) -> bool:
    """Whether the process has the mark. False when it is gone, or hidden (hidepid=2)."""
    return bool(mark) and mark in (limits(pid) or ())


def limits(pid: int) -> tuple[int, ...] | None:
    """The finite limits of real-time CPU time of a process, soft and hard; None when it is gone, dead or hidden."""
    try:
        descriptor = os.open(f"/proc/{pid}/limits", os.O_RDONLY | os.O_CLOEXEC)
        try:
            text = os.read(descriptor, 4096)
        finally:
            os.close(descriptor)
    except OSError:
        return None
    return parse(text) if text else None


def is_a_mark(number: int) -> bool:
    """Whether a limit can only be a job's mark: nobody else limits real-time processes to days of CPU time."""
    return _LOWEST <= number <= _HIGHEST


def parse(limits: bytes) -> tuple[int, ...]:
    """The finite values, soft and hard, of the realtime timeout in the text of /proc/PID/limits."""
    at = limits.find(_LINE)
    if at < 0:
        return ()
    fields = limits[at + len(_LINE) : limits.find(b"\n", at)].split()[:2]
    return tuple(int(field) for field in fields if field.isdigit())
