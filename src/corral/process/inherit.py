"""What a supervisor does when a reaper is killed: the tree has fallen to it, and it ends the tree the same way.

For that the supervisor is a child subreaper while it has jobs. The ending runs in a thread of its own, because it
waits, and a killed reaper must not stop an event loop.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple

from corral.process import ledger, prctl, sudo
from corral.process.ending import Ending, Ladder
from corral.process.errors import LedgerError
from corral.process.host import host_table
from corral.process.report import Report
from corral.process.signals import Signaller
from corral.process.table import Identity, account_uid
from corral.process.trackers import Adopted, Portable, Tracker

CALL_PAUSE = 0.005  # seconds

_jobs = 0
_was_subreaper = False
_lock = threading.Lock()


def become_subreaper() -> None:
    """Count one more job; with the first, orphans of a killed reaper fall to this process."""
    global _jobs, _was_subreaper
    with _lock:
        if _jobs == 0:
            _was_subreaper = prctl.is_child_subreaper()
            prctl.set_child_subreaper(True)
        _jobs += 1


def stop_being_subreaper() -> None:
    """Count one job less; with the last, this process adopts nobody any more, unless it did before."""
    global _jobs
    with _lock:
        _jobs -= 1
        if _jobs == 0:
            prctl.set_child_subreaper(_was_subreaper)


class Inheritance(NamedTuple):
    """A tree whose reaper was killed, and what is known of it."""

    state_dir: str
    job_id: str
    command_pid: int
    reaper_pid: int
    seeds: set[Identity]
    mark: int
    user: str
    ladder: Ladder
    report_file: str | None
    adopts: bool
    """Whether this process was a child subreaper for it."""

    def start(
        self,
        loop: asyncio.AbstractEventLoop,
        done: Callable[[Report, int | None], None],
        let_go: Callable[[], None],
    ) -> None:
        """End the tree in a thread, bounded by the ladder; then call done(report, command's status) in the loop.

        What survives is held and tried again with growing pauses, for as long as this process lives; let_go is called
        in the loop when nothing is left to hold.
        """

        def tell(call: Callable[..., None], *arguments: object) -> None:
            with suppress(RuntimeError):  # The loop was closed meanwhile: nobody waits for it.
                loop.call_soon_threadsafe(call, *arguments)

        def end() -> None:
            inherited = _Inherited(self)
            tell(done, inherited.end(), inherited.status)
            if inherited.release():
                tell(let_go)
            else:
                # A daemon: what cannot be ended must not keep this process from exiting.
                _start_thread(lambda: hold(inherited), f"corral-hold-{self.job_id}", daemon=True)

        def hold(inherited: _Inherited) -> None:
            inherited.hold()
            tell(let_go)

        try:
            _start_thread(end, f"corral-inherit-{self.job_id}", daemon=False)
        except RuntimeError:
            # No room for a thread, perhaps because of this very tree. Better a loop that waits than a tree let go.
            end()


class _Inherited:
    """The ending of an inherited tree, and the record that is kept until nothing is left."""

    def __init__(self, known: Inheritance) -> None:
        self.status: int | None = None
        """The command's, if this process was there to collect it."""
        self._known = known
        self._claim: ledger.Claim | None = None
        self._report: Report | None = None
        seeds, notes = set(known.seeds), ["the reaper was killed; the supervisor ended the tree"]
        try:
            entry = ledger.find(known.state_dir, known.job_id)
            if entry is not None:
                seeds |= entry.members
                self._claim = ledger.claim(entry.path)
        except (LedgerError, OSError) as error:
            notes.append(f"the record could not be read ({error}): the job's mark had to do")
        table = host_table()
        person = account_uid(known.user)
        tracker: Tracker
        if known.adopts and sys.platform == "linux":
            tracker = Adopted(seeds, known.mark, self._on_exit)
        else:
            tracker = Portable(table, seeds, mark=known.mark if known.adopts else 0)
        self._table = table
        self._ending = Ending(
            tracker,
            Signaller(table, person=person),
            table,
            time.sleep,
            mark=known.mark,
            notes=notes,
            job_id=known.job_id,
        )

    def end(self) -> Report:
        report = self._ending.run(self._known.ladder, cause="reaper_died", ended_by="supervisor")
        self._wait_for_calls()
        self._report = self._written(report)
        return self._report

    def release(self) -> bool:
        """Let go of the record if nothing is left."""
        empty = self._report is not None and self._report.empty
        if empty and self._claim is not None:
            self._claim.release(remove=True)
        return empty

    def hold(self) -> None:
        """Stay at it until nothing is left."""
        self._report = self._written(self._ending.hold(time.sleep, cause="reaper_died", ended_by="supervisor"))
        self.release()

    def _written(self, report: Report) -> Report:
        return report if self._known.report_file is None else report.written(self._known.report_file)

    def _wait_for_calls(self) -> None:
        """Wait until the calls of sudo that the reaper had under way are over.

        They are not the tree's: the reaper led their session. But after the report they must not signal anybody.
        """
        deadline = time.monotonic() + sudo.CALL_TIMEOUT
        while time.monotonic() < deadline:
            calls = [process for process in self._table.scan() if process.sid == self._known.reaper_pid]
            for process in calls:
                if process.ppid == os.getpid():
                    with suppress(ChildProcessError):
                        os.waitpid(process.pid, os.WNOHANG)
            if not any(process.living for process in calls):
                return
            time.sleep(CALL_PAUSE)

    def _on_exit(self, pid: int, status: int) -> None:
        if pid == self._known.command_pid:
            self.status = os.waitstatus_to_exitcode(status)


def _start_thread(work: Callable[[], object], name: str, *, daemon: bool) -> None:
    threading.Thread(target=work, name=name, daemon=daemon).start()
