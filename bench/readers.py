"""The ways of finding what is below a process. Run inside driver.py, as the service account."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

from corral.process.bare import procfs


def children_files(root: int) -> int:
    """Corral's walk over /proc/PID/task/TID/children."""
    return len(procfs.descendants(root))


def scan_of_proc(root: int) -> int:
    """Corral's way where the kernel has no children files: one pass over /proc."""
    return len(procfs.descendants(root, by_scan=True))


def psutil_children(root: int) -> int:
    """`children(recursive=True)`."""
    import psutil

    return len(psutil.Process(root).children(recursive=True))


def pgrep_by_level(root: int) -> int:
    """Run `pgrep -P` once a level, down to the leaves."""
    level, found = [str(root)], 0
    while level:
        done = subprocess.run(["pgrep", "-P", ",".join(level)], capture_output=True, text=True, check=False, timeout=30)
        level = done.stdout.split()
        found += len(level)
    return found


READERS: dict[str, Callable[[int], int]] = {
    "children files (corral)": children_files,
    "/proc scan": scan_of_proc,
    "psutil children(recursive)": psutil_children,
    "pgrep -P per level": pgrep_by_level,
}


def host_size() -> int:
    """Return how many processes the host has."""
    return sum(name.isdigit() for name in os.listdir("/proc"))  # noqa: PTH208 (thousands of Path objects for nothing)


def memory(pid: int) -> dict[str, float]:
    """Return RSS, PSS, USS and the highest RSS so far of a process, in MB."""
    kilobytes: dict[str, int] = {}
    for file in ("smaps_rollup", "status"):
        for line in Path(f"/proc/{pid}/{file}").read_text().splitlines():
            name, _, rest = line.partition(":")
            if rest.strip().endswith("kB"):
                kilobytes[name] = int(rest.split()[0])
    return {
        "rss": kilobytes["Rss"] / 1024,
        "pss": kilobytes["Pss"] / 1024,
        "uss": (kilobytes["Private_Clean"] + kilobytes["Private_Dirty"]) / 1024,
        "peak": kilobytes["VmHWM"] / 1024,
    }
