"""One tree in a world of its own: process 1 of a PID namespace plays the scenario, lifts the fault, and judges.

The judge knows Corral by what it says (reports, the result of a sweep) and by nothing else.
"""

import json
import os
import random
import resource
import select
import signal
import socket
import time
import traceback
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from campaign import strangers, supervisor
from campaign.ground import Slot
from campaign.observer import Look, Observer, identity, lives
from campaign.scenario import FALLS_APART, SUPERVISOR_DIES, Scenario
from tests.harness import namespace, truth
from tests.harness.scanner import NoScannerError, scanner
from tests.harness.trees import TREES
from tests.harness.truth import Identity, Seen

KILL_STEP = 3.0
ANSWERS_WITHIN = 25.0
"""Seconds beyond the ladder: the margin that a stopped reaper is given, the look and the call of sudo at its end."""
HELD_WITHIN = 14.0
EXITS_WITHIN = 15.0
LOOK_EVERY = 0.03
LONG_DEAD = 1.5
OWN_CALLS_WITHIN = 7.0

COUNTS = ("left", "harmed", "false", "hung", "needless", "weaker", "excused", "trouble")
BAD = ("left", "harmed", "false", "hung", "trouble")


class HungError(Exception):
    """Something that is bounded took longer."""


@dataclass(frozen=True)
class Planted:
    """A stranger, and where it records."""

    name: str
    who: Identity
    record: Path
    of_supervisor: bool = False


