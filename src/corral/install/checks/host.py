"""What the kernel of this machine can do: how far an ending can be proven."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import corral
from corral.install.finding import Findings, error, ok, skip, warn
from corral.process.bare import mark, prctl, procfs
from corral.process.bare.table import Identity

COLLECTED_WITHIN = 1.0
"""Seconds after which a dead child of process 1 counts as one that nobody collects."""

_SCAN = "endings are called empty_by_scan here, never proven_empty"


def subreaper() -> Findings:
    """Whether the kernel lets a process adopt what its descendants lose: all proof rests on it."""
    if sys.platform != "linux":
        yield warn("subreaper", f"{sys.platform} has none: {_SCAN}")
        return
    before = prctl.is_child_subreaper()
    worked = prctl.set_child_subreaper(True) and prctl.is_child_subreaper()
    prctl.set_child_subreaper(before)
    if worked:
        yield ok("subreaper", "works: endings are proven by the kernel")
    else:
        yield error("subreaper", f"the kernel refuses it: {_SCAN}", "look for a seccomp filter that denies prctl")


def children_files() -> Findings:
    """Whether trees can be read at the cost of the tree."""
    if sys.platform != "linux":
        yield skip("children files", "they are Linux's")
    elif procfs.has_children_files():
        yield ok("children files", "the kernel has them")
    else:
        yield warn(
            "children files",
            "the kernel has no /proc/PID/task/TID/children: each look at a tree reads all of /proc",
            "use a kernel with CONFIG_PROC_CHILDREN",
        )


def hidden_processes() -> Findings:
    """Whether this account may see the processes of others."""
    if sys.platform != "linux":
        yield skip("hidden processes", "hidepid is Linux's")
    elif not procfs.hides_others():
        yield ok("hidden processes", "/proc shows the processes of all accounts")
    else:
        yield warn(
            "hidden processes",
            "/proc hides the processes of other accounts (hidepid): agents are ended and proven as always, but a sweep "
            "cannot say that nothing is left of a killed service, and trees show as ?",
            "let the service's group see them: mount /proc with gid=GROUP, of which the service's account is a member",
        )


def marks() -> Findings:
    """Whether jobs can be given a mark, by which a sweep finds what no record names."""
    if sys.platform != "linux":
        yield skip("job marks", "they are Linux's")
    elif mark.choose():
        yield ok("job marks", "there is room for them in RLIMIT_LOCKS or RLIMIT_RTTIME")
    else:
        yield warn(
            "job marks",
            "RLIMIT_LOCKS and RLIMIT_RTTIME are limited here: a sweep finds only what the ledger names",
            "lift one of the limits (LimitLOCKS=infinity in the unit)",
        )


def process_1() -> Findings:
    """Whether the dead are collected: in many containers process 1 is a program that waits for nobody."""
    label = "process 1"
    if sys.platform != "linux":
        yield skip(label, "it is launchd here")
        return
    name = _name_of(1)
    uncollected = _dead_children_of(1)
    deadline = time.monotonic() + COLLECTED_WITHIN
    while uncollected and time.monotonic() < deadline:
        time.sleep(0.05)
        uncollected &= _dead_children_of(1)
    if uncollected:
        yield warn(
            label,
            f"{name} does not collect what dies: {len(uncollected)} dead processes stay in the process table",
            "start the container with an init (docker run --init), or with `corral serve` as its process 1",
        )
    else:
        yield ok(label, f"{name}: no dead process is left uncollected")


def _name_of(pid: int) -> str:
    process = procfs.read(pid)
    return process.comm if process is not None else "a process that is hidden"


def _dead_children_of(pid: int) -> set[Identity]:
    return {process.identity for process in procfs.scan() if process.ppid == pid and not process.living}


def clock() -> Findings:
    """Whether the time is at least later than the installation's."""
    newest = max(file.stat().st_mtime for file in Path(corral.__file__).parent.glob("*.py"))
    behind = newest - time.time()
    if behind > 60:
        yield warn(
            "clock",
            f"it is behind the installed files by {behind:.0f} s: history and pruning go by it",
            "set the time, and have it kept",
            "sudo timedatectl set-ntp true",
        )
    else:
        yield ok("clock", time.strftime("%Y-%m-%d %H:%M:%S %Z"))
