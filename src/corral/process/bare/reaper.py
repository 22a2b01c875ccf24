"""The reaper: one process per job, which starts the command, adopts what it loses, ends the tree and says so.

It runs in a bare interpreter (`boot.py`) with the standard library only, in one thread and a session of its own. It
ends the tree when the command exits, when it is asked, when the lifeline closes or the supervisor is gone, and on TERM.
No failure of its own lets go of the tree: it stays, above what is left, for as long as anything is.
"""

from __future__ import annotations

import errno
import os
import select
import signal
import sys
import time
from collections.abc import Callable

from corral.process.bare import command, lifeline, prctl, sudo
from corral.process.bare.command import Command, Launch, Plan
from corral.process.bare.ending import Ending, Ladder
from corral.process.bare.errors import LedgerError, StartError, describe
from corral.process.bare.host import host_table
from corral.process.bare.ledger import Record
from corral.process.bare.report import Report
from corral.process.bare.signals import Signaller
from corral.process.bare.table import UNKNOWN, Identity, Process
from corral.process.bare.trackers import Portable, Subreaper, Tracker
from corral.process.bare.typed import Any

_CONFIG_WITHIN = 30.0
_SUSPEND_WITHIN = 2.0
"""Seconds for the rounds of STOP or CONT to a tree, beside the calls of sudo that run when they are over."""
_SUSPEND_PAUSE = 0.01
_NOT_BEFORE_THE_END = "it was ended before its command ran"
_REFRESH_FIRST, _REFRESH_LAST = 0.02, 2.0
_POLL_REFUSED_PAUSE = 0.02
_REFRESH_SHARE = 20.0
"""The tree is read at most this part of the time: a large one, or a scan of a large host, is read less often."""


def main(descriptor: int) -> None:
    """Be the reaper of the job that the supervisor at the other end of the lifeline asks for."""
    prctl.set_name("corral-reaper")
    _open_streams()
    reaper = Reaper(lifeline.ReaperEnd(descriptor))
    config = reaper.wire.first("start", _CONFIG_WITHIN)
    if config is not None:
        reaper.run(config)
    # The report has been read before this process is gone, and its caller waits for that too: no slow farewell.
    os._exit(0)


class Interrupted(Exception):
    """The job is to be ended, and its command does not run yet."""


