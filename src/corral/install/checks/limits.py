"""Limits of this account, held against what the config lets run at once."""

from __future__ import annotations

import os
import resource
import sys

from corral.install.finding import Findings, ok, skip, warn
from corral.install.subjects import Subjects
from corral.install.units import DESCRIPTORS_OF_BACKEND
from corral.process.bare import procfs

DESCRIPTORS_BESIDE = 64
PROCESSES_OF_BACKEND = 3
"""Of the service's account: the reaper, sudo (the kernel counts it for whoever called it), and a call of sudo kill."""


def open_files(subjects: Subjects) -> Findings:
    """RLIMIT_NOFILE."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    backends = subjects.config.pool.backends
    needed = DESCRIPTORS_BESIDE + backends * DESCRIPTORS_OF_BACKEND
    if soft in (resource.RLIM_INFINITY, -1) or soft >= needed:
        yield ok("open files", f"{soft} allowed here, {needed} needed for {backends} backends")
    else:
        yield warn(
            "open files",
            f"{soft} allowed here, {needed} needed for {backends} backends at once",
            f"LimitNOFILE={needed} in the unit, or fewer backends in [pool]",
        )


def processes(subjects: Subjects) -> Findings:
    """RLIMIT_NPROC, which the kernel counts over all of an account."""
    label = "processes"
    soft, _ = resource.getrlimit(resource.RLIMIT_NPROC)
    if os.getuid() == 0:
        yield skip(label, "the limit does not hold for root")
        return
    if soft == resource.RLIM_INFINITY or sys.platform != "linux":
        yield ok(label, "not limited" if soft == resource.RLIM_INFINITY else f"{soft} allowed here")
        return
    running = sum(row.threads for row in procfs.scan() if row.uid == os.getuid())
    needed = running + subjects.config.pool.backends * PROCESSES_OF_BACKEND
    if soft >= needed:
        yield ok(label, f"{soft} allowed to {subjects.service}, {needed} needed for all backends and what runs now")
    else:
        yield warn(
            label,
            f"{soft} allowed to {subjects.service}, {needed} needed for all backends and what runs now",
            f"LimitNPROC={needed * 2} in the unit, or in /etc/security/limits.conf",
        )
