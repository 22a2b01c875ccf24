"""What a supervisor does when a reaper is killed: the tree has fallen to it, and it ends the tree the same way.

For that the supervisor is a child subreaper while it has jobs. The ending runs in a thread of its own, because it
waits, and a killed reaper must not stop an event loop.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import pwd
import sys
import threading
import time
from collections.abc import Callable
from typing import NamedTuple

from corral.process import ledger
from corral.process.ending import Ending, Ladder
from corral.process.errors import LedgerError
from corral.process.host import host_table
from corral.process.report import Report
from corral.process.signals import Signaller
from corral.process.table import Identity
from corral.process.trackers import Adopted, Portable, Tracker

_PR_SET_CHILD_SUBREAPER = 36

_jobs = 0
_lock = threading.Lock()


def become_subreaper() -> None:
    """Count one more job; with the first, orphans of a killed reaper fall to this process."""
    _count(+1)


def stop_being_subreaper() -> None:
    """Count one job less; with the last, this process adopts nobody any more."""
    _count(-1)


def _count(step: int) -> None:
    global _jobs
    with _lock:
        _jobs += step
        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, int(_jobs > 0), 0, 0, 0)


class Inheritance(NamedTuple):
    """A tree whose reaper was killed, and what is known of it."""

    state_dir: str
    job_id: str
    command_pid: int
    seeds: set[Identity]
    mark: int
    user: str
    ladder: Ladder
    report_file: str | None
    adopts: bool
    """Whether this process was a child subreaper for it."""

    def start(self, loop: asyncio.AbstractEventLoop, done: Callable[[Report, int | None], None]) -> None:
        """End the tree in a thread, bounded by the ladder; then call done(report, command's status) in the loop."""

        def work() -> None:
            report, status = self.end()
            try:
                loop.call_soon_threadsafe(done, report, status)
            except RuntimeError:
                pass  # The loop was closed meanwhile: the tree has ended, and nobody waits for the report.

        try:
            threading.Thread(target=work, name=f"corral-inherit-{self.job_id}").start()
        except RuntimeError:
            # No room for a thread, perhaps because of this very tree. Better a loop that waits than a tree let go.
            work()

    def end(self) -> tuple[Report, int | None]:
        """End the tree. Never raises."""
        statuses: list[int] = []

        def on_exit(pid: int, status: int) -> None:
            if pid == self.command_pid:
                statuses.append(os.waitstatus_to_exitcode(status))

        seeds, notes = set(self.seeds), ["the reaper was killed; the supervisor ended the tree"]
        claim = None
        try:
            entry = ledger.find(self.state_dir, self.job_id)
            if entry is not None:
                seeds |= entry.members
                claim = ledger.claim(entry.path)
        except (LedgerError, OSError) as error:
            notes.append(f"the record could not be read ({error}): the job's mark had to do")
        table = host_table()
        person = _uid(self.user)
        tracker: Tracker
        if self.adopts and sys.platform == "linux":
            tracker = Adopted(seeds, self.mark, on_exit, person=person)
        else:
            tracker = Portable(table, seeds, mark=self.mark if self.adopts else 0, person=person)
        ending = Ending(tracker, Signaller(table, person=person), table, time.sleep, mark=self.mark)
        ending.notes.extend(notes)
        report = ending.run(self.ladder, cause="reaper_died", ended_by="supervisor")
        if claim is not None:
            claim.release(remove=report.empty)
        if self.report_file is not None:
            report = _write(self.report_file, report)
        return report, statuses[0] if statuses else None


def _write(path: str, report: Report) -> Report:
    try:
        report.write(path)
    except OSError as error:
        return report._replace(notes=(*report.notes, f"the report could not be written to {path}: {error.strerror}"))
    return report


def _uid(user: str) -> int:
    try:
        return pwd.getpwnam(user).pw_uid
    except KeyError:
        return os.getuid()
