"""Orphans that no job owns: found by a rule that leaves a process alone when in doubt, and ended as a job's tree is.

The rule: a process of the account that `is_agent` picks is an orphan if the uppermost of the unbroken line of agents
and sudos above it hangs directly on what collects orphans, an init or the account's own `systemd --user`, and

- neither of the two has a controlling terminal: what a person started in one is the person's;
- the uppermost is not what that init started itself: a service's first process, which leads its session in a unit, or
  where there are no units, one that leads its process group;
- no job of the ledger has it, and this very process is not below it.

Any other process in the line, a shell, an editor, a multiplexer, a reaper, is somebody who may still want it. Below a
process 1 that is not a known init, as in a container, it is undecided: it may have been started there or have fallen
there. Such a process is left alone, and is not called somebody's.
"""

from __future__ import annotations

import os
import pwd
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from corral.process.bare import signals
from corral.process.bare.ending import Ending, Ladder
from corral.process.bare.errors import JobError
from corral.process.bare.host import host_table
from corral.process.bare.report import Report
from corral.process.bare.rows import Rows, ordered_by_depth
from corral.process.bare.signals import Signaller
from corral.process.bare.table import Identity, Process, ProcessTable, account_name
from corral.process.bare.trackers import Killer, nothing_found, stop_then_kill
from corral.process.job_list import describe
from corral.process.whereabouts import REAPER

INITS = frozenset(
    {
        *("systemd", "init", "launchd", "runit", "s6-svscan", "openrc-init", "dinit", "shepherd", "procd"),
        *("tini", "docker-init", "podman-init", "catatonit", "dumb-init", "pause"),
    }
)
"""Names of a process 1 that only collects; any other, the one program of a container, may be the agent's owner."""

IsAgent = Callable[[Process, Sequence[str]], bool]
"""Whether a process, by its row and its arguments, runs an agent. The room itself knows no agents."""


class Orphan(NamedTuple):
    """A tree that nobody owns any more."""

    root: Process
    tree: tuple[Process, ...]
    """Parents before children; the root has depth 1."""


class LeftAlone(NamedTuple):
    """An agent's process that is somebody's or may be, and why."""

    process: Process
    reason: str
    owner_known: bool = True
    """Whether it has an owner for sure. If not, it may be an orphan."""


class Found(NamedTuple):
    """What a look at one account showed."""

    user: str
    uid: int
    orphans: tuple[Orphan, ...]
    left_alone: tuple[LeftAlone, ...]
    blind: bool
    """Whether processes may be hidden from this one (hidepid), so that finding none means nothing."""

    def to_json(self, table: ProcessTable) -> dict[str, Any]:
        """What `corral sweep --adopt --json` prints of it. Command lines are read now, while there are any."""
        return {
            "user": self.user,
            "blind": self.blind,
            "orphans": [{"tree": [describe(process, table) for process in one.tree]} for one in self.orphans],
            "left_alone": [
                {**describe(one.process, table), "reason": one.reason, "owner_known": one.owner_known}
                for one in self.left_alone
            ],
        }

    @property
    def undecided(self) -> tuple[LeftAlone, ...]:
        """Those that may be orphans: nothing that can be seen says whether somebody owns them."""
        return tuple(one for one in self.left_alone if not one.owner_known)

    def is_clean(self, report: Report | None = None) -> bool:
        """Whether nothing is left, as far as could be seen."""
        if self.blind or self.undecided:
            return False
        return report.empty if report is not None else not self.orphans