@dataclass
class World:
    """The state of one world. Everything here runs as root, as process 1."""

    scenario: Scenario
    slot: Slot
    findings: list[tuple[str, str]] = field(default_factory=list)
    story: list[str] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    planted: list[Planted] = field(default_factory=list)
    statuses: dict[Identity, int] = field(default_factory=dict)
    events: list[dict[str, Any]] = field(default_factory=list)
    seen_alive: dict[Identity, float] = field(default_factory=dict)
    lifts: list[tuple[float, Callable[[], object]]] = field(default_factory=list)
    stack: ExitStack = field(default_factory=ExitStack)
    _buffer: bytes = b""
    _closed: bool = False

    def __post_init__(self) -> None:
        self.began = time.monotonic()
        self.dice = random.Random(f"world {self.scenario.seed}")
        self.marker = f"corral-tree-{self.scenario.seed}-end"
        self.observer = Observer(self.marker)
        self.folder = self.slot.folder
        self.state_dir = self.folder / "state"
        self.leave = self.folder / "leave"
        self.stop = self.folder / "stop"
        self.supervisor: Identity = (0, 0)
        self.wire: socket.socket | None = None
        self.forkers: list[Planted] = []
        self.hidden = False

    # The course of it.

    def play(self) -> None:
        """Play the scenario to its end. Findings are in `findings`."""
        try:
            self._raise_world()
            self._start_supervisor()
            self._start_tree()
            self._inject()
            self._take_way()
            self._await_outcome()
            self._lift_all()
            self._settle()
            self._judge_strangers()
            self._dismiss_supervisor()
            self._sweep_up()
        except HungError as hung:
            self.find("hung", f"{hung}\n{self._picture()}")
        finally:
            self.stack.close()

    def tell(self, text: str) -> None:
        self.story.append(f"{(time.monotonic() - self.began) * 1000:7.0f} ms  {text}")

    def find(self, count: str, text: str) -> None:
        self.findings.append((count, text))
        self.tell(f"** {count}: {text}")

    # The world.

    def _raise_world(self) -> None:
        scenario = self.scenario
        options = "hidepid=2" if scenario.fault == "hidepid" else ""
        self.hidden = bool(options)
        namespace.proc(options)
        namespace.tmpfs(self.folder, "0755")
        self.state_dir.mkdir(mode=0o700)
        if scenario.fault in {"full disk", "disk fills up"}:
            namespace.tmpfs(self.state_dir, "0700", "48k")
        os.chown(self.state_dir, self.slot.service.uid, self.slot.service.gid)
        for name in ("records", "tree"):
            (self.folder / name).mkdir()
            (self.folder / name).chmod(0o777)
        self.status = self.folder / "tree" / self.marker
        self.status.touch()
        self.status.chmod(0o666)
        self.program = self.folder / "program"
        self.program.write_text('#!/bin/sh\nexec "$@"\n')
        self.program.chmod(0o755)
        if scenario.fault in {"slow sudo", "hung sudo"}:
            namespace.bind(self.slot.slow_pam, Path("/etc/pam.d/sudo"))
        if scenario.fault == "full disk":
            self._fill_disk()
        if scenario.fault == "small pid space" and self.slot.own_pid_max:
            Path("/proc/sys/kernel/pid_max").write_text(str(self.dice.randrange(420, 600)))
        self.observer.staff.add(_known(1))
        self._plant_siblings()

    def _fill_disk(self) -> None:
        with suppress(OSError), (self.state_dir / "filler").open("wb", buffering=0) as file:
            while True:
                file.write(b"x" * 4096)

    def _plant_siblings(self) -> None:
        accounts = {
            "sibling": self.slot.service,
            "person's": self.slot.person,
            "third account's": self.slot.third,
        }
        for name, account in accounts.items():
            if name in self.scenario.strangers:
                self._plant(name, partial(strangers.begin_session_as, account.uid, account.gid))
        if self.scenario.fault in {"pid reuse", "small pid space"}:
            for index, account in enumerate((self.slot.service, self.slot.person)):
                self._plant_forker(f"forker {index}", account.uid, account.gid)

    def _record(self, name: str) -> Path:
        return self.folder / "records" / name.replace(" ", "-").replace("'", "")

    def _plant(self, name: str, prepare: Callable[[], object]) -> None:
        record = self._record(name)
        pid = strangers.fork_stranger(str(record), str(self.leave), prepare)
        self._know(Planted(name, _known(pid), record))

    def _know(self, planted: Planted) -> None:
        self.planted.append(planted)
        self.observer.strangers.add(planted.who)

    def _plant_forker(self, name: str, uid: int, gid: int) -> None:
        record = self._record(name)
        pid = os.fork()
        if pid == 0:
            try:
                os.setsid()
                strangers.become(uid, gid)
                strangers.fork_quickly(str(record), str(self.stop), self.scenario.seed)
            finally:
                os._exit(97)
        planted = Planted(name, _known(pid), record)
        self.forkers.append(planted)
        self._know(planted)

    def _start_recycler(self) -> None:
        """Have the pids of members that die given to the next process: to a stranger's, as a rule."""
        if self.scenario.fault != "pid reuse":
            return
        pid = os.fork()
        if pid == 0:
            try:
                strangers.recycle(lambda: [one.pid for one in self.observer.look().tree], str(self.stop))
            finally:
                os._exit(97)
        self.observer.staff.add(_known(pid))

    # The supervisor.

    def _start_supervisor(self) -> None:
        own, theirs = socket.socketpair()
        pid = os.fork()
        if pid == 0:
            try:
                own.close()
                os.setsid()
                strangers.become(self.slot.service.uid, self.slot.service.gid)
                self._be_supervisor(theirs)
            except BaseException:  # noqa: BLE001 - a child of the observer: nothing of it may go on as the observer
                traceback.print_exc()
            finally:
                os._exit(96)
        theirs.close()
        self.wire = own
        own.setblocking(False)
        self.supervisor = _known(pid)
        self.observer.staff.add(self.supervisor)
        self._await_event("ready", 20)
        for name, child in self._event("ready")["children"].items():
            self._know(Planted(name, _known(child), self._record(name), of_supervisor=True))
        if self.scenario.other_job:
            self._start_other()

    def _be_supervisor(self, wire: socket.socket) -> None:
        os.chdir("/")
        os.environ.clear()
        os.environ.update(self.slot.env)
        leave = str(self.leave)
        children: dict[str, int] = {}
        prepares: dict[str, Callable[[], object]] = {
            "child": lambda: None,
            "child with a limit": strangers.limited,
            "child in a session": os.setsid,
        }
        for name, prepare in prepares.items():
            if name in self.scenario.strangers:
                children[name] = strangers.fork_stranger(str(self._record(name)), leave, prepare)
        if "orphan" in self.scenario.strangers:
            strangers.fork_orphan(str(self._record("orphan")), leave, str(self.folder / "orphan"))
        wire.sendall(json.dumps({"event": "ready", "children": children}).encode() + b"\n")
        supervisor.supervise(wire, children, self.slot.python)

    def _start_other(self) -> None:
        program = str(self.slot.campaign / "strangers.py")
        argv = [self.slot.python, "-I", "-S", program, str(self._record("other job")), str(self.leave)]
        self._order("other", argv=argv, state_dir=str(self.state_dir))
        told = self._await_event("other started", 20)
        self._wait(lambda: self._record("other job").exists(), 20, "the other job's command recorded")
        self.observer.strangers.add(_known(told["reaper"]))
        self._know(Planted("other job", _known(told["pid"]), self._record("other job"), of_supervisor=True))

    def _order(self, what: str, **arguments: Any) -> None:
        assert self.wire is not None
        with suppress(BrokenPipeError, ConnectionResetError):
            self.wire.sendall(json.dumps({"do": what, **arguments}).encode() + b"\n")

    def _take_events(self) -> None:
        assert self.wire is not None
        try:
            while piece := self.wire.recv(65536):
                self._buffer += piece
            self._closed = True
        except BlockingIOError:
            pass
        except ConnectionResetError:
            self._closed = True
        *lines, self._buffer = self._buffer.split(b"\n")
        for line in lines:
            event = {**json.loads(line), "at": time.monotonic()}
            self.events.append(event)
            self.tell(f"supervisor: {line.decode()[:1500]}")

    def _event(self, *names: str) -> dict[str, Any]:
        return next((event for event in self.events if event["event"] in names), {})

    def _await_event(self, name: str, seconds: float) -> dict[str, Any]:
        self._wait(lambda: self._event(name) or not lives(self.supervisor), seconds, f"the supervisor said {name!r}")
        if not self._event(name):
            raise RuntimeError(f"the supervisor ended before it said {name!r}")
        return self._event(name)

    # The tree.

    def _start_tree(self) -> None:
        scenario = self.scenario
        tree = self._tree_argv()
        argv = [str(self.program), *tree] if scenario.fault == "hung exec" else tree
        if scenario.fault == "few descriptors":
            self._order("limit", which=resource.RLIMIT_NOFILE, number=self.dice.randrange(1, 16))
        if scenario.fault == "fork refused":
            used = self._processes_of(self.slot.service.uid)
            self._order("limit", which=resource.RLIMIT_NPROC, number=used + self.dice.randrange(0, 7))
        if scenario.fault == "hung exec":
            self._hold_exec()
        self._slow_sudo_before_start()
        self._start_recycler()
        self.asked = time.monotonic()
        self.tell("start requested")
        self._order(
            "start",
            argv=argv,
            user=self.slot.person.name if scenario.across else None,
            grace=scenario.grace,
            kill=KILL_STEP,
            tracker=scenario.tracker,
            state_dir=str(self.state_dir),
            report_file=str(self.state_dir / "report.json"),
        )
        if scenario.fault == "early sweep":
            self._sweep(wait=False)

    def _tree_argv(self) -> list[str]:
        scenario, harness = self.scenario, self.slot.harness
        if scenario.tree == "random":
            return [self.slot.python, "-I", "-S", str(harness / "random_tree.py"), str(scenario.seed), self.marker]
        tree = TREES[scenario.tree]
        return tree.argv(self.slot.python, harness / "hostile.py", self.status, self.slot.person.name)

    def _processes_of(self, uid: int) -> int:
        seen = [one for pid in truth.pids() if (one := truth.look(pid)) is not None]
        return sum(one.uids[0] == uid for one in seen)

    def _hold_exec(self) -> None:
        try:
            self.stack.enter_context(scanner(self.program))
        except NoScannerError as reason:
            self.tell(f"no exec is held: {reason}")
            return
        if self.dice.random() < 0.7:
            self._lift_in(self.dice.random() * 3, self.stack.close)

    def _slow_sudo_before_start(self) -> None:
        if self.scenario.fault not in {"slow sudo", "hung sudo"}:
            return
        if self.dice.random() < 0.4:
            self._slow_sudo()

    def _slow_sudo(self) -> None:
        phase = self.dice.choice(("account", "session"))
        flag = self.folder / f"slow-{phase}"
        if flag.exists():
            return
        if self.scenario.fault == "slow sudo":
            flag.write_text(f"{self.dice.random() * 0.8:.2f}")
            self.tell(f"sudo is slow in its {phase} phase: {flag.read_text()} s")
        else:
            flag.write_text("hang")
            self.tell(f"sudo hangs in its {phase} phase")
            if self.dice.random() < 0.7:
                self._lift_in(0.3 + self.dice.random() * 6, lambda: self._remove(flag))

    def _remove(self, flag: Path) -> None:
        self.tell(f"{flag.name} is lifted")
        flag.unlink(missing_ok=True)

    def _lift_in(self, seconds: float, act: Callable[[], object]) -> None:
        self.lifts.append((time.monotonic() + seconds, act))

    # The moment, the fault, the way.

    def _inject(self) -> None:
        scenario = self.scenario
        if scenario.moment != "boot":
            self._wait_standing()
        if "orphan" in scenario.strangers:
            (self.folder / "orphan").touch()
        self._pause(scenario.after * self.dice.random())
        acts: dict[str, Callable[[], object]] = {
            "member killed": self._kill_members,
            "member stopped": lambda: self._signal_one(self._members(), signal.SIGSTOP),
            "command stopped": lambda: self._signal_command(signal.SIGSTOP),
            "sudo killed": lambda: self._signal_one(self._sudos(), signal.SIGKILL),
            "sudo stopped": lambda: self._signal_one(self._sudos(), signal.SIGSTOP),
            "reaper stopped": self._stop_reaper,
            "supervisor stopped": self._stop_supervisor,
            "no descriptors": self._hoard,
            "disk fills up": self._fill_disk,
            "slow sudo": self._slow_sudo,
            "hung sudo": self._slow_sudo,
            "early sweep": lambda: self._sweep(wait=False),
        }
        act = acts.get(scenario.fault)
        if act is not None:
            self.tell(f"fault: {scenario.fault}")
            act()

    def _wait_standing(self) -> None:
        """Wait until the start is over one way or another, and a hostile tree stands as far as it will."""
        done = ("started", "start failed", "cancelled", "report")
        bound = KILL_STEP + 33 + ANSWERS_WITHIN
        self._wait(lambda: self._event(*done) or not lives(self.supervisor), bound, "the start was over")
        if self.scenario.tree != "random" and self._event("started"):
            deadline = time.monotonic() + 1.0
            while "ready" not in self.status.read_text().splitlines() and time.monotonic() < deadline:
                if self._event("report") or not self.observer.look().tree:
                    break
                self._pause(LOOK_EVERY)

    def _members(self) -> list[Seen]:
        return [one for one in self.observer.look().tree if one.name != "sudo" or one.uids[1] != 0]

    def _sudos(self) -> list[Seen]:
        return [one for one in self.observer.look().tree if one.name == "sudo" and one.uids[1] == 0]

    def _signal_one(self, among: list[Seen], number: int) -> None:
        if among:
            one = self.dice.choice(sorted(among, key=lambda seen: seen.pid))
            self.tell(f"{signal.Signals(number).name} to {one}")
            truth.kill(one, number)

    def _kill_members(self) -> None:
        for _ in range(self.dice.randrange(1, 4)):
            self._signal_one(self._members(), signal.SIGKILL)
            self._pause(self.dice.random() * 0.01)

    def _signal_command(self, number: int) -> None:
        if started := self._event("started"):
            self._signal_one([one for one in self.observer.look().tree if one.pid == started["pid"]], number)

    def _reapers(self) -> list[Seen]:
        """The reaper of this job: below the supervisor, or orphaned."""
        return [one for one in self.observer.look().reapers if one.parent in (1, self.supervisor[0])]

    def _stop_reaper(self) -> None:
        for one in self._reapers():
            truth.kill(one, signal.SIGSTOP)
            if self.dice.random() < 0.75:
                self._lift_in(self.dice.random() * 0.6, partial(truth.kill, one, signal.SIGCONT))

    def _stop_supervisor(self) -> None:
        self._signal_supervisor(signal.SIGSTOP)
        self._lift_in(self.dice.random() * 0.5, lambda: self._signal_supervisor(signal.SIGCONT))

    def _signal_supervisor(self, number: int) -> None:
        if (seen := lives(self.supervisor)) is not None:
            truth.kill(seen, number)

    def _hoard(self) -> None:
        self._order("hoard")
        self._pause(0.01)
        if self.dice.random() < 0.5:
            self._lift_in(0.2 + self.dice.random() * 2, lambda: self._order("let go"))

    def _take_way(self) -> None:
        scenario = self.scenario
        way = scenario.way
        if scenario.moment == "boot":
            self._pause(max(0.0, self.asked + scenario.after - time.monotonic()))
        else:
            self._pause(scenario.after * self.dice.random())
        if scenario.moment == "ending":
            self._order("end", grace=scenario.grace)
            self._pause(scenario.after)
        self.tell(f"way: {way}")
        if way == "end":
            self._order("end", grace=scenario.grace)
        elif way == "start cancelled":
            self._order("cancel")
        elif way == "command killed":
            self._wait_standing()
            self._signal_command(signal.SIGKILL)
            self._order("end", grace=scenario.grace)
        else:
            self._kill_corral(way)

    def _kill_corral(self, way: str) -> None:
        if way == "both killed":
            self._kill_both()
        elif way == "supervisor killed":
            self._signal_supervisor(signal.SIGKILL)
            self._wait(lambda: not lives(self.supervisor), 10, "the supervisor was dead")
        else:
            number = signal.SIGTERM if way == "reaper terminated" else signal.SIGKILL
            reapers = self._await_reapers()
            for one in reapers:
                truth.kill(one, number)
            if not reapers:
                self._order("end", grace=self.scenario.grace)

    def _await_reapers(self) -> list[Seen]:
        deadline = time.monotonic() + 1.0
        while not (found := self._reapers()) and time.monotonic() < deadline:
            if self._event("start failed", "report"):
                break
            self._pause(0.003)
        return found

    def _kill_both(self) -> None:
        reapers = self._reapers()
        together = self.dice.random() < 0.6
        targets = [one for one in (lives(self.supervisor), *reapers) if one is not None]
        if together:
            for one in targets:
                truth.kill(one, signal.SIGSTOP)
        else:
            self.dice.shuffle(targets)
        for one in targets:
            truth.kill(one, signal.SIGKILL)
            if not together:
                self._pause(self.dice.random() * 0.01)
        self._wait(lambda: not any(truth.look(one.pid) for one in targets), 10, "both were dead")
        self._damage()

    def _damage(self) -> None:
        if self.scenario.fault != "damaged record":
            return
        jobs = self.state_dir / "jobs"
        key = jobs / "key"
        records = sorted(jobs.glob("*.job"))
        self.tell(f"record: {self.scenario.damage}, of {len(records)}")
        if self.scenario.damage == "other key" and key.exists():
            key.write_bytes(os.urandom(32))
        elif self.scenario.damage == "key removed":
            key.unlink(missing_ok=True)
        for record in records:
            data = record.read_bytes()
            place = self.dice.randrange(len(data)) if data else 0
            if self.scenario.damage == "cut short":
                os.truncate(record, place)
            elif self.scenario.damage == "altered" and data:
                record.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
            elif self.scenario.damage == "removed":
                record.unlink()

    # The outcome.

    def _await_outcome(self) -> None:
        if self.scenario.fault == "damaged record" and self.scenario.way != "both killed":
            self._damage()
        bound = self.scenario.grace + KILL_STEP + ANSWERS_WITHIN
        if self.scenario.moment == "boot":
            bound += 33  # the start's own
        if lives(self.supervisor) is None or self.scenario.way in SUPERVISOR_DIES:
            self._await_reapers_gone(bound)
            return
        self._wait(self._answered, bound, "the end was answered")
        event = self._answered()
        self._judge_answer(event)

    def _answered(self) -> dict[str, Any]:
        if lives(self.supervisor) is None:
            raise HungError("the supervisor died by itself")
        return self._event("report", "start failed", "cancelled")

    def _await_reapers_gone(self, bound: float) -> None:
        """With the supervisor dead the reaper ends the tree and goes; a stopped one is woken by a sweep."""
        if self.scenario.moment == "boot":
            self._pause(0.15)  # a child of the supervisor that was becoming the reaper
        woken = time.monotonic() + 4.0
        deadline = time.monotonic() + bound

        def gone() -> bool:
            nonlocal woken
            if time.monotonic() > woken:
                self._sweep(wait=True)
                woken = deadline
            return not self._reapers()

        self._wait(gone, bound, "the reaper had gone")
        look = self.observer.alive()
        if self.scenario.way == "supervisor killed" and look.tree and not self._excuse():
            self.find("left", f"the reaper had gone, and alive were\n{truth.picture(look.tree)}")

    def _judge_answer(self, event: dict[str, Any]) -> None:
        look = self.observer.alive()
        if event["event"] != "report":
            self._judge_alive(f"the start was over ({event['event']})", look, also_reapers=True)
            return
        self._judge_report(event["report"], look, event["at"])

    def _judge_report(self, report: dict[str, Any], look: Look, now: float) -> None:
        verdict = report["verdict"]
        self.facts["verdict"] = verdict
        if verdict == "survivors":
            self._judge_survivors(report, look, now)
            return
        if report["survivors"]:
            self.find("false", f"{verdict} with survivors")
        if verdict == "proven_empty" and (report["proof"] is None or self.scenario.portable):
            self.find("false", f"proven_empty with proof {report['proof']!r} by the {self.scenario.tracker} tracker")
        self._judge_alive(f"the verdict was {verdict}", look, also_reapers=verdict == "proven_empty")

    def _judge_alive(self, when: str, look: Look, *, also_reapers: bool = False) -> None:
        found = [*look.tree, *(look.reapers if also_reapers else ())]
        if not found:
            return
        if excuse := self._excuse():
            self.find("excused", f"{when}, {len(found)} alive: {excuse}")
            return
        text = f"{when}, and alive were\n{truth.picture(found)}"
        self.find("false", text)
        self.find("left", text)

    def _excuse(self) -> str:
        """What docs/guarantees.md does not promise."""
        scenario = self.scenario
        if scenario.portable and scenario.tree in FALLS_APART:
            return "the portable tracker does not promise this tree"
        if scenario.portable and (scenario.moment == "boot" or scenario.fault != "none"):
            return "the portable tracker does not promise trees that fall apart before they were seen"
        return ""

    def _judge_survivors(self, report: dict[str, Any], look: Look, now: float) -> None:
        alive = {(one.pid, one.start_time) for one in (*look.tree, *look.reapers, *look.others)}
        harmless = {planted.who: planted.name for planted in self.planted}
        named = {(one["pid"], one["start_time"]) for one in report["survivors"]}
        for who in named:
            if who in harmless:
                self.find("false", f"the stranger {harmless[who]} is listed as a survivor")
            elif who not in alive and now - self.seen_alive.get(who, 0.0) > LONG_DEAD and who[1] > 0:
                self.find("false", f"{who} is listed as a survivor and was dead for {LONG_DEAD} s or never the tree's")
        if not look.tree and not self.hidden:
            self.find("needless", f"survivors, and nothing lived: {json.dumps(report)[:600]}")

    # Afterwards.

    def _lift_all(self) -> None:
        for _, act in self.lifts:
            act()
        self.lifts.clear()
        self.stack.close()
        for phase in ("account", "session"):
            (self.folder / f"slow-{phase}").unlink(missing_ok=True)
        self.stop.touch()
        for one in self._reapers():
            truth.kill(one, signal.SIGCONT)
        self._signal_supervisor(signal.SIGCONT)
        if lives(self.supervisor) is not None:
            self._order("let go")
        if self.hidden:
            namespace.proc("")
        self.tell("the fault is lifted")

    def _settle(self) -> None:
        """What survived is held, and ended now that it can be."""
        if lives(self.supervisor) is None or not self.observer.alive().tree:
            return
        if self.hidden or self._excuse():
            return
        deadline = time.monotonic() + HELD_WITHIN
        while self.observer.alive().tree and time.monotonic() < deadline:
            self._pause(0.1)
        if self.observer.alive().tree:
            self.find("weaker", f"not ended {HELD_WITHIN:g} s after the fault was lifted\n{self._picture()}")

    def _judge_strangers(self) -> None:
        if (self.folder / "orphan").exists() and (record := self._record("orphan")).exists():
            pid = int(record.read_text().split()[1])
            if who := identity(pid):
                self._know(Planted("orphan", who, record))
            else:
                self.find("harmed", "the orphan of the supervisor is gone")
        for planted in self.planted:
            if planted in self.forkers:
                continue
            if planted.name == "other job" and lives(self.supervisor) is None:
                continue
            seen = lives(planted.who)
            if seen is None:
                self.find("harmed", f"{planted.name} {planted.who} is dead: {self._how(planted)}")
            elif "T" in seen.threads:
                self.find("harmed", f"{planted.name} is stopped: {seen}")
            elif planted.name == "other job":
                self._order("end other")
        self.leave.touch()
        self._wait(self._strangers_gone, 10, "the strangers had left")
        for planted in self.planted:
            self._judge_record(planted)
        self._judge_statuses()

    def _how(self, planted: Planted) -> str:
        return f"status {self.statuses.get(planted.who)}, recorded {self._recorded(planted)}"

    def _recorded(self, planted: Planted) -> list[str]:
        try:
            lines = planted.record.read_text().splitlines()
        except FileNotFoundError:
            return []
        return [line for line in lines if not line.startswith("pid ")]

    def _strangers_gone(self) -> bool:
        return not any(lives(planted.who) for planted in self.planted)

    def _judge_record(self, planted: Planted) -> None:
        recorded = self._recorded(planted)
        if planted.name == "other job":
            recorded = [line for line in recorded if line not in {"signal SIGTERM", "signal SIGCONT"}]
        if recorded:
            self.find("harmed", f"{planted.name} {planted.who} recorded {recorded[:4]}")

    def _judge_statuses(self) -> None:
        of_supervisor = [planted for planted in self.planted if planted.of_supervisor and planted.name != "other job"]
        told: dict[str, str] = {}
        if lives(self.supervisor) is not None and of_supervisor:
            told = self._children_statuses()
        own = [planted.who for planted in self.planted if planted.name not in {*told, "other job", "orphan"}]
        with suppress(HungError):
            self._wait(lambda: all(who in self.statuses for who in own), 3, "the strangers were collected")
        for planted in self.planted:
            if planted.name == "other job" or (planted.name == "orphan" and planted.who not in self.statuses):
                continue
            status = told.get(planted.name, str(self.statuses.get(planted.who, "unknown")))
            if status != str(strangers.STATUS):
                self.find(
                    "harmed", f"{planted.name} {planted.who} exited with {strangers.STATUS}, its parent got {status}"
                )

    def _children_statuses(self) -> dict[str, str]:
        known: dict[str, str] = {}

        def all_ended() -> bool:
            self.events = [event for event in self.events if event["event"] != "children"]
            self._order("children")
            event = self._await_event("children", 10)
            for name, status in event["statuses"].items():
                if status != "runs" and known.get(name, "runs") == "runs":
                    known[name] = status
            return len(known) == len(event["statuses"])

        self._wait(all_ended, 10, "the supervisor had collected its children")
        return known

    def _dismiss_supervisor(self) -> None:
        if lives(self.supervisor) is None:
            return
        if self.scenario.other_job:
            report = self._await_event("other", 20)["report"]
            if report["verdict"] == "survivors" or report["survivors"]:
                self.find("false", f"the other job's report: {report}")
        self._order("exit")
        try:
            self._wait(lambda: not lives(self.supervisor), EXITS_WITHIN, "the supervisor had exited")
        except HungError as hung:
            self.find("hung", str(hung))
            self._signal_supervisor(signal.SIGKILL)
            self._wait(lambda: not lives(self.supervisor), 5, "the supervisor was killed")

    def _sweep_up(self) -> None:
        scenario = self.scenario
        if scenario.fault == "foreign sweep":
            self._foreign_sweep()
        before = self.observer.alive()
        if before.tree or before.reapers or scenario.way == "both killed" or self.dice.random() < 0.1:
            self._last_sweeps()
        self._judge_others()

    def _last_sweeps(self) -> None:
        result: dict[str, Any] = {}
        for _ in range(3):
            result = self._sweep(wait=True)
            if result.get("clean"):
                break
            self._pause(0.3)
        look = self.observer.alive()
        if result.get("clean"):
            self._judge_clean(look, result)
        elif look.tree:
            if excuse := self._excuse_sweep() or self._excuse():
                self.find("excused", f"the sweep said that it is not clean, and {len(look.tree)} lived: {excuse}")
            else:
                self.find("weaker", f"not ended, and said so: {json.dumps(result)[:800]}\n{truth.picture(look.tree)}")
        elif not self._excuse_sweep():
            self.find("needless", f"the sweep said that it is not clean, and nothing lived: {json.dumps(result)[:800]}")

    def _judge_clean(self, look: Look, result: dict[str, Any]) -> None:
        if not look.tree and not look.reapers:
            return
        if excuse := self._excuse() or self._excuse_clean():
            self.find("excused", f"the sweep said clean, {len(look.tree)} alive: {excuse}")
            return
        self.find(
            "left",
            f"after a sweep that said clean: {json.dumps(result)[:600]}\n{truth.picture((*look.tree, *look.reapers))}",
        )

    def _excuse_clean(self) -> str:
        scenario = self.scenario
        if scenario.fault != "damaged record":
            return ""
        if scenario.damage == "removed":
            return "a record that was removed leads a sweep to nobody"
        return "what the portable tracker started has no mark" if scenario.portable else ""

    def _excuse_sweep(self) -> str:
        if self.scenario.fault != "damaged record":
            return ""
        return "nothing is done on the word of a file that is not a record; its strays are named"

    def _judge_others(self) -> None:
        """What Corral itself started, and its reapers, must have gone as well."""
        deadline = time.monotonic() + OWN_CALLS_WITHIN
        while (look := self.observer.look()).others and time.monotonic() < deadline:
            self._pause(0.1)
        if look.others:
            self.find("left", f"of Corral's own calls\n{truth.picture(look.others)}")

    def _sweep(self, *, wait: bool, foreign: bool = False) -> dict[str, Any]:
        reading, writing = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                os.close(reading)
                os.setsid()
                if foreign:
                    _enter_another_world()
                strangers.become(self.slot.service.uid, self.slot.service.gid)
                os.environ.clear()
                os.environ.update(self.slot.env)
                supervisor.sweep_once(str(self.state_dir), writing)
            finally:
                os._exit(95)
        os.close(writing)
        self.observer.staff.add(_known(pid))
        if not wait:
            os.close(reading)
            return {}
        said = b""
        deadline = time.monotonic() + 40
        while time.monotonic() < deadline:
            self.turn()
            if select.select([reading], [], [], LOOK_EVERY)[0]:
                piece = os.read(reading, 65536)
                if not piece:
                    break
                said += piece
        os.close(reading)
        if not said:
            raise HungError("a sweep gave no answer in 40 s")
        result: dict[str, Any] = json.loads(said)
        self.tell(f"sweep{' from elsewhere' if foreign else ''}: {said.decode()[:1500]}")
        return result

    def _foreign_sweep(self) -> None:
        records = list((self.state_dir / "jobs").glob("*.job"))
        alive = self.observer.alive().tree
        result = self._sweep(wait=True, foreign=True)
        if result["clean"] and alive and records:
            self.find("false", f"a sweep from another PID namespace said clean: {result}\n{truth.picture(alive)}")
        if records and not list((self.state_dir / "jobs").glob("*.job")) and alive:
            self.find("false", "a sweep from another PID namespace removed the record")

    # Time.

    def turn(self) -> None:
        """What is done while waiting: events taken, the dead collected, faults lifted when their time has come."""
        if self.wire is not None and not self._closed:
            self._take_events()
        self._collect()
        now = time.monotonic()
        due = [act for at, act in self.lifts if at <= now]
        self.lifts = [(at, act) for at, act in self.lifts if at > now]
        for act in due:
            act()

    def _collect(self) -> None:
        while True:
            try:
                done = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if done is None:
                return
            who = identity(done.si_pid)
            _, status = os.waitpid(done.si_pid, 0)
            if who is not None:
                self.statuses[who] = os.waitstatus_to_exitcode(status)

    def _pause(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while True:
            self.turn()
            left = deadline - time.monotonic()
            if left <= 0:
                return
            self._sleep(min(left, LOOK_EVERY))

    def _sleep(self, seconds: float) -> None:
        if self.wire is not None and not self._closed:
            select.select([self.wire], [], [], seconds)
        else:
            time.sleep(seconds)

    def _wait(self, condition: Callable[[], object], seconds: float, what: str) -> None:
        deadline = time.monotonic() + seconds
        next_look = 0.0
        while True:
            self.turn()
            if condition():
                return
            now = time.monotonic()
            if now > deadline:
                raise HungError(f"{seconds:g} s, and not yet: {what}")
            if now > next_look:
                for one in self.observer.look().tree:
                    self.seen_alive[one.pid, one.start_time] = now
                next_look = now + LOOK_EVERY
            self._sleep(LOOK_EVERY / 3)

    def _picture(self) -> str:
        look = self.observer.look()
        return truth.picture((*look.tree, *look.reapers, *look.others))


def _known(pid: int) -> Identity:
    who = identity(pid)
    return who if who is not None else (pid, -1)


def _enter_another_world() -> None:
    """Go on as process 1 of a PID namespace of its own, with its own /proc."""
    namespace.unshare_pids()
    pid = os.fork()
    if pid:
        os._exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    namespace.enter_private()
    namespace.proc("")
