"""Pids that are used again at the worst moment.

As soon as a member of the tree has died and was collected, a stranger with a child is born with its pid. And Corral's
own processes run for a moment now and then only, as on a busy machine, so that a whole generation of the tree can pass
between two reads of theirs.
"""

import os
import random
import signal
import time
from dataclasses import dataclass, field
from typing import NoReturn

from campaign import strangers
from campaign.observer import BOOT, Observer, identity, lives
from tests.harness import truth
from tests.harness.truth import Identity, Seen

TICKS = os.sysconf("SC_CLK_TCK")
MOST = 60  # strangers at a time
RUNS = 0.0008  # seconds at the most that Corral's processes run between two holds
BUSY, CALM = 0.4, 0.15  # seconds: how long they are held up so, and how long they are not
RECYCLER, HEIR = "recycler", "heir"
"""What this process is called among the strangers, and in its record a stranger that has a member's pid."""
LIVES = 0.8  # seconds at the most: as long as a walk that is held up, and the signals after it


@dataclass
class Recycler:
    """A process of root's, and what it knows."""

    observer: Observer
    supervisor: Identity
    accounts: tuple[tuple[int, int], ...]  # uid and gid
    record: str
    dice: random.Random
    members: dict[int, int] = field(default_factory=dict)  # pid and start time
    corral: dict[int, int] = field(default_factory=dict)
    passed: set[int] = field(default_factory=set)
    children: dict[int, int] = field(default_factory=dict)  # pid and uid

    def run(self, stop: str) -> NoReturn:
        """Go on until the file `stop` is there."""
        last = os.open("/proc/sys/kernel/ns_last_pid", os.O_WRONLY)
        began = time.monotonic()
        while not os.path.exists(stop):  # noqa: PTH110
            busy = self.members and (time.monotonic() - began) % (BUSY + CALM) < BUSY
            held = self._hold() if busy else []
            for pid in self._gone():
                self._take_place(last, pid)
            self._collect()
            for one in held:
                truth.kill(one, signal.SIGCONT)
            time.sleep(RUNS * self.dice.random())
        while self.children:
            self._collect(0)
        os._exit(strangers.STATUS)

    def _gone(self) -> list[int]:
        """Look for newcomers, and return the pids of members that are free now."""
        there = set(truth.pids())
        for pid in there - self.passed - self.children.keys():
            self._sort(pid)
        self.passed = there
        # Not within one tick of the clock: pid and start time are all that tells two processes apart.
        tick = int(time.clock_gettime(time.CLOCK_BOOTTIME) * TICKS)
        gone = [pid for pid, start in self.members.items() if pid not in there and start < tick]
        for pid in gone:
            del self.members[pid]
        return gone

    def _sort(self, pid: int) -> None:
        command = truth.command(pid)
        if self.observer.marker in command:
            self.members.update([known for known in [identity(pid)] if known])
        elif BOOT in command:
            self.corral.update([known for known in [identity(pid)] if known])

    def _hold(self) -> list[Seen]:
        known = [*self.corral.items(), self.supervisor]
        return [one for who in known if (one := lives(who)) is not None and truth.kill(one, signal.SIGSTOP)]

    def _take_place(self, last: int, pid: int) -> None:
        if len(self.children) >= MOST:
            return
        uid, gid = self.dice.choice(self.accounts)
        os.pwrite(last, str(pid - 1).encode(), 0)
        child = os.fork()
        if child == 0:
            try:
                os.setsid()
                strangers.become(uid, gid)
                strangers.short_life(self.record, LIVES * self.dice.random())
            finally:
                os._exit(97)
        self.children[child] = uid

    def _collect(self, options: int = os.WNOHANG) -> None:
        while self.children:
            pid, status = os.waitpid(-1, options)
            if pid == 0:
                return
            strangers.check(self.record, pid, status, f"{HEIR} of uid {self.children.pop(pid, -1)}")
