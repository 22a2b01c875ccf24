"""Which processes belong to the job, whether any is left, and how they are killed, as the host allows.

| tracker | its members | "empty" means |
|---|---|---|
| Subreaper | everything below this process | ECHILD: the kernel's word that no descendant is left |
| Portable | what was ever seen below the command; for a sweep, what is marked | scans of the table found nothing |
| Adopted | what fell to this process with a killed reaper, and is surely the job's | ECHILD; else walks found nothing |

Which one a tree gets is decided in `containment`. The two that can hold a job from its start are Containments.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Collection, Iterable

from corral.process.bare import mark as marks
from corral.process.bare import procfs
from corral.process.bare.report import NO_CHILDREN
from corral.process.bare.rows import Rows, carries_mark, grow
from corral.process.bare.table import Births, Identity, Process, ProcessTable
from corral.process.bare.typed import Protocol

_WALL = 0x40000000 if sys.platform == "linux" else 0
"""waitpid(2): children that were cloned with another exit signal than SIGCHLD count as children too."""


_SCANS = 20
"""A scan can miss a chain that hands on from process to process; one during which nobody was started cannot. Where that
never happens, this many scans in a row must find nothing."""
_LEAST_SCANS, _SCANNING = 3, 1.0
"""This many are enough where scanning is slow (over this many seconds in all), or where waiting for calm is pointless
because the host does not count forks."""


_SPARES_DIE_WITHIN = 0.5
"""Seconds that what a call of sudo left is given to end, once nothing else is there, before the proof is given up."""


def nothing_found(look: Callable[[], list[Process]], births: Callable[[], Births | None]) -> bool:
    """Whether scans show nobody: one during which nobody was started, or many in a row.

    Host-wide, one such scan is exact. Within the PID namespace it takes two in a row: a pid is handed out before its
    process can be seen, so a fork that was under way at the first count may show nowhere in the first scan. Its parent
    is inside fork(2) until then: either the first scan meets the parent, or the second the child. (Who may choose pids
    or set the namespace's last pid has CAP_SYS_ADMIN or CAP_CHECKPOINT_RESTORE there.)
    """
    enough = time.monotonic() + _SCANNING
    previous: Births | None = None
    for number in range(1, _SCANS + 1):
        before = births()
        if look():
            return False
        if _nobody_was_started(previous, before, births()):
            return True
        if number >= _LEAST_SCANS and (before is None or time.monotonic() >= enough):
            return True
        previous = before
    return True


def _nobody_was_started(previous: Births | None, before: Births | None, after: Births | None) -> bool:
    if before is None or after is None:
        return False
    return after.none_since(before) or (previous is not None and after.none_here_since(previous))


def _forget(_pid: int, _status: int) -> None:
    """Nobody asked for the status."""


class Killer(Protocol):
    """The ending's side of a round of KILL: it knows who must be spared, and how each can be signalled."""

    def stop_members(self) -> list[Process]:
        """Send STOP to the members, from the root down: a stopped process starts none. Those that are due then."""

    def kill(self, processes: list[Process]) -> None:
        """Send KILL to each."""


class Tracker(Protocol):
    """What an ending needs to know of a tree, and how it kills it."""

    def members(self) -> list[Process]:
        """The living members, parents before children."""

    def collect(self) -> None:
        """Wait, without blocking, for the dead that are this process's to collect."""

    def empty(self) -> bool:
        """Whether nothing is left, as far as this tracker can know. Collects first."""

    def kill(self, due: list[Process], killer: Killer) -> list[Process]:
        """One round of KILL to the members that are due, or to all where it kills so; those that it was sent to."""

    @property
    def proof(self) -> str | None:
        """What `empty` rests on: `no_children` for the kernel's word, None for a scan."""

    @property
    def blind(self) -> bool:
        """Whether members may be hidden from it, so that finding none is not even a scan's word."""

    @property
    def mark(self) -> int:
        """The mark that tells a member from a stranger; 0 where there is none."""


class Containment(Tracker, Protocol):
    """A tracker that holds a job from its start."""

    def enter(self) -> None:
        """In the child, before it becomes the command: be a member, and so all that it will start. Raises OSError."""

    def follow(self, child: Process) -> None:
        """In the reaper: this child of its was forked, and will enter."""


def stop_then_kill(due: list[Process], killer: Killer) -> list[Process]:
    """A round where members that lose their parents are lost: all are stopped before the first is killed."""
    due = killer.stop_members() or due
    killer.kill(due)
    return due


class Subreaper:
    """Everything below this process, which is a child subreaper and has no children but the job's.

    And, at times, its own: `spares` are what its calls of sudo have left behind. They are not members, and as long as
    one is there the kernel's word cannot be had: then walks must find nothing else.
    """

    blind = False

    def __init__(
        self,
        on_exit: Callable[[int, int], None],
        *,
        by_scan: bool = False,
        spares: Collection[Identity] = (),
        mark: int = 0,
    ) -> None:
        self.mark = mark
        self._on_exit = on_exit
        self._by_scan = by_scan or not procfs.has_children_files()
        self._spares = spares
        self._alone = True
        self._patience = _SPARES_DIE_WITHIN

    @property
    def proof(self) -> str | None:
        return NO_CHILDREN if self._alone else None

    def enter(self) -> None:
        # Below this process it is already. The mark is for those who look for it when this process is dead.
        if self.mark:
            marks.apply(self.mark)

    def follow(self, child: Process) -> None:
        """Nothing: it is below this process."""

    def kill(self, due: list[Process], killer: Killer) -> list[Process]:
        # In any order: a member that loses its parent falls to this process.
        killer.kill(due)
        return due

    def members(self) -> list[Process]:
        found = procfs.descendants(os.getpid(), by_scan=self._by_scan)
        spared: set[int] = set()
        members = []
        for process in found:  # parents come before their children
            if process.identity in self._spares or process.ppid in spared:
                spared.add(process.pid)
            elif process.living:
                members.append(process)
        return members

    def collect(self) -> None:
        self._is_alone()

    def empty(self) -> bool:
        self._alone = self._is_alone()
        if self._alone:
            return True
        if not self._spares or not nothing_found(self.members, procfs.births):
            return False
        self._wait_for_spares()
        return True

    def _wait_for_spares(self) -> None:
        # What a call left is mostly about to end: the proof is worth a moment, once.
        deadline, self._patience = time.monotonic() + self._patience, 0.0
        while not self._alone and time.monotonic() < deadline:
            time.sleep(0.001)
            self._alone = self._is_alone()

    def _is_alone(self) -> bool:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG | _WALL)
            except ChildProcessError:
                return True
            if pid == 0:
                return False
            self._on_exit(pid, status)


