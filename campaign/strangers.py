"""Processes that are nobody's to end. Each records every signal that reaches it, and its parent checks how it ended.

They are forked, not started, so that a tree costs little. Standard library only.
"""

import ctypes
import os
import random
import resource
import signal
import sys
import time
from collections.abc import Callable
from typing import NoReturn

STATUS = 7
"""With which each of them exits when it is told to."""
RLIMIT_RTTIME = 15
PR_SET_NAME, PR_SET_PDEATHSIG = 15, 1
UNCAUGHT = {signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD}
LIVES = 60.0  # seconds, whatever happens


def become(uid: int, gid: int) -> None:
    """Give up root for an account."""
    if os.getuid() == 0 and uid != 0:
        os.setgroups([])
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)


def begin_session_as(uid: int, gid: int) -> None:
    """Lead a session of one's own, under an account."""
    os.setsid()
    become(uid, gid)


def stand_by(record: str, leave: str, *, ready: int | None = None) -> NoReturn:
    """Record every signal until the file `leave` is there; then exit with STATUS."""

    def on_signal(number: int, _frame: object) -> None:
        _note(record, f"signal {signal.Signals(number).name}")

    for number in signal.valid_signals() - UNCAUGHT:
        try:
            signal.signal(number, on_signal)
        except (OSError, ValueError):
            continue
    _note(record, f"pid {os.getpid()}")
    if ready is not None:
        os.close(ready)
    deadline = time.monotonic() + LIVES
    while not os.path.exists(leave) and time.monotonic() < deadline:  # noqa: PTH110
        time.sleep(0.02)
    os._exit(STATUS)


def fork_stranger(record: str, leave: str, prepare: Callable[[], object]) -> int:
    """Fork one, and return its pid once it records."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid:
        os.close(writing)
        os.read(reading, 1)
        os.close(reading)
        return pid
    try:
        os.close(reading)
        _name()
        prepare()
        stand_by(record, leave, ready=writing)
    finally:
        os._exit(99)


def fork_orphan(record: str, leave: str, when: str) -> None:
    """Fork one whose parent exits once the file `when` is there: it falls to init, or to a subreaper above."""
    reading, writing = os.pipe()
    if os.fork() == 0:
        try:
            os.close(reading)
            if os.fork() == 0:
                _name()
                os.setsid()
                stand_by(record, leave, ready=writing)
            os.close(writing)
            while not os.path.exists(when) and not os.path.exists(leave):  # noqa: PTH110
                time.sleep(0.005)
        finally:
            os._exit(0)
    os.close(writing)
    os.read(reading, 1)
    os.close(reading)


def limited() -> None:
    """Have another limit of real-time CPU than the supervisor, as a child that rtkit's clients start."""
    resource.setrlimit(RLIMIT_RTTIME, (200_000, 200_000))


def fork_quickly(record: str, stop: str, seed: int) -> NoReturn:
    """Fork children with children of their own, one after the other, and check that each ends as it should."""
    dice = random.Random(seed)
    _note(record, f"pid {os.getpid()}")
    children: set[int] = set()
    while not os.path.exists(stop):  # noqa: PTH110
        pid = os.fork()
        if pid == 0:
            short_life(record, dice.random() * 0.03)
        children.add(pid)
        while len(children) > 12:
            _collect(record, children)
        time.sleep(0.001)
    while children:
        _collect(record, children)
    os._exit(STATUS)


def short_life(record: str, seconds: float) -> NoReturn:
    """Have a child that lives so long, and check how it ends."""
    try:
        pid = os.fork()
        if pid == 0:
            time.sleep(seconds)
            os._exit(STATUS)
        check(record, pid, os.waitpid(pid, 0)[1])
        os._exit(STATUS)
    finally:
        os._exit(98)


def _collect(record: str, children: set[int]) -> None:
    pid, status = os.waitpid(-1, 0)
    children.discard(pid)
    check(record, pid, status)


def check(record: str, pid: int, status: int, what: str = "child") -> None:
    """Note how a stranger's child ended, if it was not as it should."""
    if os.waitstatus_to_exitcode(status) != STATUS:
        _note(record, f"{what} {pid} ended with {os.waitstatus_to_exitcode(status)}")


def _name() -> None:
    ctypes.CDLL(None).prctl(PR_SET_NAME, b"stranger", 0, 0, 0)


def _note(record: str, line: str) -> None:
    handle = os.open(record, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    os.write(handle, f"{line}\n".encode())
    os.close(handle)


if __name__ == "__main__":
    stand_by(sys.argv[1], sys.argv[2])
