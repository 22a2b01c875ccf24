"""Mounts of our own: a private mount namespace, so that nothing a test mounts is seen by the machine or stays on it."""

import ctypes
import os
from pathlib import Path

CLONE_NEWNS, CLONE_NEWPID = 0x00020000, 0x20000000
MS_RDONLY, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 0x1, 0x20, 0x1000, 0x4000, 0x40000
MNT_DETACH = 2
PR_SET_CHILD_SUBREAPER = 36

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def _mount(source: str, target: Path, kind: str, flags: int, data: str = "") -> None:
    _check(
        _libc.mount(source.encode(), str(target).encode(), kind.encode(), ctypes.c_ulong(flags), data.encode()),
        f"mount {source} on {target}",
    )


def enter_private() -> None:
    """Give this process, and what it starts from here on, a view of the mounts that it shares with nobody."""
    _check(_libc.unshare(CLONE_NEWNS), "unshare")
    _mount("none", Path("/"), "none", MS_REC | MS_PRIVATE)


def unshare_pids() -> None:
    """Have the next child of this process be process 1 of a PID namespace of its own."""
    _check(_libc.unshare(CLONE_NEWPID), "unshare")


def proc(options: str = "") -> None:
    """Mount the /proc of this process's PID namespace over /proc."""
    _mount("proc", Path("/proc"), "proc", 0, options)


def tmpfs(target: Path, mode: str, size: str = "50%") -> None:
    _mount("tmpfs", target, "tmpfs", 0, f"mode={mode},size={size}")


def bind(source: Path, target: Path, *, read_only: bool = True) -> None:
    _mount(str(source), target, "none", MS_BIND | MS_REC)
    if read_only:
        _mount("none", target, "none", MS_BIND | MS_REMOUNT | MS_RDONLY)


def freezer(target: Path) -> None:
    """Mount the freezer of cgroup v1. What it has frozen survives KILL, where that of cgroup v2 lets KILL through."""
    _mount("none", target, "cgroup", 0, "freezer")


def unmount(target: Path) -> None:
    _check(_libc.umount2(str(target).encode(), MNT_DETACH), f"umount {target}")


def adopt_orphans() -> None:
    """Become the subreaper of what the tests start, for machines whose init reaps nothing."""
    _check(_libc.prctl(PR_SET_CHILD_SUBREAPER, ctypes.c_ulong(1)), "prctl(PR_SET_CHILD_SUBREAPER)")
