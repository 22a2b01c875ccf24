"""The sweep: ending the jobs of the ledger whose supervisor and reaper are both gone.

It acts on the word of a genuine record of this boot and PID namespace, on processes whose identity matches it, on what
lives below those or shares their sessions, and on what carries the job's mark. It can say `empty_by_scan` at best:
nobody above the tree was left for the kernel to answer to.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from corral.process.bare import ledger
from corral.process.bare import mark as marks
from corral.process.bare.containment import choose_for_sweep
from corral.process.bare.ending import Ending, Ladder
from corral.process.bare.errors import LedgerError
from corral.process.bare.host import host_table, why_unusable
from corral.process.bare.ledger import Entry, Rejected
from corral.process.bare.report import Report
from corral.process.bare.rows import Rows
from corral.process.bare.signals import Signaller, kill_if_same
from corral.process.bare.table import Process, ProcessTable, account_uid, find_living
from corral.process.whereabouts import ELSEWHERE, HERE, REAPER, Elsewhere, locate

_HELD_MARGIN = 5.0
"""Seconds beyond its ladder that a reaper is given which is ending a tree just now."""


class Swept(NamedTuple):
    """A job that a sweep ended, or tried to."""

    entry: Entry
    report: Report


class SweepResult(NamedTuple):
    """What a sweep found and did."""

    swept: tuple[Swept, ...]
    live: tuple[Entry, ...]
    """Jobs whose supervisor lives; they were left alone."""
    held: tuple[Entry, ...]
    """Jobs without a supervisor whose reaper still holds processes that it could not end."""
    rejected: tuple[Rejected, ...]
    """Files of the ledger that cannot be believed. Nothing was done on their word, and what they stand for may live."""
    strays: tuple[Process, ...] = ()
    """Where files were rejected: processes that some job started, above which no reaper lives. They were left alone."""
    elsewhere: tuple[Elsewhere, ...] = ()
    """Jobs of another PID namespace, or of an unknown one; they were left alone, and so were their records."""
    blind: bool = False
    """Where files were rejected: whether processes may be hidden, so that there may be strays that were not seen."""

    @classmethod
    def merged(cls, results: Sequence[SweepResult]) -> SweepResult:
        """The results of sweeps of several ledgers, as one."""
        return cls(
            swept=tuple(one for result in results for one in result.swept),
            live=tuple(one for result in results for one in result.live),
            held=tuple(one for result in results for one in result.held),
            rejected=tuple(one for result in results for one in result.rejected),
            # Strays are looked for in the whole process table: two sweeps may see the same ones.
            strays=tuple({one.identity: one for result in results for one in result.strays}.values()),
            elsewhere=tuple(one for result in results for one in result.elsewhere),
            blind=any(result.blind for result in results),
        )

    @property
    def clean(self) -> bool:
        """Whether nothing is left of any job whose supervisor is gone, as far as can be known."""
        # A file that cannot be read may stand for a job without a mark, of another namespace, of another host.
        unknown = self.held or self.rejected or self.elsewhere
        return not unknown and all(one.report.empty for one in self.swept)

    def to_json(self) -> dict[str, Any]:
        """The object that `corral sweep --json` prints."""
        return {
            "clean": self.clean,
            "swept": [{**_describe(one.entry), "report": one.report.to_json()} for one in self.swept],
            "live": [_describe(entry) for entry in self.live],
            "held": [_describe(entry) for entry in self.held],
            "rejected": [{**one._asdict(), "advice": one.advice} for one in self.rejected],
            "strays": [{"pid": one.pid, "start_time": one.start_time, "command": one.comm} for one in self.strays],
            "elsewhere": [{**_describe(one.entry), "reason": one.reason} for one in self.elsewhere],
            "blind": self.blind,
        }


def sweep(state_dir: str | os.PathLike[str] | None = None, *, ladder: Ladder | None = None) -> SweepResult:
    """End what dead supervisors left, and wait for it: each job by its own ladder, or by the one given.

    Blocks for as long as that takes. Raises LedgerError for a ledger that is not this account's, and where the process
    table cannot be used.
    """
    if (why := why_unusable()) is not None:
        raise LedgerError(f"whose pids the records name cannot be said here: {why}")
    table = host_table()
    swept: list[Swept] = []
    live: list[Entry] = []
    held: list[Entry] = []
    rejected: list[Rejected] = []
    elsewhere: list[Elsewhere] = []
    folder = os.path.abspath(state_dir or ledger.default_state_dir())
    for entry in ledger.entries(folder):
        if isinstance(entry, Rejected):
            rejected.append(entry)
            continue
        where, reason = locate(table, entry)
        if where == ELSEWHERE:
            elsewhere.append(Elsewhere(entry, reason))
        elif where == HERE and find_living(table, entry.supervisor):
            live.append(entry)
        else:
            claim = _claim(table, entry) if where == HERE else ledger.claim(entry.path)
            if claim is None:
                if os.path.exists(entry.path):
                    held.append(entry)
                continue
            report = _end(table, entry, ladder) if where == HERE else _ended(entry, reason)
            claim.release(remove=report.empty)
            swept.append(Swept(entry, report))
    ledger.remove_leftovers(folder)
    strays = _strays(table) if rejected else []
    return SweepResult(
        tuple(swept),
        tuple(live),
        tuple(held),
        tuple(rejected),
        tuple(strays),
        tuple(elsewhere),
        blind=bool(rejected) and table.hides_others(),
    )


def _strays(table: ProcessTable) -> list[Process]:
    """What a rejected file may have stood for: the marked, of whatever job, that no reaper holds any more."""
    began = table.clock()
    rows = Rows(table, table.scan(), began)
    own = marks.limits(os.getpid())

    def held(row: Process) -> bool:
        above: Process | None = row
        seen: set[int] = set()
        while above is not None and above.comm != REAPER and above.pid not in seen:
            seen.add(above.pid)
            above = rows.parent(above)
        return above is not None and above.comm == REAPER

    return [
        row
        for row in rows.by_pid.values()
        if row.living
        and (limits := marks.limits(row.pid)) != own
        and any(marks.is_a_mark(limit) for limit in limits or ())
        and not held(row)
        # The limits were read by pid: they are this row's only if the pid is still its own.
        and rows.is_same(row)
    ]


def _claim(table: ProcessTable, entry: Entry) -> ledger.Claim | None:
    """Lock the record; wait for a reaper that is just ending its tree, and wake one that was stopped."""
    deadline = time.monotonic() + entry.grace + entry.kill + _HELD_MARGIN
    woken = False
    while (claim := ledger.claim(entry.path)) is None:
        if not os.path.exists(entry.path) or time.monotonic() >= deadline:
            return None
        if not woken and find_living(table, entry.reaper):
            # TERM: end it now, or try again now. It is a process of this account's own.
            for number in (signal.SIGTERM, signal.SIGCONT):
                kill_if_same(entry.reaper[0], number, lambda: find_living(table, entry.reaper) is not None)
            woken = True
        time.sleep(0.02)
    return claim


def _end(table: ProcessTable, entry: Entry, ladder: Ladder | None) -> Report:
    person = account_uid(entry.user)
    # A fresh read: the reaper may have written members after the first one.
    fresh = ledger.find(os.path.dirname(os.path.dirname(entry.path)), entry.id) or entry
    tracker = choose_for_sweep(fresh.members, mark=entry.mark, spares=_ancestors(table))
    ending = Ending(tracker, Signaller(table, person=person), table, time.sleep, job_id=entry.id)
    return ending.run(ladder or Ladder(entry.grace, entry.kill), cause="sweep", ended_by="sweep")


def _ended(entry: Entry, reason: str) -> Report:
    # Its pids and start times mean nothing here, and nothing that they meant lives.
    return Report(
        "empty_by_scan",
        None,
        0.0,
        cause="sweep",
        ended_by="sweep",
        notes=(reason,),
        job_id=entry.id,
        ended_at=round(time.time(), 3),
    )


def _ancestors(table: ProcessTable) -> Iterable[int]:
    """This process's own line: a sweep that was started from inside a job does not saw off its branch."""
    found: list[int] = []
    process = table.read(os.getpid())
    while process is not None and process.ppid > 1 and process.ppid not in found:
        found.append(process.ppid)
        process = table.read(process.ppid)
    return found


def _describe(entry: Entry) -> dict[str, Any]:
    return {"id": entry.id, "label": entry.label, "user": entry.user, "command": entry.command}
