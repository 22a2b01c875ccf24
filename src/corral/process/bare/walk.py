"""Walking down a tree that changes meanwhile: only what is surely below the root is taken; what moves is followed."""

from __future__ import annotations

from collections.abc import Callable, Collection

from corral.process.bare.table import Process, is_child

_REREADS = 2
"""So many times a walk goes after what was moved by deaths while it was under way."""

ChildrenOf = Callable[[int], Collection[int] | None]
"""The pids of the children of a process, as far as can be seen; None for a process that is gone."""


def below(
    root: Process,
    look: Callable[[], ChildrenOf],
    read_one: Callable[[int], Process | None],
    *,
    began: int,
    is_same: Callable[[Process], bool],
) -> list[Process]:
    """Walk breadth first from the children of root, and take only what is surely below it (`table.is_child`).

    A pid is visited once, whatever the table claims. Where somebody died or was handed on during the walk, the lists of
    those above it are read again: what it lost is below one of them.
    """
    walk = _Walk(root, read_one, began, is_same)
    level = [root]
    for _ in range(1 + _REREADS):
        walk.down(level, look())
        level = walk.disturbed()
        if not level:
            break
    return sorted(walk.found.values(), key=lambda process: process.depth)


class _Walk:
    """What a walk has found, and where it was disturbed."""

    def __init__(
        self,
        root: Process,
        read_one: Callable[[int], Process | None],
        began: int,
        is_same: Callable[[Process], bool],
    ) -> None:
        self.found: dict[int, Process] = {}
        self._root = root
        self._read_one = read_one
        self._began = began
        self._is_same = is_same
        self._left: set[int] = set()
        """Pids whose lists of children named a process that has gone, or that have gone themselves."""

    def down(self, level: list[Process], children_of: ChildrenOf) -> None:
        while level:
            below_level: list[Process] = []
            for parent in level:
                listed = children_of(parent.pid)
                if listed is not None:
                    below_level += self._take(parent, listed, children_of)
                elif parent.readable:
                    self._left.add(parent.ppid)
            level = below_level

    def disturbed(self) -> list[Process]:
        """Those above the places where somebody went since this was asked last."""
        above: dict[int, Process] = {}
        for pid in self._left:
            process = self._known(pid)
            while process is not None and process.pid not in above:
                above[process.pid] = process
                process = self._known(process.ppid)
        self._left.clear()
        return list(above.values())

    def _take(self, parent: Process, listed: Collection[int], children_of: ChildrenOf) -> list[Process]:
        """Read the children that a list names. All rows come before the question whether the parent is the same."""
        new = dict.fromkeys(pid for pid in listed if pid not in self.found and pid != self._root.pid)
        if not new:
            return []
        rows = [(pid, self._read_one(pid)) for pid in new]
        same: dict[int, bool] = {}

        def is_same(process: Process) -> bool:
            if process.pid not in same:
                same[process.pid] = self._is_same(process)
            return same[process.pid]

        taken: list[Process] = []
        unseen: set[int] = set()
        for pid, row in rows:
            if row is None:
                unseen.add(pid)
                continue
            # Not always the parent that listed it: an orphan may have gone to another member meanwhile.
            above = self._known(row.ppid)
            if above is not None and is_child(row, above, self._began, is_same):
                taken.append(row._replace(depth=above.depth + 1))
            else:
                self._left.add(parent.pid)
        if unseen:
            # What is hidden is still in the list; what has gone is not.
            hidden = unseen.intersection(children_of(parent.pid) or ()) if is_same(parent) else set()
            taken += [Process(pid, ppid=parent.pid, depth=parent.depth + 1) for pid in hidden]
            if unseen - hidden:
                self._left.add(parent.pid)
        self.found.update((process.pid, process) for process in taken)
        return taken

    def _known(self, pid: int) -> Process | None:
        return self._root if pid == self._root.pid else self.found.get(pid)
