"""The one way in which a tree ends: TERM, grace, rounds of KILL until the tracker says that nothing is left.

The reaper, the supervisor that inherits from a killed reaper, and the sweep all run this same code over a tracker.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable

from corral.process.bare import mark as marks
from corral.process.bare import signals
from corral.process.bare.errors import Notes, describe
from corral.process.bare.report import Report, Survivor, judge
from corral.process.bare.signals import Signaller
from corral.process.bare.table import UNKNOWN, Identity, Process, ProcessTable, account_name, find_living
from corral.process.bare.trackers import Tracker
from corral.process.bare.typed import NamedTuple

_SUDO_PATIENCE = 1.0
"""Seconds that a sudo is given to close its PAM session and exit once nothing lives below it."""
_SHORTEST, _LONGEST = 0.001, 0.05
_RETRY_FIRST, _RETRY_LAST = 0.2, 2.0
_HOLD_FIRST, _HOLD_LAST = 0.5, 60.0
_RUNAWAY_ROUNDS = 6
_WAKE_EVERY = 0.5
_FREEZE_PASSES = 3
_COMMAND_CHARS, _ALL_COMMANDS_CHARS = 1000, 1_000_000
"""So much of a survivor's command line, and of all of them, goes into a report: each can be megabytes, and a report
that is too large for the lifeline is not heard at all."""
_WALK_SHARE = 3.0
"""Between two walks at least this many times the last walk's duration passes: a large tree costs a bounded share."""


class Ladder(NamedTuple):
    """Seconds for the steps of an ending."""

    grace: float = 5.0
    """From TERM to the first KILL. 0 skips TERM."""
    kill: float = 10.0
    """For the rounds of KILL, before survivors are reported."""