class Reaper:
    """The state of one job: its command, its tracker, its record, and why it is ending."""

    def __init__(self, wire: lifeline.ReaperEnd) -> None:
        self.wire = wire
        self._table = host_table()
        self._supervisor: Identity = (0, UNKNOWN)
        self._supervisor_fd: int | None = None
        self._launch: Launch | None = None
        self._status: int | None = None
        self._cause = ""
        self._ladder = Ladder()
        self._ending: Ending | None = None
        self._record: Record | None = None
        self._notes: list[str] = []
        self._poked = False
        self._holds_streams = False
        """Whether the command runs and this process still holds its standard streams open."""
        self._ignored: list[int] = []
        self._order = ""
        """`suspend` or `resume`, while that is to be done."""
        self._suspended: set[Identity] = set()
        self._mark = 0
        self._job_id = ""
        # Until there is a command: no child is no tree.
        self._caller = sudo.Caller(self._wait)
        self._tracker: Tracker = Subreaper(self._on_exit, spares=self._caller.left)
        self._report_file: str | None = None
        self._untold: Report | None = None
        """A report that the supervisor has not been told whole."""

    def run(self, config: dict[str, Any]) -> None:
        """Start the command and stay until its tree is gone."""
        self._listen()
        try:
            self._start(config)
            self._watch()
        except Interrupted:
            self.wire.send({"error": {"kind": "interrupted", "message": _NOT_BEFORE_THE_END}})
        except (StartError, LedgerError) as error:
            kind = error.kind if isinstance(error, StartError) else "ledger"
            self.wire.send({"error": {"kind": kind, "message": str(error)}})
            self._ladder = Ladder(0, self._ladder.kill)
        except Exception as error:  # noqa: BLE001 - not let go: whatever the failure, what was started is ended
            self._note(error)
            self._cause = self._cause or "failure"
            if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
                text = (
                    f"the reaper may not open the files that it needs ({error.strerror}): raise the limit (ulimit -n)"
                )
                self.wire.send({"error": {"kind": "fork", "message": text}})
            if self._launch is None or not self._launch.running:
                self.wire.send({"error": {"kind": "internal", "message": f"the reaper failed: {self._notes[-1]}"}})
        self._end()

    def _start(self, config: dict[str, Any]) -> None:
        self._ladder = Ladder(float(config["grace"]), float(config["kill"]))
        # What came right behind the start has been read with it: no poll would tell of it.
        self._take_messages()
        self._job_id = config["id"]
        self._report_file = config.get("report_file")
        subreaper = config["tracker"] != "portable" and prctl.set_child_subreaper(True)
        if not subreaper and config["tracker"].startswith("subreaper"):
            raise StartError("invalid", "this host has no subreapers: choose the tracker auto or portable")
        portable = not subreaper
        request = Command(
            argv=config["argv"],
            user=config["user"],
            env=config["env"],
            preserve=config["preserve"],
            cwd=config["cwd"],
            here=config["here"],
            mark=0 if portable else config["mark"],
            assign=config["assign"],
            limits=config["limits"],
        )
        self._mark = request.mark
        # By its own word: whoever is the parent now may only have adopted this process.
        self._supervisor = (config["supervisor"][0], config["supervisor"][1])
        self._watch_supervisor()
        if portable:
            # Its members are known by nothing but having been seen: each look is recorded, also those of the ending.
            self._tracker = Portable(
                self._table,
                [],
                on_exit=self._on_exit,
                on_seen=self._write_members,
                spares=[self._supervisor[0]],
            )
        elif config["tracker"] == "subreaper-scan":
            self._tracker = Subreaper(self._on_exit, by_scan=True, spares=self._caller.left)
        self._launch = Launch(
            request,
            ignored=self._ignored,
            caller=self._caller,
            wait=self._wait_to_start,
            in_child=self._let_go_in_child,
            forked=self._on_fork,
            planned=lambda plan: self._write_record(config, request, plan),
        )
        self._launch.run()
        self._tell_started(self._launch)

    def _let_go_in_child(self) -> None:
        """Close the lifeline and the record's lock in a child whose exec may hang: they tell that the reaper lives."""
        self.wire.close()
        if self._record is not None:
            self._record.close()

    def _on_fork(self, pid: int) -> None:
        process = self._table.read(pid) or Process(pid)
        if isinstance(self._tracker, Portable):
            self._tracker.follow(process)
        self._write_members([process])

    def _write_record(self, config: dict[str, Any], request: Command, plan: Plan) -> None:
        assert self._launch is not None
        self._record = Record.create(config["state_dir"], config["id"], self._header(config, request, plan))
        # Before the command runs: if supervisor and reaper die in the next moment, a sweep knows it.
        self._on_fork(self._launch.pid)
        # The last moment at which the command can be kept from running.
        self._check_supervisor()

    def _tell_started(self, launch: Launch) -> None:
        assert launch.plan is not None
        started = {
            "pid": launch.pid,
            "start_time": self._table.start_time(launch.pid) or UNKNOWN,
            "user": launch.plan.user,
            "uid": launch.plan.uid,
        }
        self.wire.send({"started": started})
        self._release_streams()
        if launch.notice:
            self.wire.send({"notice": launch.notice})
        self._check_rule(launch.plan, launch.pid)

    def _release_streams(self) -> None:
        # Short of descriptors it fails, which is no reason to end the job: `_watch` tries again.
        self._holds_streams = self._guard(command.release_streams) is not True

    def _watch_supervisor(self) -> None:
        """Hear of the supervisor's end from here on. Raises StartError if it is gone already."""
        self._supervisor_fd = _open_pidfd(self._supervisor[0])
        if self._supervisor_fd is not None:
            self._poll.register(self._supervisor_fd, select.POLLIN)
        # Only now: a pid is nobody else's while its process is the parent, so the descriptor is the supervisor's.
        self._check_supervisor()

    def _check_supervisor(self) -> None:
        pid = self._supervisor[0]
        if os.getppid() != pid:
            self._cause = "lifeline"
            raise StartError("internal", f"the supervisor (pid {pid}) is not above its reaper: nothing was started")

    def _header(self, config: dict[str, Any], request: Command, plan: Plan) -> dict[str, Any]:
        own = self._table.read(os.getpid())
        return {
            "boot_id": self._table.boot_id(),
            "host_id": self._table.host_id(),
            "namespace": self._table.namespace(),
            "supervisor": self._supervisor,
            "reaper": own.identity if own is not None else (os.getpid(), UNKNOWN),
            "user": plan.user,
            "label": config["label"],
            "command": os.path.basename(request.argv[0]) if request.argv else "",
            "mark": request.mark,
            "started": time.time(),
            "grace": self._ladder.grace,
            "kill": self._ladder.kill,
        }

    def _check_rule(self, plan: Plan, pid: int) -> None:
        """Say now, and not at the end, that a tree of another account could not be signalled."""
        if plan.uid == os.getuid() or os.geteuid() == 0 or plan.sudo is None:
            return
        # Signal 0 does nothing; that kill may not send it to sudo is its own answer, and not sudo's refusal.
        line = sudo.kill_lines(plan.sudo, plan.user, "0", [pid])[0]
        try:
            outcome = self._caller.run(line, wait=self._wait_to_start)
        except Interrupted:
            return  # Nothing is asked while the tree is to be ended.
        if sudo.forbids(outcome):
            rule = sudo.rule(plan.service, plan.user, sudo.KILL)
            self.wire.send(
                {"notice": f"what {plan.user} leaves running cannot be ended by force: add to sudoers: {rule}"}
            )
        elif sudo.refused(outcome):
            unknown = f"whether what {plan.user} leaves running can be ended by force is not known"
            self.wire.send({"notice": f"{unknown}: {outcome.message}"})

    def _listen(self) -> None:
        """Turn signals and the supervisor's end into something to poll for."""
        # A supervisor with threads that wait for signals has them blocked, and a mask is inherited.
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        reading, writing = os.pipe()
        for descriptor in (reading, writing):
            os.set_blocking(descriptor, False)
        self._wake = reading
        signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, _nothing)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            if signal.signal(number, self._on_term) is signal.SIG_IGN:
                self._ignored.append(number)
        self._poll = select.poll()
        self._poll.register(reading, select.POLLIN)
        self._poll.register(self.wire.descriptor, select.POLLIN)

    def _on_term(self, _number: int, _frame: object) -> None:
        self._poked = True
        if self._cause:
            # The second request: kill without waiting.
            self._hurry(0.0)
        self._cause = self._cause or "signal"

    def _on_exit(self, pid: int, status: int) -> None:
        if self._launch is None or pid != self._launch.pid or self._status is not None:
            return
        self._status = os.waitstatus_to_exitcode(status)
        self._cause = self._cause or "exit"
        self.wire.send({"exited": self._status})

    def _watch(self) -> None:
        """Wait for a reason to end the tree, reading it now and then so that the record knows its members."""
        pause = _REFRESH_FIRST
        next_refresh = time.monotonic()
        known = 0
        while not self._cause:
            now = time.monotonic()
            if now >= next_refresh:
                if self._holds_streams:
                    self._release_streams()
                members = self._guard(self._tracker.members)
                if members is not None:
                    self._write_members(members)
                    pause = _REFRESH_FIRST if len(members) != known else min(pause * 2, _REFRESH_LAST)
                    known = len(members)
                next_refresh = now + max(pause, _REFRESH_SHARE * (time.monotonic() - now))
            self._wait(next_refresh - time.monotonic())
            self._tracker.collect()
            if self._order:
                self._obey()

    def _obey(self) -> None:
        order, self._order = self._order, ""
        deadline = time.monotonic() + _SUSPEND_WITHIN
        step = self._suspend if order == "suspend" else self._resume
        # None: it was not possible to look (no descriptor was left), which is no reason to end the job.
        while not self._cause and not self._order and self._guard(step) is not False and time.monotonic() < deadline:
            self._wait(_SUSPEND_PAUSE)
        if order == "suspend":
            self.wire.send({"suspended": {}})

    def _suspend(self) -> bool:
        """Stop what runs, from the root down: what is stopped starts nobody. Whether there was anything to stop."""
        running = [
            process
            for process in self._tracker.members()
            # One in state D stops when it returns.
            if not process.stopped and not (process.state == "D" and process.identity in self._suspended)
        ]
        self._suspended.update(process.identity for process in running)
        self._signaller().send(signal.SIGSTOP, running, outermost_first=True)
        return bool(running)

    def _resume(self) -> bool:
        """Continue what was stopped by `_suspend`. Whether there was anything to continue.

        What runs below sudo comes first: a sudo that finds its command stopped stops itself, and is continued again.
        """
        stopped = [p for p in self._tracker.members() if p.stopped and p.identity in self._suspended]
        signaller = self._signaller()
        signaller.send(signal.SIGCONT, [process for process in stopped if process.uid != os.getuid()])
        signaller.send(signal.SIGCONT, [process for process in stopped if process.uid == os.getuid()])
        return bool(stopped)

    def _wait(self, seconds: float, descriptor: int = -1) -> bool:
        """Wait for news, this long at the most, and take in what there is. Whether `descriptor` can be read."""
        ready = False
        if descriptor >= 0:
            self._poll.register(descriptor, select.POLLIN)
        try:
            events = self._poll.poll(max(0.0, seconds) * 1000)
        except OSError:
            events = self._select(seconds, descriptor)
        finally:
            if descriptor >= 0:
                self._poll.unregister(descriptor)
        for number, _ in events:
            if number == descriptor:
                ready = True
            elif number == self._wake:
                _drain(number)
            elif number == self.wire.descriptor:
                self._take_messages()
            elif number == self._supervisor_fd:
                # Whoever else holds the other end of the lifeline (a fork that did not exec), the supervisor is gone.
                self._lost_supervisor()
        return ready

    def _select(self, seconds: float, descriptor: int) -> list[tuple[int, int]]:
        """Wait as poll does, which fails with EINVAL where the limit is lower than the number of its descriptors."""
        watched = [self._wake, descriptor, -1 if self._supervisor_fd is None else self._supervisor_fd]
        if not self.wire.closed:
            watched.append(self.wire.descriptor)
        try:
            ready, _, _ = select.select([one for one in watched if one >= 0], [], [], max(0.0, seconds))
        except (OSError, ValueError):
            time.sleep(min(max(0.0, seconds), _POLL_REFUSED_PAUSE))
            return []
        return [(number, select.POLLIN) for number in ready]

    def _pause(self, seconds: float) -> None:
        self._wait(seconds)

    def _wait_to_start(self, seconds: float, descriptor: int = -1) -> bool:
        """The same for what only a job that goes on needs: a reason to end it gives that up."""
        ready = self._wait(seconds, descriptor)
        if self._cause:
            raise Interrupted
        return ready

    def _take_messages(self) -> None:
        for message in self.wire.receive():
            if isinstance(request := message.get("end"), dict):
                grace = request.get("grace")
                if isinstance(grace, (int, float)) and grace >= 0:
                    # The first caller may lengthen the grace of the start; a later one may only shorten it.
                    patience = min(grace, self._ladder.grace) if self._cause else grace
                    self._ladder = self._ladder._replace(grace=float(patience))
                    self._hurry(float(grace))
                self._cause = self._cause or "request"
            elif "suspend" in message and self._cause:
                self.wire.send({"suspended": {}})  # What is being ended is not stopped: nobody need wait for that.
            elif "suspend" in message or "resume" in message:
                self._order = "suspend" if "suspend" in message else "resume"
            elif "start" not in message:
                self.wire.send({"notice": f"a control message was not understood: {list(message)[:3]}"})
        if self.wire.closed:
            self._poll.unregister(self.wire.descriptor)
            self._cause = self._cause or "lifeline"

    def _lost_supervisor(self) -> None:
        if self._supervisor_fd is not None:
            self._poll.unregister(self._supervisor_fd)
            os.close(self._supervisor_fd)
            self._supervisor_fd = None
        self._cause = self._cause or "lifeline"

    def _hurry(self, grace: float) -> None:
        if self._ending is not None:
            self._ending.hurry(grace)

    def _end(self) -> None:
        self._guard(lambda: self.wire.send({"ending": self._cause}))
        self._ending = Ending(
            self._tracker,
            self._signaller(),
            self._table,
            self._pause,
            mark=self._mark,
            notes=self._notes,
            job_id=self._job_id,
        )
        report = self._ending.run(self._ladder, cause=self._cause, ended_by="reaper")
        if not report.empty:
            self._deliver(report)
            report = self._ending.hold(self._rest, cause=self._cause, ended_by="reaper")
        if self._record is not None:
            self._guard(self._record.remove)
        # The last word, so that whoever sees this process go knows that it was not killed.
        self._deliver(report)

    def _signaller(self) -> Signaller:
        launch = self._launch
        return Signaller(
            self._table,
            person=os.getuid() if launch is None else launch.uid,
            caller=self._caller,
            program=launch.plan.sudo if launch is not None and launch.plan is not None else None,
        )

    def _explained(self, report: Report) -> Report:
        """With the reason why there is no proof, where that is this process's own."""
        if not report.empty or report.proof is not None or not self._caller.left:
            return report
        pids = ", ".join(str(pid) for pid, _ in sorted(self._caller.left))
        note = f"there is no proof, because programs of sudo's, started for calls of the reaper, hang: pid {pids}"
        return report._replace(notes=(*report.notes, note))

    def _deliver(self, report: Report) -> None:
        told = report = self._explained(report)
        if (path := self._report_file) is not None:
            told = self._guard(lambda: report.written(path)) or report
        self._untold = told
        self._tell_again()

    def _tell_again(self) -> None:
        """Send the last report, if it was not sent whole: the supervisor may have been stopped, or busy."""
        untold = self._untold
        if untold is not None and self._guard(lambda: self.wire.send({"report": untold.to_json()})):
            self._untold = None

    def _rest(self, seconds: float) -> None:
        """Wait between two tries for what is held; whoever sends TERM, and an end of it all, cut it short."""
        self._tell_again()
        self._guard(lambda: self._write_members(self._tracker.members()))
        deadline = time.monotonic() + seconds
        self._poked = False
        while (left := deadline - time.monotonic()) > 0 and not self._poked and not self._is_empty():
            self._wait(left)

    def _is_empty(self) -> bool:
        return self._guard(self._tracker.empty) is True

    def _write_members(self, members: list[Process]) -> None:
        if self._record is None:
            return
        try:
            self._record.add(process.identity for process in members if process.readable)
            self._record.compact([process.identity for process in members if process.readable])
        except OSError as error:
            text = f"the ledger could not be refreshed ({error.strerror}): a sweep would know less of this tree"
            if text not in self._notes:
                self.wire.send({"notice": text})
            self._note(text)

    def _note(self, what: object) -> None:
        text = describe(what) if isinstance(what, BaseException) else str(what)
        if text not in self._notes:
            self._notes.append(text)

    def _guard(self, step: Callable[[], Any]) -> Any:
        try:
            return step()
        except Exception as error:  # noqa: BLE001 - no failure of its own (a full disk, no memory) lets go of the tree
            self._note(error)
            return None


def _open_streams() -> None:
    """Where the supervisor has closed a standard stream, its number must not go to something of the reaper's own."""
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # The lowest free number is this one.
            os.set_inheritable(descriptor, True)


def _open_pidfd(pid: int) -> int | None:
    try:
        return os.pidfd_open(pid) if sys.platform == "linux" else None
    except OSError:
        return None


def _drain(descriptor: int) -> None:
    try:
        while os.read(descriptor, 4096):
            pass
    except BlockingIOError:
        pass


def _nothing(number: int, frame: object) -> None:
    """A handler, so that the signal interrupts poll through the wake-up pipe."""
