"""The live jobs of a ledger with their trees, for `corral ps` and for other callers."""

from __future__ import annotations

import os
from typing import Any, NamedTuple

from corral.process.bare import ledger, procfs
from corral.process.bare.errors import LedgerError
from corral.process.bare.host import host_table, why_unusable
from corral.process.bare.ledger import Entry
from corral.process.bare.rows import Rows, carries_mark, grow
from corral.process.bare.table import Process, ProcessTable, account_name, find_living, is_child
from corral.process.whereabouts import ELSEWHERE, HERE, locate

_HIDDEN = "nothing of it is seen, but processes may be hidden from this account (hidepid)"


class LiveJob(NamedTuple):
    """A job and what is alive of it now."""

    entry: Entry
    state: str
    """`running`; `ending` when its supervisor is gone; `orphaned` when its reaper is gone too: sweep it; `elsewhere`
    when it cannot be looked for from here."""
    reaper: Process | None
    tree: tuple[Process, ...]
    """Parents before children; the command has depth 1."""
    reason: str = ""
    """Why nothing of it can be shown, and what to do."""

    def to_json(self, table: ProcessTable) -> dict[str, Any]:
        """The object that `corral ps --json` prints for a job. Memory is in bytes."""
        return {
            "id": self.entry.id,
            "label": self.entry.label,
            "state": self.state,
            "reason": self.reason,
            "user": self.entry.user,
            "command": self.entry.command,
            "started": self.entry.started,
            "reaper": self.reaper.pid if self.reaper else None,
            "tree": [describe(process, table) for process in self.tree],
        }


def describe(process: Process, table: ProcessTable) -> dict[str, Any]:
    """A process in the JSON of `corral ps` and `corral sweep --adopt`. Memory is in bytes."""
    return {
        "pid": process.pid,
        "ppid": process.ppid,
        "depth": process.depth,
        "user": account_name(process.uid),
        "state": process.state,
        "start_time": process.start_time,
        "rss": process.rss,
        "command": table.command(process.pid) or process.comm,
    }


def live_jobs(state_dir: str | os.PathLike[str] | None = None) -> list[LiveJob]:
    """Every job of the ledger of which something lives or may live, oldest first.

    Raises LedgerError for a ledger that is not this account's, and where the process table cannot be used.
    """
    if (why := why_unusable()) is not None:
        raise LedgerError(f"whose pids the records name cannot be said here: {why}")
    table = host_table()
    found: list[LiveJob] = []
    for entry in ledger.entries(os.path.abspath(state_dir or ledger.default_state_dir())):
        if not isinstance(entry, Entry):
            continue
        where, reason = locate(table, entry)
        if where == ELSEWHERE:
            found.append(LiveJob(entry, ELSEWHERE, None, (), reason))
        elif where == HERE:
            job = _look(table, entry)
            if job.tree or job.reaper:
                found.append(job)
            elif table.hides_others():
                found.append(job._replace(reason=_HIDDEN))
    return sorted(found, key=lambda job: job.entry.started)


def _look(table: ProcessTable, entry: Entry) -> LiveJob:
    reaper = find_living(table, entry.reaper)
    supervisor = find_living(table, entry.supervisor)
    if reaper is not None and table is procfs and entry.mark:
        tree = procfs.tree_of(reaper.identity)
    else:
        # Without a mark the reaper may have to do without a subreaper, and the tree need not be below it.
        began = table.clock()
        found = list(table.scan())
        rows = Rows(table, found, began)
        seeds = [
            row
            for row in found
            if row.identity in entry.members
            or carries_mark(table, row, entry.mark)
            or (reaper is not None and row.sid != reaper.pid and is_child(row, reaper, began, rows.is_same))
        ]
        tree = [process for process in grow(rows, seeds) if process.living]
    state = "running" if supervisor and reaper else "ending" if reaper or supervisor else "orphaned"
    return LiveJob(entry, state, reaper, tuple(tree))