class Portable:
    """Sticky membership by identity, for hosts without a subreaper.

    A member's children are members, and so is what shares a session with a living member: the command leads a
    session of its own, and a session is entered by being born in it. What it cannot see: a process whose whole line of
    ancestors came and went between two looks, in a session that no living member shares.
    """

    proof: str | None = None

    def __init__(
        self,
        table: ProcessTable,
        seeds: Iterable[Identity],
        *,
        on_exit: Callable[[int, int], None] = _forget,
        on_seen: Callable[[list[Process]], None] | None = None,
        mark: int = 0,
        spares: Iterable[int] = (),
    ) -> None:
        """on_seen: told of the members at each look, so that somebody else can go on when this process is killed."""
        self.mark = mark
        self._on_seen = on_seen
        self._table = table
        self._known: set[Identity] = set(seeds)
        self._on_exit = on_exit
        self._collects: set[int] = set()
        self._spares = {0, 1, os.getpid(), *spares}

    @property
    def blind(self) -> bool:
        return self._table.hides_others()

    def members(self) -> list[Process]:
        found = [process for process in self._find() if process.living]
        self._known.update(process.identity for process in found)
        if self._on_seen is not None:
            self._on_seen(found)
        return found

    def enter(self) -> None:
        """Nothing: a member is known by having been seen."""

    def follow(self, child: Process) -> None:
        self._known.add(child.identity)
        self._collects.add(child.pid)

    def kill(self, due: list[Process], killer: Killer) -> list[Process]:
        return stop_then_kill(due, killer)

    def collect(self) -> None:
        for pid in list(self._collects):
            try:
                done, status = os.waitpid(pid, os.WNOHANG)
            except ChildProcessError:
                self._collects.discard(pid)
                continue
            if done:
                self._collects.discard(pid)
                self._on_exit(pid, status)

    def empty(self) -> bool:
        self.collect()
        return nothing_found(self.members, self._table.births)

    def _find(self) -> list[Process]:
        rows: list[Process] = []
        seeds: list[Process] = []
        began = self._table.clock()
        for row in self._table.scan():
            if row.pid in self._spares:
                continue
            rows.append(row)
            # The mark is asked for at once: a link of a chain does not live to the end of the scan.
            if row.identity in self._known or carries_mark(self._table, row, self.mark):
                seeds.append(row)
        return grow(Rows(self._table, rows, began), seeds)


class Adopted:
    """What fell to this process, a child subreaper, when the reaper of a job was killed.

    This process has other children as well, so only what is surely the job's is a member: what is named in the record,
    what carries the job's own mark, what is below such a one or in a session with it. Not being able to look at a
    process is an error and no sign of anything. Only members are collected, each by its pid: the statuses of other
    children belong to the code that started them. What can be missed dropped the mark before the record knew it.
    """

    def __init__(self, seeds: Iterable[Identity], mark: int, on_exit: Callable[[int, int], None]) -> None:
        self.mark = mark
        self._known: set[Identity] = set(seeds)
        self._on_exit = on_exit
        self._alone = False

    @property
    def blind(self) -> bool:
        return procfs.hides_others()

    @property
    def proof(self) -> str | None:
        return NO_CHILDREN if self._alone else None

    def members(self) -> list[Process]:
        return [process for process in self._find() if process.living]

    def kill(self, due: list[Process], killer: Killer) -> list[Process]:
        killer.kill(due)
        return due

    def collect(self) -> None:
        for process in self._find():
            if process.ppid != os.getpid():
                continue
            try:
                pid, status = os.waitpid(process.pid, os.WNOHANG | _WALL)
            except ChildProcessError:
                continue
            if pid:
                self._on_exit(pid, status)

    def empty(self) -> bool:
        self._alone = False
        self.collect()
        try:
            # WNOWAIT leaves every status where it is; what is asked is whether there is any child at all.
            os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            self._alone = True
            return True
        return nothing_found(self._find, procfs.births)

    def _find(self) -> list[Process]:
        began = procfs.clock()
        rows = procfs.descendants(os.getpid(), by_scan=not procfs.has_children_files())
        seeds = [row for row in rows if row.identity in self._known or carries_mark(procfs, row, self.mark)]
        found = grow(Rows(procfs, rows, began), seeds)
        self._known.update(row.identity for row in found)
        return found