def find_orphans(
    user: str, is_agent: IsAgent, *, owned: Mapping[Identity, str] | None = None, table: ProcessTable | None = None
) -> Found:
    """Look for the account's orphans; nothing is done to them.

    owned: processes that are somebody's whatever the rule says, and whose. Raises JobError for an account that does
    not exist.
    """
    table = table or host_table()
    try:
        uid = pwd.getpwnam(user).pw_uid
    except KeyError:
        raise JobError(f"there is no account named {user!r} on this host") from None
    began = table.clock()
    rows = Rows(table, table.scan(), began)
    agents = {
        row.pid
        for row in rows.by_pid.values()
        if row.uid == uid
        and row.living
        and is_agent(row, table.arguments(row.pid))
        # The arguments were read by pid: they are this row's only if the pid is still its own.
        and table.start_time(row.pid) == row.start_time
    }
    rule = _Rule(table, rows, agents, signals.relays(rows.by_pid.values()), uid, owned or {})
    roots: dict[int, Process] = {}
    left: dict[int, LeftAlone] = {}
    for pid in agents:
        agent = rows.by_pid[pid]
        top = rule.uppermost(agent)
        if reason := rule.why_somebodys(top, agent):
            left[top.pid] = LeftAlone(agent if top.pid in rule.sudos else top, reason)
        elif reason := rule.why_undecided(top):
            left[top.pid] = LeftAlone(agent if top.pid in rule.sudos else top, reason, owner_known=False)
        else:
            roots[top.pid] = top
    orphans: list[Orphan] = []
    for root in sorted(roots.values(), key=lambda row: row.identity[::-1]):
        # The youngest come last, and are in the tree of an older one where they share its session.
        if root.pid not in left and not any(_holds(one, root) for one in orphans):
            tree = _grow(rows, [root], _foreign([root]), uid, root.start_time)
            orphans.append(Orphan(root, tuple(row for row in tree if row.living)))
    return Found(user, uid, tuple(orphans), tuple(left.values()), table.hides_others())


def end_orphans(found: Found, *, ladder: Ladder | None = None, table: ProcessTable | None = None) -> Report:
    """End the trees that were found, all together, as far as they are still the same processes: TERM, grace, KILL.

    Identity is checked before each signal, and another account's get each round in one call of sudo. Blocks for as
    long as the ladder; it can say `empty_by_scan` at best.
    """
    table = table or host_table()
    tracker = Orphans(table, found)
    # No process groups: the owner made them, and may have other processes in them.
    signaller = Signaller(table, person=found.uid, groups=False)
    ending = Ending(tracker, signaller, table, time.sleep)
    return ending.run(ladder or Ladder(), cause="sweep", ended_by="sweep")


class Orphans:
    """A tracker (`trackers.Tracker`) of trees that others started: by identity and descent, once seen for good.

    A session is followed only if it was made within a tree: the one that a root was born in is its owner's as well.
    """

    proof: str | None = None
    mark = 0

    def __init__(self, table: ProcessTable, found: Found) -> None:
        self.blind = found.blind
        self._table = table
        self._uid = found.uid
        roots = [orphan.root for orphan in found.orphans]
        self._since = min((root.start_time for root in roots), default=0)
        self._known = {row.identity for orphan in found.orphans for row in orphan.tree}
        self._foreign = _foreign(roots)
        self._spared = {os.getpid(), *(row.pid for row in _line(os.getpid(), table.read))}

    def members(self) -> list[Process]:
        began = self._table.clock()
        rows = Rows(self._table, (row for row in self._table.scan() if row.pid not in self._spared), began)
        seeds = [row for row in rows.by_pid.values() if row.identity in self._known]
        found = [row for row in _grow(rows, seeds, self._foreign, self._uid, self._since) if row.living]
        self._known.update(row.identity for row in found)
        return found

    def collect(self) -> None:
        """Nothing: none of them is this process's child."""

    def empty(self) -> bool:
        return nothing_found(self.members, self._table.births)

    def kill(self, due: list[Process], killer: Killer) -> list[Process]:
        return stop_then_kill(due, killer)


