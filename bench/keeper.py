"""The process above the benchmark: it adopts and reaps like an init, and at the end it ends whatever is still there.

An init that reaps is what a host has, and many containers lack: without one, the dead that lost their parent would
stay as zombies, and the recipes that wait for them by pid would wait in vain.
"""

import ctypes
import os
import signal
import time
from collections.abc import Callable
from typing import NoReturn

from bench import judge

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
ENDED_WITHIN = 30.0


def run_below_keeper(main: Callable[[int], int]) -> NoReturn:
    """Run main(keeper's pid) in a child. This process is the keeper, and exits with main's status."""
    keeper, libc = os.getpid(), ctypes.CDLL(None)
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1)
    pid = os.fork()
    if pid == 0:
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        signal.signal(signal.SIGTERM, _interrupt)
        raise SystemExit(main(keeper))

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        # A terminal sends INT to both; whoever signals the keeper alone means the benchmark.
        signal.signal(number, lambda number, _frame: None if number == signal.SIGINT else os.kill(pid, signal.SIGTERM))
    status = _reap_until(pid)
    left = _end_the_rest()
    os.write(2, f"bench: ended {left} of its processes at the end\n".encode() if left else b"")
    os._exit(status)


def adopt_nothing() -> None:
    """Let orphans fall through to the keeper."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 0)


def _interrupt(_number: int, _frame: object) -> NoReturn:
    raise KeyboardInterrupt


def _reap_until(wanted: int) -> int:
    while True:
        pid, status = os.waitpid(-1, 0)
        if pid == wanted:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code


def _end_the_rest() -> int:
    """End everything that is below this process, which has started nothing but the benchmark."""
    ended: set[tuple[int, int]] = set()
    deadline = time.monotonic() + ENDED_WITHIN
    while time.monotonic() < deadline:
        for row in judge.scan([os.getpid()]):
            if row.living:
                ended.add((row.pid, row.start_time))
                judge.kill(row)
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            break
        time.sleep(0.01)
    return len(ended)
