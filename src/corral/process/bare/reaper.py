"""The reaper: one process per job, which starts the command, adopts what it loses, ends the tree and says so.

It runs in a bare interpreter (`boot.py`) with the standard library only, in one thread and a session of its own. It
ends the tree when the command exits, when it is asked, when the lifeline closes or the supervisor is gone, and on TERM.
No failure of its own lets go of the tree: it stays, above what is left, for as long as anything is.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable

from corral.process.bare import launch, lifeline, prctl, sudo
from corral.process.bare.child import Plan
from corral.process.bare.containment import choose_before_start
from corral.process.bare.ending import Ending, Ladder
from corral.process.bare.errors import LedgerError, Notes, StartError
from corral.process.bare.events import Events
from corral.process.bare.host import host_table
from corral.process.bare.launch import Launch
from corral.process.bare.ledger import Record
from corral.process.bare.reporting import Reporter
from corral.process.bare.request import StartRequest
from corral.process.bare.signals import Signaller
from corral.process.bare.suspension import Suspension
from corral.process.bare.table import UNKNOWN, Process
from corral.process.bare.trackers import Containment, Subreaper
from corral.process.bare.typed import Any

_REQUEST_WITHIN = 30.0
_SUSPEND_WITHIN = 2.0
"""Seconds for the rounds of STOP or CONT to a tree, beside the calls of sudo that run when they are over."""
_SUSPEND_PAUSE = 0.01
_NOT_BEFORE_THE_END = "it was ended before its command ran"
_REFRESH_FIRST, _REFRESH_LAST = 0.02, 2.0
_REFRESH_SHARE = 20.0
"""The tree is read at most this part of the time: a large one, or a scan of a large host, is read less often."""


def main(descriptor: int) -> None:
    """Be the reaper of the job that the supervisor at the other end of the lifeline asks for."""
    prctl.set_name("corral-reaper")
    _open_streams()
    wire = lifeline.ReaperEnd(descriptor)
    message = wire.first("start", _REQUEST_WITHIN)
    if message is not None:
        Reaper(wire).run(message)
    # The report has been read before this process is gone, and its caller waits for that too: no slow farewell.
    os._exit(0)


class Interrupted(Exception):
    """The job is to be ended, and its command does not run yet."""


class Reaper:
    """The state of one job: its command, its tracker, its record, and why it is ending."""

    def __init__(self, wire: lifeline.ReaperEnd) -> None:
        self._wire = wire
        self._events = Events(
            wire, on_message=self._on_message, on_lost=lambda: self._end_because("lifeline"), on_term=self._on_term
        )
        self._table = host_table()
        self._notes = Notes()
        self._caller = sudo.Caller(self._events.wait)
        # Before there is a command: without children there is no tree.
        self._tracker: Containment = Subreaper(self._on_exit, spares=self._caller.left)
        self._launch: Launch | None = None
        self._has_exited = False
        self._record: Record | None = None
        self._reporter = Reporter(wire, None, self._caller.left)
        self._suspension = Suspension()
        self._order = ""
        """`suspend` or `resume`, while that is to be done."""
        self._holds_streams = False
        """Whether the command runs and this process still holds its standard streams open."""
        self._job_id = ""
        self._ladder = Ladder()
        self._cause = ""
        """Why the tree is to be ended; '' while it is not."""
        self._ending: Ending | None = None
        self._tries_again = False
        """Whether a TERM asked to try again now what could not be ended."""

    def run(self, message: dict[str, Any]) -> None:
        """Start the command that the message asks for, and stay until its tree is gone."""
        self._events.listen()
        try:
            request = StartRequest.decode(message)
            self._accept(request)
            self._watch_supervisor(request)
            self._tracker = self._choose_tracker(request)
            self._start(request)
            self._watch()
        except Interrupted:
            self._wire.send({"error": {"kind": "interrupted", "message": _NOT_BEFORE_THE_END}})
        except (StartError, LedgerError) as error:
            kind = error.kind if isinstance(error, StartError) else "ledger"
            self._wire.send({"error": {"kind": kind, "message": str(error)}})
            self._ladder = Ladder(0, self._ladder.kill)
        except Exception as error:  # noqa: BLE001 - not let go: whatever the failure, what was started is ended
            self._fail(error)
        self._end()

    # The steps of a start.

    def _accept(self, request: StartRequest) -> None:
        self._job_id = request.job_id
        self._ladder = request.ladder
        self._reporter = Reporter(self._wire, request.report_file, self._caller.left)
        # What came right behind the start has been read with it: no poll would tell of it.
        self._events.take_messages()

    def _watch_supervisor(self, request: StartRequest) -> None:
        """Hear of the supervisor's end from here on. Raises StartError if it is gone already."""
        # As the request names it: the parent may be another process by now, which has only adopted this one.
        self._events.watch_supervisor(request.supervisor[0])
        # Only now: a pid is nobody else's while its process is the parent, so what is watched is the supervisor.
        self._check_supervisor(request)

    def _check_supervisor(self, request: StartRequest) -> None:
        pid = request.supervisor[0]
        if os.getppid() != pid:
            self._cause = "lifeline"
            raise StartError("internal", f"the supervisor (pid {pid}) is not above its reaper: nothing was started")

    def _choose_tracker(self, request: StartRequest) -> Containment:
        return choose_before_start(
            request.tracker,
            mark=request.mark,
            supervisor=request.supervisor[0],
            on_exit=self._on_exit,
            on_seen=self._write_members,
            spares=self._caller.left,
        )

    def _start(self, request: StartRequest) -> None:
        self._launch = Launch(
            request.command,
            ignored=self._events.ignored,
            caller=self._caller,
            wait=self._wait_to_start,
            in_child=self._enter,
            forked=self._on_fork,
            planned=lambda plan: self._write_record(request, plan),
        )
        self._launch.run()
        self._tell_started(self._launch)

    def _enter(self) -> None:
        """In the child: become a member, without the lifeline and the record's lock, which tell that the reaper lives.

        The exec would close them, but it may hang.
        """
        self._wire.close()
        if self._record is not None:
            self._record.close()
        self._tracker.enter()

    def _on_fork(self, pid: int) -> None:
        process = self._table.read(pid) or Process(pid)
        self._tracker.follow(process)
        self._write_members([process])

    def _write_record(self, request: StartRequest, plan: Plan) -> None:
        assert self._launch is not None
        self._record = Record.create(request.state_dir, request.job_id, self._header(request, plan))
        # Before the command runs: if supervisor and reaper die in the next moment, a sweep knows it.
        self._on_fork(self._launch.pid)
        # The last moment at which the command can be kept from running.
        self._check_supervisor(request)

    def _header(self, request: StartRequest, plan: Plan) -> dict[str, Any]:
        own = self._table.read(os.getpid())
        argv = request.command.argv
        return {
            "boot_id": self._table.boot_id(),
            "host_id": self._table.host_id(),
            "namespace": self._table.namespace(),
            "supervisor": request.supervisor,
            "reaper": own.identity if own is not None else (os.getpid(), UNKNOWN),
            "user": plan.user,
            "label": request.label,
            "command": os.path.basename(argv[0]) if argv else "",
            "mark": self._tracker.mark,
            "started": time.time(),
            "grace": self._ladder.grace,
            "kill": self._ladder.kill,
        }

    def _tell_started(self, started: Launch) -> None:
        assert started.plan is not None
        told = {
            "pid": started.pid,
            "start_time": self._table.start_time(started.pid) or UNKNOWN,
            "user": started.plan.user,
            "uid": started.plan.uid,
        }
        self._wire.send({"started": told})
        self._release_streams()
        if started.notice:
            self._wire.send({"notice": started.notice})
        self._check_rule(started.plan, started.pid)

    def _release_streams(self) -> None:
        # It fails when descriptors are short. The job goes on, and `_watch` tries again.
        self._holds_streams = self._guard(launch.release_streams) is not True

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
            self._wire.send(
                {"notice": f"what {plan.user} leaves running cannot be ended by force: add to sudoers: {rule}"}
            )
        elif sudo.refused(outcome):
            unknown = f"whether what {plan.user} leaves running can be ended by force is not known"
            self._wire.send({"notice": f"{unknown}: {outcome.message}"})

    def _wait_to_start(self, seconds: float, descriptor: int = -1) -> bool:
        """Wait for what only a job that goes on needs: a reason to end it raises Interrupted."""
        ready = self._events.wait(seconds, descriptor)
        if self._cause:
            raise Interrupted
        return ready

    def _fail(self, error: Exception) -> None:
        self._notes.add(error)
        self._end_because("failure")
        if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
            text = f"the reaper may not open the files that it needs ({error.strerror}): raise the limit (ulimit -n)"
            self._wire.send({"error": {"kind": "fork", "message": text}})
        if self._launch is None or not self._launch.running:
            self._wire.send({"error": {"kind": "internal", "message": f"the reaper failed: {self._notes.texts[-1]}"}})

    # While the command runs.

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
            self._events.wait(next_refresh - time.monotonic())
            self._tracker.collect()
            if self._order:
                self._obey()

    def _obey(self) -> None:
        order, self._order = self._order, ""
        step = self._suspension.stop if order == "suspend" else self._suspension.resume
        signaller = self._signaller()
        deadline = time.monotonic() + _SUSPEND_WITHIN
        while not self._cause and not self._order and time.monotonic() < deadline:
            # None: it was not possible to look (no descriptor was left). The job goes on.
            if self._guard(lambda: step(self._tracker, signaller)) is False:
                break
            self._events.wait(_SUSPEND_PAUSE)
        if order == "suspend":
            self._wire.send({"suspended": {}})

    def _write_members(self, members: list[Process]) -> None:
        if self._record is None:
            return
        known = [process.identity for process in members if process.readable]
        try:
            self._record.add(known)
            self._record.compact(known)
        except OSError as error:
            text = f"the ledger could not be refreshed ({error.strerror}): a sweep would know less of this tree"
            if self._notes.add(text):
                self._wire.send({"notice": text})

    # Reasons to end.

    def _end_because(self, cause: str) -> None:
        self._cause = self._cause or cause

    def _on_exit(self, pid: int, status: int) -> None:
        if self._launch is None or pid != self._launch.pid or self._has_exited:
            return
        self._has_exited = True
        self._end_because("exit")
        self._wire.send({"exited": os.waitstatus_to_exitcode(status)})

    def _on_term(self) -> None:
        self._tries_again = True
        if self._cause:
            # The second request: kill without waiting.
            self._hurry(0.0)
        self._end_because("signal")

    def _on_message(self, message: dict[str, Any]) -> None:
        if isinstance(request := message.get("end"), dict):
            grace = request.get("grace")
            if isinstance(grace, (int, float)) and grace >= 0:
                # The first caller may lengthen the grace of the start; a later one may only shorten it.
                patience = min(grace, self._ladder.grace) if self._cause else grace
                self._ladder = self._ladder._replace(grace=float(patience))
                self._hurry(float(grace))
            self._end_because("request")
        elif "suspend" in message and self._cause:
            self._wire.send({"suspended": {}})  # What is being ended is not stopped: the caller need not wait.
        elif "suspend" in message or "resume" in message:
            self._order = "suspend" if "suspend" in message else "resume"
        elif "start" not in message:
            self._wire.send({"notice": f"a control message was not understood: {list(message)[:3]}"})

    def _hurry(self, grace: float) -> None:
        if self._ending is not None:
            self._ending.hurry(grace)

    # The end.

    def _end(self) -> None:
        self._guard(lambda: self._wire.send({"ending": self._cause}))
        self._ending = Ending(
            self._tracker, self._signaller(), self._table, self._pause, notes=self._notes, job_id=self._job_id
        )
        report = self._ending.run(self._ladder, cause=self._cause, ended_by="reaper")
        if not report.empty:
            self._reporter.deliver(report)
            report = self._ending.hold(self._rest, cause=self._cause, ended_by="reaper")
        if self._record is not None:
            self._guard(self._record.remove)
        # The last message: a supervisor that has it knows that this process was not killed.
        self._reporter.deliver(report)

    def _pause(self, seconds: float) -> None:
        self._events.wait(seconds)

    def _rest(self, seconds: float) -> None:
        """Wait between two tries for what is held; a TERM, and the end of it all, cut it short."""
        self._reporter.send_again()
        self._guard(lambda: self._write_members(self._tracker.members()))
        deadline = time.monotonic() + seconds
        self._tries_again = False
        while (left := deadline - time.monotonic()) > 0 and not self._tries_again and not self._is_empty():
            self._events.wait(left)

    def _is_empty(self) -> bool:
        return self._guard(self._tracker.empty) is True

    def _signaller(self) -> Signaller:
        started = self._launch
        return Signaller(
            self._table,
            person=os.getuid() if started is None else started.uid,
            caller=self._caller,
            program=started.plan.sudo if started is not None and started.plan is not None else None,
        )

    def _guard(self, step: Callable[[], Any]) -> Any:
        try:
            return step()
        except Exception as error:  # noqa: BLE001 - no failure of its own (a full disk, no memory) lets go of the tree
            self._notes.add(error)
            return None


def _open_streams() -> None:
    """Where the supervisor has closed a standard stream, its number must not go to something of the reaper's own."""
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # The lowest free number is this one.
            os.set_inheritable(descriptor, True)