class Ending:
    """One ending of one tree. `wait` sleeps, the given seconds at the most, and may return early on news."""

    def __init__(
        self,
        tracker: Tracker,
        signaller: Signaller,
        table: ProcessTable,
        wait: Callable[[float], None],
        *,
        notes: Notes | None = None,
        job_id: str = "",
    ) -> None:
        self._job_id = job_id
        self._tracker = tracker
        self._signaller = signaller
        self._table = table
        self._wait = wait
        self._killed: dict[Identity, tuple[float, int]] = {}
        self._idle_sudo: dict[Identity, float] = {}
        self._relays: set[Identity] = set()
        """Each sudo that was seen above processes of another account."""
        self._rounds = 0
        self._cost = 0.0
        self._walk_cost = 0.0
        self._grace_ends = 0.0
        self._notes = notes if notes is not None else Notes()

    def hurry(self, grace: float) -> None:
        """Shorten a grace that is running. A later caller may shorten it, never lengthen it."""
        self._grace_ends = min(self._grace_ends, time.monotonic() + grace)

    def run(self, ladder: Ladder, *, cause: str, ended_by: str) -> Report:
        """End the tree. Never raises: whatever fails on the way is noted, and the tree is not let go."""
        began = time.monotonic()
        self._grace_ends = began + ladder.grace
        empty = self._guarded(self._is_empty)
        if not empty and ladder.grace > 0:
            empty = self._guarded(self._ask_to_end)
        if not empty:
            deadline = time.monotonic() + ladder.kill
            empty = self._guarded(lambda: self.kill_until(deadline))
            while not empty and time.monotonic() < deadline:
                empty = self._guarded(lambda: self.kill_until(deadline))
        if empty and self._tracker.blind and self._tracker.proof is None:
            # The verdict must not claim what could not be looked for.
            empty = False
            self._notes.add(
                "processes may be hidden from this account (hidepid), so it cannot say whether some are left: look as "
                "root, or mount /proc with hidepid=invisible and gid= of a group of this account's"
            )
        survivors = () if empty else self._survivors()
        return Report(
            verdict=judge(self._tracker.proof, empty, survivors),
            proof=self._tracker.proof if empty else None,
            seconds=time.monotonic() - began,
            signals=self._signaller.counts,
            survivors=survivors,
            cause=cause,
            ended_by=ended_by,
            notes=self._notes.texts,
            job_id=self._job_id,
            ended_at=round(time.time(), 3),
        )

    def hold(self, rest: Callable[[float], None], *, cause: str, ended_by: str) -> Report:
        """Try again, with growing pauses, until nothing is left, however long that takes; then the last report.

        `rest` sleeps between two tries, the given seconds at the most.
        """
        began, pause = time.monotonic(), _HOLD_FIRST
        while True:
            self._rest(pause, rest)
            report = self.run(Ladder(0, _HOLD_FIRST), cause=cause, ended_by=ended_by)
            if report.empty:
                note = f"held and ended {time.monotonic() - began:.1f} s after survivors were reported"
                return report._replace(notes=(*report.notes, note))
            pause = min(pause * 2, _HOLD_LAST)

    def kill_until(self, deadline: float) -> bool:
        """Rounds of KILL until nothing is left (True) or the deadline of time.monotonic() has passed (False).

        There is one round, and a look afterwards, even if the deadline has passed already.
        """
        pause = _SHORTEST
        next_walk = 0.0
        while not self._is_empty():
            now = time.monotonic()
            if now >= deadline and next_walk:
                return False
            if now >= next_walk:
                if self._kill_round():
                    pause = _SHORTEST
                next_walk = time.monotonic() + max(pause, self._walk_cost)
            self._wait(max(_SHORTEST, self._cost, min(next_walk, deadline) - time.monotonic()))
            pause = min(pause * 1.5, _LONGEST)
        return True

    def _is_empty(self) -> bool:
        began = time.monotonic()
        empty = self._tracker.empty()
        # A scan of a large host is costly: between two of them a multiple of that time passes.
        self._cost = _WALK_SHARE * (time.monotonic() - began)
        return empty

    def _ask_to_end(self) -> bool:
        members = self._tracker.members()
        gentle = self._without_sudo(members)
        self._signaller.send(signal.SIGTERM, gentle)
        if self._signaller.refusals:
            # Without a rule for kill there is still the relay: sudo passes TERM on to its command.
            self._signaller.send(signal.SIGTERM, [process for process in members if process not in gentle])
        if time.monotonic() < self._grace_ends:
            # Where sudo does not answer, the grace is over by now: a call for CONT would take as long again.
            self._continue_stopped(members)
        pause, next_wake = _SHORTEST, time.monotonic() + _WAKE_EVERY
        while not (empty := self._is_empty()) and (now := time.monotonic()) < self._grace_ends:
            if now >= next_wake:
                self._continue_stopped(self._tracker.members())
                next_wake = now + _WAKE_EVERY
            self._wait(min(max(pause, self._cost), self._grace_ends - now))
            pause = min(pause * 1.5, _LONGEST)
        return empty

    def _continue_stopped(self, members: list[Process]) -> None:
        # TERM stays pending on a stopped process, and a stopped sudo relays nothing.
        stopped = [process for process in members if process.stopped]
        if stopped:
            self._signaller.send(signal.SIGCONT, stopped)

    def _kill_round(self) -> bool:
        """One walk, and one KILL to each member that is due. True if any was."""
        began = time.monotonic()
        members = self._tracker.members()
        self._walk_cost = _WALK_SHARE * (time.monotonic() - began)
        due = self._due(members)
        if not due:
            return False
        self._rounds += 1
        due = self._tracker.kill(due, self)
        self._freeze_runaways(due)
        now = time.monotonic()
        for process in due:
            _, attempts = self._killed.get(process.identity, (0.0, 0))
            self._killed[process.identity] = (now + min(_RETRY_FIRST * 2**attempts, _RETRY_LAST), attempts + 1)
        return True

    def kill(self, processes: list[Process]) -> None:
        """For the tracker: see `trackers.Killer`."""
        # From the second round on there is somebody who forks faster than we look.
        self._signaller.send(signal.SIGKILL, processes, with_groups=self._rounds > 1)

    def stop_members(self) -> list[Process]:
        """For the tracker: see `trackers.Killer`."""
        # Again for those who were started meanwhile.
        for _ in range(_FREEZE_PASSES):
            running = [
                process
                for process in self._without_sudo(self._tracker.members())
                # An account that sudo gave no answer for is not waited for again before its KILL.
                if not process.stopped and process.uid not in self._signaller.refusals
            ]
            if not running:
                break
            self._signaller.send(signal.SIGSTOP, running, outermost_first=True)
        return self._due(self._tracker.members())

    def _freeze_runaways(self, due: list[Process]) -> None:
        """Catch a chain that forks and exits faster than a call of sudo takes (8 ms): stop its whole account first.

        Only where the account has no living process but the job's, so that nothing else is stopped; a process
        that was started in between is continued at once.
        """
        if self._rounds < _RUNAWAY_ROUNDS or self._rounds % _RUNAWAY_ROUNDS:
            return
        for uid in {process.uid for process in due if process.uid not in (os.getuid(), 0, UNKNOWN)}:
            if self._strangers(uid):
                self._notes.add(
                    f"{account_name(uid)} starts processes faster than sudo can signal them, and could not be stopped "
                    "as a whole, because it has others that are not the job's"
                )
            elif self._signaller.freeze(uid):
                frozen = [process for process in self._tracker.members() if process.uid == uid]
                self._signaller.count("STOP", frozen)
                self._signaller.send(signal.SIGKILL, frozen)
                self._signaller.send(signal.SIGCONT, [p for p in self._strangers(uid) if p.stopped])

    def _strangers(self, uid: int) -> list[Process]:
        """The living of an account that are surely not the job's. A newborn member is told by its mark."""
        rows = [
            row
            for row in self._table.scan()
            if row.uid == uid and row.living and not marks.carries(row.pid, self._tracker.mark)
        ]
        members = {process.identity for process in self._tracker.members()}
        return [row for row in rows if row.identity not in members and self._still_unmarked(row)]

    def _still_unmarked(self, row: Process) -> bool:
        # A link of the chain that died since it was read has no limits to show any more; it is not a stranger.
        unmarked = not marks.carries(row.pid, self._tracker.mark)
        return unmarked and find_living(self._table, row.identity) is not None

    def _due(self, members: list[Process]) -> list[Process]:
        now = time.monotonic()
        due = []
        for process in self._without_sudo(members):
            if process.identity in self._relays and not self._patience_is_over(process, now):
                continue
            if self._killed.get(process.identity, (0.0, 0))[0] <= now:
                due.append(process)
        return due

    def _without_sudo(self, members: list[Process]) -> list[Process]:
        kept = signals.spare_sudo(members)
        pids = {process.pid for process in kept}
        self._relays.update(process.identity for process in members if process.pid not in pids)
        return kept

    def _patience_is_over(self, process: Process, now: float) -> bool:
        since = self._idle_sudo.setdefault(process.identity, now)
        if process.stopped:
            self._signaller.send(signal.SIGCONT, [process])
        return now - since >= _SUDO_PATIENCE

    def _survivors(self) -> tuple[Survivor, ...]:
        try:
            members = self._tracker.members()
            if not members:
                self._notes.add(
                    "what is left could not be named: it ended just now, or is dead and waits for its debugger"
                )
            spared = signals.relays(members)
            room = min(_COMMAND_CHARS, _ALL_COMMANDS_CHARS // max(1, len(members)))
            return tuple(self._survivor(process, process.pid in spared, room) for process in members)
        except Exception as error:  # noqa: BLE001 - a report without a list is better than none
            self._notes.add(f"the survivors could not be listed: {describe(error)}")
            return ()

    def _survivor(self, process: Process, spared: bool, room: int) -> Survivor:
        return Survivor(
            pid=process.pid,
            start_time=process.start_time,
            user=account_name(process.uid),
            state=process.state,
            command=(self._table.command(process.pid) or process.comm)[:room],
            reason=self._reason(process, spared),
        )

    def _reason(self, process: Process, spared: bool) -> str:
        if spared:
            return "it is the sudo above living processes, and is never killed over their heads: it goes when they go"
        if process.state == "D":
            return (
                "it is in an uninterruptible sleep (state D): it ends when the device or file system answers, "
                "or when whoever froze its cgroup thaws it"
            )
        if process.uid in self._signaller.refusals:
            return self._signaller.refusals[process.uid]
        if process.state == "t":
            return "it is held by a debugger (state t): end the debugger"
        if process.identity not in self._killed:
            return "it was started while its tree was being killed: what holds the tree goes on"
        return "it was sent KILL and has not ended yet: look at its state and at its children with `corral ps`"

    def _guarded(self, step: Callable[[], bool]) -> bool:
        try:
            return step()
        except Exception as error:  # noqa: BLE001 - whatever fails, the tree is not let go: noted, and tried again
            self._notes.add(error)
            self._rest(_LONGEST, self._wait)
            return False

    def _rest(self, seconds: float, wait: Callable[[float], None]) -> None:
        try:
            wait(seconds)
        except Exception as error:  # noqa: BLE001 - the same: what fails while waiting must not end the ending
            self._notes.add(error)
            time.sleep(seconds)