class _Rule(NamedTuple):
    """The rule of this module, over one look."""

    table: ProcessTable
    rows: Rows
    agents: Collection[int]
    sudos: Collection[int]
    """Each sudo that runs something as another account; a name alone could be anybody's."""
    uid: int
    owned: Mapping[Identity, str]

    def uppermost(self, row: Process) -> Process:
        """The uppermost of the unbroken line of agents and sudos that the process is in."""
        seen = {row.pid}
        while (above := self.rows.parent(row)) is not None and above.pid not in seen:
            if above.pid not in self.agents and above.pid not in self.sudos:
                break
            seen.add(above.pid)
            row = above
        return row

    def why_somebodys(self, top: Process, agent: Process) -> str:
        """Why it is somebody's; '' where nothing says so."""
        for row in (agent, top):
            if whose := self.owned.get(row.identity):
                return whose
        if top.pid == 1:
            return "it is process 1 itself"
        if top.ppid == 0:
            # What loses such a parent falls to process 1.
            return "its parent lives outside this PID namespace"
        above = self.rows.parent(top)
        if above is None or above.pid == 1:
            return self._why_of_init(top, agent)
        if above.comm == REAPER:
            return f"a job of Corral's has it (reaper {above.pid}): `corral ps` shows it"
        if not self._collects(above):
            return f"{above.comm} ({above.pid}, of {account_name(above.uid)}) is above it, and may want it"
        return self._why_of_init(top, agent)

    def why_undecided(self, top: Process) -> str:
        """Why nobody can say whether it is an orphan; '' for one."""
        above = self.rows.parent(top)
        if above is None:
            return "its parent cannot be seen: look again, or as root"
        if not self._collects(above):
            return (
                f"its parent is process 1, {above.comm} of {account_name(above.uid)}, which is not a known init: it "
                f"may be an orphan that fell to it. If {above.comm} did not start it, end it by its pid"
            )
        return ""

    def _why_of_init(self, top: Process, agent: Process) -> str:
        if self.table.terminal(agent.pid) or self.table.terminal(top.pid):
            return "it is on a terminal"
        if unit := self._started_by_init(top):
            return unit
        if top.pid in {row.pid for row in _line(os.getpid(), self.rows.by_pid.get)}:
            return "this very command runs below it"
        if any(self.table.start_time(row.pid) != row.start_time for row in (agent, top)):
            return "it went while it was looked at"
        return ""

    def _collects(self, row: Process) -> bool:
        return (row.pid == 1 and row.comm in INITS) or (row.comm == "systemd" and row.uid == self.uid)

    def _started_by_init(self, top: Process) -> str:
        unit = self.table.unit(top.pid)
        if unit and top.sid == top.pid and not unit.endswith(".scope"):
            return f"it leads its session in {unit}, as the first process of a service does"
        if not unit and top.pgid == top.pid and (above := self.rows.parent(top)) and self._collects(above):
            return "it leads its process group, as what its init itself starts does"
        return ""


def _holds(orphan: Orphan, row: Process) -> bool:
    return any(one.identity == row.identity for one in orphan.tree)


def _line(pid: int, read: Callable[[int], Process | None]) -> list[Process]:
    """The ancestors of a process, the nearest first."""
    found: list[Process] = []
    row = read(pid)
    while row is not None and (above := read(row.ppid)) is not None and above not in found:
        found.append(above)
        row = above
    return found


def _foreign(roots: Collection[Process]) -> set[int]:
    """Sessions that were there before the trees: those that a root was born in, and this process's own."""
    pids = {root.pid for root in roots}
    return {0, 1, os.getsid(0), *(root.sid for root in roots if root.sid not in pids)}


def _grow(rows: Rows, seeds: Iterable[Process], foreign: Collection[int], uid: int, since: int) -> list[Process]:
    """The seeds, what is below them, and the account's younger processes in sessions that were made among them."""
    members: dict[int, Process] = {}
    taken: set[tuple[int, bool]] = set()
    queue = list(seeds)
    while queue:
        row = queue.pop()
        if row.pid in members:
            continue
        members[row.pid] = row
        queue.extend(rows.children(row))
        # Led by a stranger, it is the stranger's: a session lasts beyond its leader, so that one without may be ours.
        # (No stranger can have the pid of a leader who went: it is not given out while the session has members.)
        if row.sid not in foreign and (row.sid in members or row.sid not in rows.by_pid):
            queue.extend(other for other in rows.session(row, taken) if other.uid == uid and other.start_time >= since)
    return ordered_by_depth(members)
