"""Scripted trees, run by the account under measurement: `python3 -I -S tree.py codex DAEMONS | bush NUMBER DAEMONS`.

Standard library only. A daemon here is a process in a session of its own whose parent has exited.
"""

import os
import signal
import sys
from collections.abc import Callable
from functools import partial
from typing import NoReturn

LEAVES = 109


def hold() -> NoReturn:
    """Stay until a signal ends the process."""
    while True:
        signal.pause()


def child(act: Callable[[], object]) -> int:
    """Fork a child that does the act and holds. Return its pid to the parent."""
    pid = os.fork()
    if pid:
        return pid
    try:
        act()
        hold()
    finally:
        os._exit(1)


def daemons(number: int) -> None:
    """Leave so many daemons behind."""

    def middle() -> None:
        os.setsid()
        child(lambda: None)
        os._exit(0)

    for _ in range(number):
        os.waitpid(child(middle), 0)


def own_group() -> None:
    """Lead a process group, as Codex has it for each MCP server."""
    os.setpgid(0, 0)


def command() -> None:
    """Be a background command that called setsid, with a child that did so too."""
    os.setsid()
    child(os.setsid)


def native(number: int) -> None:
    """Be the agent itself: three servers in groups of their own, a background command, and daemons."""
    for _ in range(3):
        child(own_group)
    child(command)
    daemons(number)


def branch(leaves: int) -> None:
    """Have so many children."""
    for _ in range(leaves):
        child(lambda: None)


def main() -> NoReturn:
    """Grow the tree and hold."""
    if sys.argv[1] == "codex":
        child(lambda: native(int(sys.argv[2])))
        hold()
    left, lost = int(sys.argv[2]) - 1 - int(sys.argv[3]), int(sys.argv[3])
    while left > 0:
        leaves = min(LEAVES, left - 1)
        child(partial(branch, leaves))
        left -= leaves + 1
    daemons(lost)
    hold()


if __name__ == "__main__":
    main()
