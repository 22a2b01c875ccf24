"""One world: a PID namespace with one tree in it, the supervisor of that tree, and strangers.

What is here runs as process 1 of it, as root: what it knows, how it talks with the supervisor, and how it waits.
"""

import json
import os
import random
import select
import signal
import socket
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from campaign import strangers, supervisor
from campaign.ground import Slot
from campaign.observer import Observer, identity, lives
from campaign.scenario import Scenario
from tests.harness import namespace, truth
from tests.harness.truth import Identity, Seen

LOOK_EVERY = 0.03
SWEEP_WITHIN = 40.0


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
    """The state of one world."""

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
        self.status = self.folder / "tree" / self.marker
        self.program = self.folder / "program"
        self.asked = 0.0  # when the start was requested
        self.supervisor: Identity = (0, 0)
        self.wire: socket.socket | None = None
        self.forkers: list[Planted] = []
        self.hidden = False

    def tell(self, text: str) -> None:
        self.story.append(f"{(time.monotonic() - self.began) * 1000:7.0f} ms  {text}")

    def find(self, count: str, text: str) -> None:
        self.findings.append((count, text))
        self.tell(f"** {count}: {text}")

    def order(self, what: str, **arguments: Any) -> None:
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

    def event(self, *names: str) -> dict[str, Any]:
        return next((event for event in self.events if event["event"] in names), {})

    def await_event(self, name: str, seconds: float) -> dict[str, Any]:
        self.wait(lambda: self.event(name) or not lives(self.supervisor), seconds, f"the supervisor said {name!r}")
        if not self.event(name):
            raise RuntimeError(f"the supervisor ended before it said {name!r}")
        return self.event(name)

    def sweep(self, *, wait: bool, foreign: bool = False) -> dict[str, Any]:
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
        self.observer.staff.add(known(pid))
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

    def pause(self, seconds: float) -> None:
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

    def wait(self, condition: Callable[[], object], seconds: float, what: str) -> None:
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

    def picture(self) -> str:
        look = self.observer.look()
        return truth.picture((*look.tree, *look.reapers, *look.others))

    def record(self, name: str) -> Path:
        return self.folder / "records" / name.replace(" ", "-").replace("'", "")

    def know(self, planted: Planted) -> None:
        self.planted.append(planted)
        self.observer.strangers.add(planted.who)

    def members(self) -> list[Seen]:
        return [one for one in self.observer.look().tree if one.name != "sudo" or one.uids[1] != 0]

    def sudos(self) -> list[Seen]:
        return [one for one in self.observer.look().tree if one.name == "sudo" and one.uids[1] == 0]

    def reapers(self) -> list[Seen]:
        """The reaper of this job: below the supervisor, or orphaned."""
        return [one for one in self.observer.look().reapers if one.parent in (1, self.supervisor[0])]

    def signal_one(self, among: list[Seen], number: int) -> None:
        if among:
            one = self.dice.choice(sorted(among, key=lambda seen: seen.pid))
            self.tell(f"{signal.Signals(number).name} to {one}")
            truth.kill(one, number)

    def signal_supervisor(self, number: int) -> None:
        if (seen := lives(self.supervisor)) is not None:
            truth.kill(seen, number)

    def lift_in(self, seconds: float, act: Callable[[], object]) -> None:
        self.lifts.append((time.monotonic() + seconds, act))


def known(pid: int) -> Identity:
    """Return pid and start time of a process that was just started."""
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
