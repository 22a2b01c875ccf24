"""What a supervisor does when a reaper is killed: the tree has fallen to it, and it ends the tree the same way.

For that the supervisor is a child subreaper while it has jobs. The ending runs in a thread of its own, because it
waits, and a killed reaper must not stop an event loop. Nothing that fails in it may lose the tree or leave a caller
waiting: it looks again until it can, and says at the end of the ladder what it knows by then.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple

from corral.process.bare import ledger, prctl, sudo
from corral.process.bare.containment import choose_for_supervisor
from corral.process.bare.ending import Ending, Ladder
from corral.process.bare.errors import LedgerError, Notes, describe
from corral.process.bare.host import host_table
from corral.process.bare.report import SURVIVORS, Report
from corral.process.bare.request import StartRequest
from corral.process.bare.signals import Signaller
from corral.process.bare.table import UNKNOWN, Identity

CALL_PAUSE = 0.005  # seconds

_LOOK_FIRST, _LOOK_LAST = 0.01, 60.0
_THREAD_PAUSE = 1.0
"""Seconds after which a thread is asked for again."""

_RESERVE = 8
"""Descriptors kept for endings: a look takes one at a time, the record one, a report and a call of sudo two."""

_jobs: dict[bool, int] = {True: 0, False: 0}
"""How many jobs there are, by whether this process adopts what their reapers would lose."""
_was_subreaper = False
_reserve: list[int] = []
_borrowers = 0
"""Endings that the reserve was given up for."""
_lock = threading.Lock()


def add_job(*, adopts: bool) -> None:
    """Count one more job. With the first that needs it, orphans of a killed reaper fall to this process."""
    global _was_subreaper
    with _lock:
        if adopts and _jobs[True] == 0:
            _was_subreaper = prctl.is_child_subreaper()
            prctl.set_child_subreaper(True)
        _jobs[adopts] += 1
    _keep_reserve()


def remove_job(*, adopts: bool) -> None:
    """Count one job less. With the last, this process adopts nobody any more, unless it did before."""
    with _lock:
        _jobs[adopts] -= 1
        if adopts and _jobs[True] == 0:
            prctl.set_child_subreaper(_was_subreaper)
        if not any(_jobs.values()):
            _close_reserve()


def _keep_reserve() -> None:
    with _lock, suppress(OSError):
        while any(_jobs.values()) and not _borrowers and len(_reserve) < _RESERVE:
            _reserve.append(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))


def _close_reserve() -> None:
    while _reserve:
        os.close(_reserve.pop())


def _borrow_reserve() -> None:
    """Give the reserve up for an ending. Others may be faster, so that the ending must try again."""
    global _borrowers
    with _lock:
        _borrowers += 1
        _close_reserve()


def _return_reserve() -> None:
    global _borrowers
    with _lock:
        _borrowers -= 1
    _keep_reserve()


class Inheritance(NamedTuple):
    """A tree whose reaper was killed, and what is known of it."""

    request: StartRequest
    command_pid: int
    reaper_pid: int
    seeds: set[Identity]
    uid: int
    """The account of the command; UNKNOWN if it had not been told yet."""

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
        inherited = _Inherited(self)

        def tell(call: Callable[..., object], *arguments: object) -> None:
            with suppress(RuntimeError):  # The loop was closed meanwhile: nobody waits for it.
                loop.call_soon_threadsafe(call, *arguments)

        def end() -> None:
            tell(done, inherited.end(), inherited.status)
            if inherited.release():
                tell(let_go)
            else:
                hold_in_thread()

        def hold_in_thread() -> None:
            try:
                # A daemon: what cannot be ended must not keep this process from exiting.
                _start_thread(hold, f"corral-hold-{self.request.job_id}", daemon=True)
            except RuntimeError:
                tell(loop.call_later, _THREAD_PAUSE, hold_in_thread)

        def hold() -> None:
            inherited.hold()
            tell(let_go)

        try:
            _start_thread(end, f"corral-inherit-{self.request.job_id}", daemon=False)
        except RuntimeError:
            # No room for a thread, perhaps because of this very tree. Better a loop that waits than a tree let go.
            end()


class _Inherited:
    """The ending of an inherited tree, and the record that is kept until nothing is left. None of it raises."""

    def __init__(self, known: Inheritance) -> None:
        self.status: int | None = None
        """The command's, if this process was there to collect it."""
        self._known = known
        self._claim: ledger.Claim | None = None
        self._report: Report | None = None
        self._ending: Ending | None = None
        self._notes = Notes("the reaper was killed; the supervisor ended the tree")

    def end(self) -> Report:
        began = time.monotonic()
        _borrow_reserve()
        try:
            report = self._end_by(began + self._known.request.ladder.grace + self._known.request.ladder.kill)
            self._wait_for_calls()
        except Exception as error:  # noqa: BLE001 - whatever it is, those who wait for the end must hear of it
            report = self._not_seen(error)
        self._report = self._written(report._replace(seconds=time.monotonic() - began))
        _return_reserve()
        return self._report

    def release(self) -> bool:
        """Let go of the record if nothing is left."""
        empty = self._report is not None and self._report.empty
        if empty and self._claim is not None:
            claim, self._claim = self._claim, None
            with suppress(OSError):
                claim.release(remove=True)
        return empty

    def hold(self) -> None:
        """Stay at it until nothing is left."""
        pause = _LOOK_FIRST
        _borrow_reserve()
        while not self.release():
            try:
                self._ending = self._ending or self._prepare()
                report = self._ending.hold(self._rest, cause="reaper_died", ended_by="supervisor")
                self._report = self._written(report)
            except Exception as error:  # noqa: BLE001 - the same
                self._notes.add(f"it was not possible to look: {describe(error)}")
                self._rest(pause)
                pause = min(2 * pause, _LOOK_LAST)
        _return_reserve()

    def _rest(self, seconds: float) -> None:
        _return_reserve()
        time.sleep(seconds)
        _borrow_reserve()

    def _end_by(self, deadline: float) -> Report:
        """Prepare, again and again if need be, and end the tree with what is left of the ladder's time."""
        pause = _LOOK_FIRST
        while self._ending is None:
            try:
                self._ending = self._prepare()
            except Exception as error:  # noqa: BLE001 - no descriptors, no memory: there may be some in a moment
                if time.monotonic() >= deadline:
                    return self._not_seen(error)
                time.sleep(pause)
                pause = min(2 * pause, max(_LOOK_FIRST, deadline - time.monotonic()))
        left, (grace, kill) = max(0.0, deadline - time.monotonic()), self._known.request.ladder
        ladder = Ladder(max(0.0, min(grace, left - kill)), min(kill, left))
        return self._ending.run(ladder, cause="reaper_died", ended_by="supervisor")

    def _prepare(self) -> Ending:
        """Read the record and set up the ending. Raises OSError if this process cannot look at anything."""
        table, known = host_table(), self._known
        _make_sure_of_descriptors()
        seeds = known.seeds | self._recorded()
        # Once more: the ledger takes what it cannot open for what is not there.
        _make_sure_of_descriptors()
        return Ending(
            choose_for_supervisor(known.request.tracker, seeds, mark=known.request.mark, on_exit=self._on_exit),
            Signaller(table, person=known.uid if known.uid != UNKNOWN else os.getuid()),
            table,
            time.sleep,
            notes=self._notes,
            job_id=known.request.job_id,
        )

    def _recorded(self) -> frozenset[Identity]:
        try:
            entry = ledger.find(self._known.request.state_dir, self._known.request.job_id)
            if entry is not None:
                self._claim = self._claim or ledger.claim(entry.path)
                return entry.members
        except (LedgerError, OSError) as error:
            self._notes.add(f"the record could not be read ({error}): the job's mark had to do")
        return frozenset()

    def _not_seen(self, error: Exception) -> Report:
        self._notes.add(f"it was not possible to look at the tree, which may live: {describe(error)}")
        return Report(
            SURVIVORS,
            None,
            0.0,
            cause="reaper_died",
            ended_by="supervisor",
            notes=self._notes.texts,
            job_id=self._known.request.job_id,
            ended_at=round(time.time(), 3),
        )

    def _written(self, report: Report) -> Report:
        if self._known.request.report_file is None:
            return report
        try:
            return report.written(self._known.request.report_file)
        except Exception as error:  # noqa: BLE001 - the report is told all the same
            return report._replace(notes=(*report.notes, f"the report could not be written: {describe(error)}"))

    def _wait_for_calls(self) -> None:
        """Wait until the calls of sudo that the reaper had under way are over.

        They are not the tree's: the reaper led their session. But after the report they must not signal anybody.
        """
        if self._ending is None:
            return  # Nothing can be looked at.
        deadline = time.monotonic() + sudo.CALL_TIMEOUT
        while time.monotonic() < deadline:
            calls = [process for process in host_table().scan() if process.sid == self._known.reaper_pid]
            if any(process.pid == self._known.reaper_pid for process in calls):
                return  # The pid was given to another process, which it is not as long as anybody is in the session.
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


def _make_sure_of_descriptors() -> None:
    os.close(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))


def _start_thread(work: Callable[[], object], name: str, *, daemon: bool) -> None:
    threading.Thread(target=work, name=name, daemon=daemon).start()
