"""Which process table this host has."""

from __future__ import annotations

import os

from corral.process.bare.table import ProcessTable

_BOOT_ID = "/proc/sys/kernel/random/boot_id"
_MOUNT = "mount one of this namespace (unshare --mount-proc, or mount -t proc proc /proc)"


def host_table() -> ProcessTable:
    """The table of this host."""
    # os.uname and not sys.platform: a type checker must not take one of the two for unreachable.
    if os.uname().sysname == "Linux":
        from corral.process.bare import procfs

        return procfs
    from corral.process.bare import psutil_table

    return psutil_table


def why_unusable() -> str | None:
    """What is wrong with this host's process table, with what to do; None for one that can be used.

    Pids from the table of another PID namespace would be other processes' here.
    """
    if os.uname().sysname != "Linux":
        return None
    shown = _own_pid_in_proc()
    if shown is None:
        return f"/proc is not mounted, or is of a PID namespace that this process is not in: {_MOUNT}"
    if shown != os.getpid():
        return f"/proc is of another PID namespace (this process is {shown} there, and {os.getpid()} here): {_MOUNT}"
    if not os.path.exists(_BOOT_ID):
        return f"/proc shows processes only (subset=pid), and {_BOOT_ID} is needed: mount it without that option"
    return None


def _own_pid_in_proc() -> int | None:
    try:
        return int(os.readlink("/proc/self"))
    except (OSError, ValueError):
        return None
