"""Who lives in a world, read from its /proc alone and never through Corral.

A world is a PID namespace with nobody in it but what the campaign put there. So what belongs to the tree is known by
its marker, by descent from one that carries it, and for the rest by elimination.
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass, field

from tests.harness import truth
from tests.harness.truth import Identity, Seen

LOOKS = 12
BOOT = "corral/process/bare/boot.py"


@dataclass(frozen=True)
class Look:
    """One look at a world, sorted."""

    tree: tuple[Seen, ...] = ()
    """The command, what it started, and the sudo above it."""
    reapers: tuple[Seen, ...] = ()
    others: tuple[Seen, ...] = ()
    """Calls of sudo kill, scripts of PAM: what Corral started besides."""


@dataclass
class Observer:
    """Knows who is not the tree's: the staff, and the strangers with all that they start."""

    marker: str
    staff: set[Identity] = field(default_factory=set)
    """Those themselves; what is below them is looked at."""
    strangers: set[Identity] = field(default_factory=set)
    """Those and everything below them."""

    def look(self) -> Look:
        """Look once."""
        seen = {one.pid: one for pid in truth.pids() if (one := truth.look(pid)) is not None}
        tree: list[Seen] = []
        reapers: list[Seen] = []
        others: list[Seen] = []
        for one in seen.values():
            line = list(_line(one, seen))
            if _identity(one) in self.staff or any(_identity(above) in self.strangers for above in line):
                continue
            if any(self._carries(above) for above in line):
                tree.append(one)
            elif BOOT in one.command:
                reapers.append(one)
            else:
                others.append(one)
        return Look(tuple(tree), tuple(reapers), tuple(others))

    def alive(self) -> Look:
        """Look until somebody of the tree was found, or nobody was born between two looks."""
        born = None
        look = self.look()
        for _ in range(LOOKS):
            if look.tree or (born is not None and born == truth.last_pid()):
                break
            born = truth.last_pid()
            look = self.look()
        return look

    def _carries(self, one: Seen) -> bool:
        return _identity(one) not in self.staff and (
            self.marker in one.command or self.marker.encode() in truth.environment(one.pid)
        )


def identity(pid: int) -> Identity | None:
    """Return pid and start time, dead or alive; None when it is gone."""
    try:
        return pid, int(truth.stat(truth.PROC / str(pid) / "stat")[1][19])
    except (OSError, ValueError):
        return None


def lives(who: Identity) -> Seen | None:
    """Return the process if it is the same one and lives."""
    seen = truth.look(who[0])
    return seen if seen is not None and _identity(seen) == who else None


def _identity(one: Seen) -> Identity:
    return one.pid, one.start_time


def _line(one: Seen, seen: dict[int, Seen]) -> Iterable[Seen]:
    """The process and its ancestors."""
    passed: set[int] = set()
    while one.pid not in passed and one.pid != os.getpid():
        yield one
        passed.add(one.pid)
        if one.parent not in seen:
            return
        one = seen[one.parent]
