"""What process 1 of a container has to do besides: collect all orphans that fall to it, its own and others'.

A service must not do that itself: a wait for any child would take the statuses of children that its own code waits for.
So process 1 forks, as tini does: the child is the service, and this process waits for everybody and hands signals on.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from contextlib import suppress

LINGER = 20.0
"""Seconds for the reapers of a service that was killed to end their trees and to write their reports: when process 1
exits, the kernel kills all that is left in the namespace."""

# What the kernel raises for a fault of this process's own, and what cannot be blocked.
_OWN = {
    signal.SIGKILL,
    signal.SIGSTOP,
    signal.SIGSEGV,
    signal.SIGBUS,
    signal.SIGFPE,
    signal.SIGILL,
    signal.SIGTRAP,
    signal.SIGABRT,
    signal.SIGSYS,
}


_STOPPING = {signal.SIGTERM, signal.SIGINT, signal.SIGQUIT}


def fork_if_process_1() -> None:
    """As process 1, go on in a child, and collect orphans here until that has ended; else do nothing.

    Call it before there are threads or handlers of signals. It returns in the child only.
    """
    if sys.platform != "linux" or os.getpid() != 1:
        return
    waited = signal.valid_signals() - _OWN
    # Blocked before the fork: none is lost, and none ends this process.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, waited)
    child = os.fork()
    if child == 0:
        _own_group()
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return
    status = 1
    try:
        status = _collect_until_gone(child, waited)
    finally:
        # Not through Python's exit: what is registered for it is the child's.
        os._exit(status)


def _own_group() -> None:
    """A process group of its own: Ctrl-C must reach the service once, and not by the terminal and by process 1."""
    os.setpgid(0, 0)
    with suppress(OSError):
        if os.isatty(0):
            before = signal.signal(signal.SIGTTOU, signal.SIG_IGN)
            os.tcsetpgrp(0, os.getpgrp())
            signal.signal(signal.SIGTTOU, before)


def _collect_until_gone(child: int, waited: set[signal.Signals]) -> int:
    """Hand signals to the child and collect the dead; its exit status, or 128+N for signal N."""
    code = None
    while code is None:
        number = signal.sigwait(waited)
        if number == signal.SIGCHLD:
            code = _collect().get(child)
        else:
            with suppress(ProcessLookupError):
                os.kill(child, number)
    if code != 0:
        _linger(waited)
    return code if code >= 0 else 128 - code


def _linger(waited: set[signal.Signals]) -> None:
    """Wait until nobody is left; at most LINGER seconds, and not beyond a signal to stop."""
    deadline = time.monotonic() + LINGER
    while _has_children() and (left := deadline - time.monotonic()) > 0:
        found = signal.sigtimedwait(waited, left)
        if found is None or found.si_signo in _STOPPING:
            return
        _collect()


def _collect() -> dict[int, int]:
    """Collect all that are dead now: their exit codes, -N for signal N, by pid."""
    codes = {}
    with suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                break
            codes[pid] = os.waitstatus_to_exitcode(status)
    return codes


def _has_children() -> bool:
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True
