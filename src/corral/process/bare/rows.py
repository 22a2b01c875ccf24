"""The rows of one look at a process table, joined into trees and sessions only where that is sure."""

from __future__ import annotations

import os
from collections.abc import Iterable

from corral.process.bare import mark as marks
from corral.process.bare.table import UNKNOWN, Process, ProcessTable, is_child


def carries_mark(table: ProcessTable, row: Process, mark: int) -> bool:
    """Whether the process of a row has a job's mark. Raises OSError if that cannot be said."""
    # Limits are read by pid: they are this row's only if the pid is still its own afterwards.
    return marks.carries(row.pid, mark) and table.start_time(row.pid) == row.start_time


class Rows:
    """The rows of one look at a table, joined by parent and by session only where that is sure.

    They are read one after the other, and numbers are used again: see `table.is_child` for parents. A session's number
    is not given out again as long as anybody is in the session, its leader or not, and nobody enters a session but by
    being born in it. So a process that is older than the look was in it when the first row of it was read; for one
    that was born since, the member must still be there, and still in the session, after all rows were read.
    """

    def __init__(self, table: ProcessTable, rows: Iterable[Process], began: int) -> None:
        """began: `table.clock()` before the first row was read."""
        self.by_pid: dict[int, Process] = {}
        self._table = table
        self._began = began
        self._by_parent: dict[int, list[Process]] = {}
        self._by_session: dict[int, dict[bool, list[Process]]] = {}
        """By session, and by whether they were born since the look began."""
        self._now: dict[int, Process | None] = {}
        for row in rows:
            self.by_pid[row.pid] = row
            self._by_parent.setdefault(row.ppid, []).append(row)
            self._by_session.setdefault(row.sid, {}).setdefault(row.start_time >= began, []).append(row)

    def children(self, parent: Process) -> list[Process]:
        """The rows that surely show children of this one."""
        return [row for row in self._by_parent.get(parent.pid, ()) if is_child(row, parent, self._began, self.is_same)]

    def parent(self, row: Process) -> Process | None:
        """The row that surely shows the parent of this one."""
        parent = self.by_pid.get(row.ppid)
        return parent if parent is not None and is_child(row, parent, self._began, self.is_same) else None

    def session(self, member: Process, taken: set[tuple[int, bool]]) -> list[Process]:
        """The rows that are surely in the session of this one, without those that a walk has taken before.

        taken: what the walk has taken so far, by session and by whether they were born since the look began; this call
        adds to it. Without it, a session of thousands would be gone through thousands of times.
        """
        found: list[Process] = []
        for young, rows in self._by_session.get(member.sid, {}).items():
            if (member.sid, young) not in taken and (not young or self._is_still_in_session(member)):
                taken.add((member.sid, young))
                found += rows
        return found

    def _is_still_in_session(self, member: Process) -> bool:
        return self.is_same(member) and self._still(member).sid == member.sid

    def is_same(self, row: Process) -> bool:
        """Whether the pid of a row is still that process's, after all rows were read."""
        return self._still(row).identity == row.identity

    def _still(self, row: Process) -> Process:
        if row.pid not in self._now:
            self._now[row.pid] = self._table.read(row.pid)
        return self._now[row.pid] or Process(UNKNOWN)


def grow(rows: Rows, seeds: Iterable[Process]) -> list[Process]:
    """The seeds with everything below them and everything in their sessions, parents before children.

    A seed's session was made inside the job, or the seed would not be a member: so what shares it is one too. The
    session of this very process is never followed.
    """
    own_session = os.getsid(0)
    members: dict[int, Process] = {}
    taken: set[tuple[int, bool]] = set()
    queue = list(seeds)
    while queue:
        row = queue.pop()
        if row.pid in members:
            continue
        members[row.pid] = row
        queue.extend(rows.children(row))
        if row.sid > 1 and row.sid != own_session:
            queue.extend(rows.session(row, taken))
    return ordered_by_depth(members)


def ordered_by_depth(members: dict[int, Process]) -> list[Process]:
    """Parents before children, each with its depth; who has no parent among them has depth 1."""

    depths: dict[int, int] = {}

    def depth(row: Process) -> int:
        # Up to where it is known, then down again: each row is climbed once, however long the chain.
        line: dict[int, None] = {}
        above: Process | None = row
        while above is not None and above.pid not in depths and above.pid not in line:
            line[above.pid] = None
            above = members.get(above.ppid)
        known = depths.get(above.pid, 0) if above is not None else 0
        depths.update((pid, known + levels) for levels, pid in enumerate(reversed(line), 1))
        return depths[row.pid]

    return sorted((row._replace(depth=depth(row)) for row in members.values()), key=lambda row: row.depth)
