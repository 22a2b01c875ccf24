"""Which tracker a tree gets: before its start, when its reaper was killed, and when nobody is left but a sweep."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterable

from corral.process.bare import prctl
from corral.process.bare.errors import StartError
from corral.process.bare.host import host_table
from corral.process.bare.table import Identity, Process
from corral.process.bare.trackers import Adopted, Containment, Portable, Subreaper, Tracker

NAMES = ("auto", "subreaper", "subreaper-scan", "portable")
"""`auto` takes the strongest that the host offers; the others are for hosts, and tests, that must have just one."""


def choose_before_start(
    name: str,
    *,
    mark: int,
    supervisor: int,
    on_exit: Callable[[int, int], None],
    on_seen: Callable[[list[Process]], None],
    spares: Collection[Identity],
) -> Containment:
    """The tracker of a reaper. Raises StartError where the host does not offer the one that is named.

    supervisor: its pid. on_exit(pid, status): called for each process that was collected; on_seen(members): where who
    was seen must be recorded at once. spares: what calls of sudo have left behind.
    """
    if name != "portable" and prctl.set_child_subreaper(True):
        return Subreaper(on_exit, by_scan=name == "subreaper-scan", spares=spares, mark=mark)
    if name.startswith("subreaper"):
        raise StartError("invalid", "this host has no subreapers: choose the tracker auto or portable")
    return Portable(host_table(), [], on_exit=on_exit, on_seen=on_seen, spares=[supervisor])


def adopts(name: str) -> bool:
    """Whether the supervisor, as a child subreaper too, is to adopt the tree when its reaper is killed."""
    return name != "portable"


def choose_for_supervisor(
    name: str, seeds: Iterable[Identity], *, mark: int, on_exit: Callable[[int, int], None]
) -> Tracker:
    """The tracker of a supervisor whose reaper was killed. seeds: who is known to be in the tree."""
    if adopts(name) and sys.platform == "linux":
        return Adopted(seeds, mark, on_exit)
    return Portable(host_table(), seeds, mark=mark if adopts(name) else 0)


def choose_for_sweep(members: Iterable[Identity], *, mark: int, spares: Iterable[int]) -> Tracker:
    """The tracker of a sweep: nobody above the tree is left. spares: pids of the sweep's own ancestors."""
    return Portable(host_table(), members, mark=mark, spares=spares)
