"""Idle processes that make the host look busy: `python3 -I -S idle.py` keeps as many as each line of its input says.

They are children of the one process that forks them, which ends and reaps them; at the end of its input it keeps none.
Should it be killed itself, the kernel sends them KILL (PDEATHSIG).
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def fork_one(libc: ctypes.CDLL) -> int:
    """Fork one idle process and return its pid."""
    parent = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    try:
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        os.closerange(0, 3)
        while os.getppid() == parent:
            signal.pause()
    finally:
        os._exit(0)


def keep(pids: list[int], number: int, libc: ctypes.CDLL) -> None:
    """Have exactly so many. A child that nobody waited for keeps its pid, so that none of these is a stranger's."""
    while len(pids) < number:
        pids.append(fork_one(libc))
    leaving = pids[number:]
    del pids[number:]
    for pid in leaving:
        os.kill(pid, signal.SIGKILL)
    for pid in leaving:
        os.waitpid(pid, 0)


def main() -> None:
    """Follow the lines of standard input."""
    libc = ctypes.CDLL(None)
    pids: list[int] = []
    try:
        for line in sys.stdin:
            keep(pids, int(line), libc)
            sys.stdout.write(f"{len(pids)}\n")
            sys.stdout.flush()
    finally:
        keep(pids, 0, libc)


if __name__ == "__main__":
    main()
