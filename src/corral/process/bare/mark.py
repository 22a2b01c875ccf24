"""The job's mark: an odd value of two resource limits, RLIMIT_RTTIME and RLIMIT_LOCKS, that all of the job inherits.

A resource limit is inherited over fork and exec, setsid, setuid and sudo (pam_limits sets only what its files name);
/proc/PID/limits is readable across accounts, and a process without CAP_SYS_RESOURCE can lower the mark but never
raise it. So a process that carries the number of a job was started, at whatever distance, by that job: the sweep finds
daemons that no record ever named, and the supervisor tells a job's orphans from its own children.

RLIMIT_RTTIME bounds the CPU time of a *real-time* process between two blocking calls, in microseconds. The smallest
mark is 12 days of it, the largest 146,000 years, so nothing that runs notices. Some programs lower it for themselves
(rtkit clients do). RLIMIT_LOCKS bounds nothing (since Linux 2.4.25 no kernel looks at it), so that nobody has a reason
to touch it: it keeps the mark of those. A process that lowers both loses the mark, and so does what it starts: the mark
adds to the record, and replaces nothing.
"""

from __future__ import annotations

import os
import sys

from corral.process.bare.table import is_gone

RLIMIT_LOCKS, RLIMIT_RTTIME = 10, 15
"""Linux, on every architecture; the resource module does not name them."""

_LOWEST = 1 << 40
_HIGHEST = 1 << 62
_LINES = (b"Max file locks", b"Max realtime timeout")


def choose() -> int:
    """A new mark, or 0 where this host or the limits of this process leave no room for one."""
    if sys.platform != "linux":
        return 0
    import resource

    hard = [resource.getrlimit(limit)[1] for limit in (RLIMIT_LOCKS, RLIMIT_RTTIME)]
    ceiling = max(_HIGHEST if limit == resource.RLIM_INFINITY else min(limit, _HIGHEST) for limit in hard)
    if ceiling <= _LOWEST * 2:
        return 0
    return _LOWEST + int.from_bytes(os.urandom(8), "big") % (ceiling - _LOWEST)


def apply(mark: int) -> None:
    """Give this process the mark, and with it all that it will start. Called between fork and exec."""
    import resource

    for limit in (RLIMIT_LOCKS, RLIMIT_RTTIME):
        _soft, hard = resource.getrlimit(limit)
        if hard == resource.RLIM_INFINITY:
            resource.setrlimit(limit, (mark, mark))
        elif hard >= mark:
            # Inside another job the hard limit is that job's mark: it stays, so that both can be told.
            resource.setrlimit(limit, (mark, hard))


def carries(pid: int, mark: int) -> bool:
    """Whether the process has the mark. False when it is gone, or hidden (hidepid=2)."""
    return bool(mark) and mark in (limits(pid) or ())


def limits(pid: int) -> tuple[int, ...] | None:
    """The finite values, soft and hard, of the two limits of a process; None when it is gone, dead or hidden.

    Raises OSError when that cannot be said.
    """
    try:
        descriptor = os.open(f"/proc/{pid}/limits", os.O_RDONLY | os.O_CLOEXEC)
        try:
            text = os.read(descriptor, 4096)
        finally:
            os.close(descriptor)
    except OSError as error:
        if is_gone(error):
            return None
        raise
    return parse(text) if text else None


def is_a_mark(number: int) -> bool:
    """Whether a limit can only be a job's mark: nobody else sets such a limit."""
    return _LOWEST <= number <= _HIGHEST


def parse(limits: bytes) -> tuple[int, ...]:
    """The finite values, soft and hard, of the two limits in the text of /proc/PID/limits."""
    found: list[int] = []
    for line in _LINES:
        at = limits.find(line)
        if at >= 0:
            fields = limits[at + len(line) : limits.find(b"\n", at)].split()[:2]
            found += [int(field) for field in fields if field.isdigit()]
    return tuple(found)
