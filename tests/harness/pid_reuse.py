"""Process 1 of a PID namespace in which pids are handed to strangers between two reads of a walk.

`pid_reuse.py WALK` prints as JSON whom the walk found, and who is a stranger. Below a walker, which looks at its tree
as Corral does, are a member C with a child P, and two others. When the walk has read C's row, C ends, and its pid is
given to a stranger, below process 1: F, who has a session of that number, its child X, and Y, of F's session, whose
parent has gone. P has lost its parent by then. A scan has a list of all pids before it reads the first: so for scans
the two others end as well, and X and Y are given their pids.
"""

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from corral.process import job_list
from corral.process.bare import prctl, procfs
from corral.process.bare.ledger import Entry
from corral.process.bare.table import Identity, Process
from corral.process.bare.trackers import Adopted, Portable, Subreaper
from corral.process.orphans import Found, Orphan, Orphans

BY_FILES = ("children_files", "subreaper", "adopted")
LAST_PID = Path("/proc/sys/kernel/ns_last_pid")


def fork(program: Callable[[], None], pid: int = 0) -> int:
    """Start a child, with this pid if it is not 0."""
    if pid:
        LAST_PID.write_text(str(pid - 1))
    made = os.fork()
    if made == 0:
        try:
            program()
        finally:
            os._exit(0)
    assert pid in (0, made), f"{made} was handed out in the place of {pid}"
    return made


def sleep() -> None:
    time.sleep(1000)


def wait_until_born_before(pid: int) -> None:
    """Wait for the next tick: two processes that are born in the same one and have the same pid look the same."""
    while procfs.clock() <= (procfs.start_time(pid) or 0):
        time.sleep(0.001)


def strangers(c: int, x: int, y: int) -> list[Identity]:
    """F with X and Y, which have these pids if they are not 0; in process 1."""
    telling, told = os.pipe()

    def parent_of_y() -> None:
        os.write(told, b"%d " % fork(sleep, y))

    def f() -> None:
        os.setsid()
        os.waitpid(fork(parent_of_y), 0)
        os.write(told, b"%d " % fork(sleep, x))
        sleep()

    pids = [fork(f, c)]
    while len(pids) < 3:
        pids += map(int, os.read(telling, 100).split())
    return [(pid, procfs.start_time(pid) or 0) for pid in pids]


class Walker:
    """The process whose tree is walked, as a child of process 1."""

    def __init__(self, orders: int, answers: int) -> None:
        self._orders, self._answers = orders, answers
        prctl.set_child_subreaper(True)
        # From low pids to high ones: a scan reads the highest first.
        self.x = fork(sleep)
        self.y = fork(sleep)
        self.c = fork(self._member)
        while not procfs.children(self.c):
            time.sleep(0.001)
        [self.p] = procfs.children(self.c) or []
        # As long as anybody is in C's session, its pid is not handed out again.
        while os.getsid(self.p) != self.p:
            time.sleep(0.001)
        wait_until_born_before(self.p)

    def _member(self) -> None:
        def p() -> None:
            os.setsid()
            sleep()

        os.setsid()
        fork(p)
        sleep()

    def hand_on(self, *, others: bool) -> None:
        """Let C, and perhaps the two others, be strangers from now on."""
        pids = (self.c, self.x, self.y) if others else (self.c, 0, 0)
        for pid in filter(None, pids):
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        os.write(self._orders, " ".join(map(str, pids)).encode())
        assert os.read(self._answers, 1) == b"!"

    def walk(self, name: str) -> list[Process]:
        row = procfs.read(self.c)
        assert row is not None
        read, times = procfs.read, 0

        def read_then_hand_on(pid: int) -> Process | None:
            nonlocal times
            found = read(pid)
            if pid == self.c and (times := times + 1) == 1:
                self.hand_on(others=name not in BY_FILES)
            return found

        look = LOOKS[name](row)
        procfs.read = read_then_hand_on
        try:
            return list(look())
        finally:
            procfs.read = read


def entry(row: Process) -> Entry:
    nobody = (2**22, 1)
    known: dict[str, Any] = dict.fromkeys(Entry._fields, "")
    known |= {"supervisor": nobody, "reaper": nobody, "mark": 0, "members": frozenset([row.identity])}
    return Entry(**known)


def orphans(row: Process) -> Orphans:
    found = Found("root", 0, (Orphan(row, (row,)),), (), blind=False)
    return Orphans(procfs, found)


LOOKS: dict[str, Callable[[Process], Callable[[], Any]]] = {
    "children_files": lambda _: lambda: procfs.descendants(os.getpid()),
    "scan": lambda _: lambda: procfs.descendants(os.getpid(), by_scan=True),
    "subreaper": lambda _: Subreaper(lambda *_: None).members,
    "portable": lambda row: Portable(procfs, [row.identity]).members,
    "adopted": lambda row: Adopted([row.identity], 0, lambda *_: None).members,
    "orphans": lambda row: orphans(row).members,
    "ps": lambda row: lambda: job_list._look(procfs, entry(row)).tree,
}


def main(name: str) -> None:
    orders, commands = os.pipe()
    answers, replies = os.pipe()

    def walk() -> None:
        walker = Walker(commands, answers)
        orphan = (walker.p, procfs.start_time(walker.p))
        found = [one.identity for one in walker.walk(name)]
        print(
            json.dumps({"found": found, "orphan": orphan, "strangers": json.loads(os.read(answers, 1000))}), flush=True
        )

    walker = fork(walk)
    made = strangers(*map(int, os.read(orders, 100).split()))
    os.write(replies, b"!" + json.dumps(made).encode())
    os.waitpid(walker, 0)


if __name__ == "__main__":
    main(sys.argv[1])
