"""The faults: what goes wrong before the start or at a moment, and how all of it is lifted again."""

import os
import resource
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from campaign import strangers
from campaign.observer import lives
from campaign.world import LOOK_EVERY, World, known
from tests.harness import namespace, truth
from tests.harness.scanner import NoScannerError, scanner

START_WITHIN = 60.0


@dataclass
class Faults:
    """Does the fault of the scenario."""

    world: World

    def fill_disk(self) -> None:
        with suppress(OSError), (self.world.state_dir / "filler").open("wb", buffering=0) as file:
            while True:
                file.write(b"x" * 4096)

    def hold_exec(self) -> None:
        try:
            self.world.stack.enter_context(scanner(self.world.program))
        except NoScannerError as reason:
            self.world.tell(f"no exec is held: {reason}")
            return
        if self.world.dice.random() < 0.7:
            self.world.lift_in(self.world.dice.random() * 3, self.world.stack.close)

    def slow_sudo_before_start(self) -> None:
        if self.world.scenario.fault not in {"slow sudo", "hung sudo"}:
            return
        if self.world.dice.random() < 0.4:
            self._slow_sudo()

    def _slow_sudo(self) -> None:
        phase = self.world.dice.choice(("account", "session"))
        flag = self.world.folder / f"slow-{phase}"
        if flag.exists():
            return
        if self.world.scenario.fault == "slow sudo":
            flag.write_text(f"{self.world.dice.random() * 0.8:.2f}")
            self.world.tell(f"sudo is slow in its {phase} phase: {flag.read_text()} s")
        else:
            flag.write_text("hang")
            self.world.tell(f"sudo hangs in its {phase} phase")
            if self.world.dice.random() < 0.7:
                self.world.lift_in(0.3 + self.world.dice.random() * 6, lambda: self._remove(flag))

    def _remove(self, flag: Path) -> None:
        self.world.tell(f"{flag.name} is lifted")
        flag.unlink(missing_ok=True)

    def processes_of(self, uid: int) -> int:
        seen = [one for pid in truth.pids() if (one := truth.look(pid)) is not None]
        return sum(one.uids[0] == uid for one in seen)

    def inject(self) -> None:
        scenario = self.world.scenario
        if scenario.moment != "boot":
            self.wait_standing()
        if "orphan" in scenario.strangers:
            (self.world.folder / "orphan").touch()
        self.world.pause(scenario.after * self.world.dice.random())
        acts: dict[str, Callable[[], object]] = {
            "member killed": self._kill_members,
            "member stopped": lambda: self.world.signal_one(self.world.members(), signal.SIGSTOP),
            "command stopped": lambda: self.signal_command(signal.SIGSTOP),
            "sudo killed": lambda: self.world.signal_one(self.world.sudos(), signal.SIGKILL),
            "sudo stopped": lambda: self.world.signal_one(self.world.sudos(), signal.SIGSTOP),
            "reaper stopped": self._stop_reaper,
            "supervisor stopped": self._stop_supervisor,
            "no descriptors": self._hoard,
            "disk fills up": self.fill_disk,
            "slow sudo": self._slow_sudo,
            "hung sudo": self._slow_sudo,
            "early sweep": lambda: self.world.sweep(wait=False),
        }
        act = acts.get(scenario.fault)
        if act is not None:
            self.world.tell(f"fault: {scenario.fault}")
            act()

    def wait_standing(self) -> None:
        """Wait until the start is over one way or another, and a hostile tree stands as far as it will."""
        done = ("started", "start failed", "cancelled", "report")
        self.world.wait(
            lambda: self.world.event(*done) or not lives(self.world.supervisor), START_WITHIN, "the start was over"
        )
        if self.world.scenario.tree != "random" and self.world.event("started"):
            deadline = time.monotonic() + 1.0
            while "ready" not in self.world.status.read_text().splitlines() and time.monotonic() < deadline:
                if self.world.event("report") or not self.world.observer.look().tree:
                    break
                self.world.pause(LOOK_EVERY)

    def _kill_members(self) -> None:
        for _ in range(self.world.dice.randrange(1, 4)):
            self.world.signal_one(self.world.members(), signal.SIGKILL)
            self.world.pause(self.world.dice.random() * 0.01)

    def signal_command(self, number: int) -> None:
        if started := self.world.event("started"):
            self.world.signal_one([one for one in self.world.observer.look().tree if one.pid == started["pid"]], number)

    def _stop_reaper(self) -> None:
        for one in self.world.reapers():
            truth.kill(one, signal.SIGSTOP)
            if self.world.dice.random() < 0.75:
                self.world.lift_in(self.world.dice.random() * 0.6, partial(truth.kill, one, signal.SIGCONT))

    def _stop_supervisor(self) -> None:
        self.world.signal_supervisor(signal.SIGSTOP)
        self.world.lift_in(self.world.dice.random() * 0.5, lambda: self.world.signal_supervisor(signal.SIGCONT))

    def _hoard(self) -> None:
        self.world.order("hoard")
        self.world.pause(0.01)
        if self.world.dice.random() < 0.5:
            self.world.lift_in(0.2 + self.world.dice.random() * 2, lambda: self.world.order("let go"))

    def damage(self) -> None:
        if self.world.scenario.fault != "damaged record":
            return
        jobs = self.world.state_dir / "jobs"
        key = jobs / "key"
        records = sorted(jobs.glob("*.job"))
        self.world.tell(f"record: {self.world.scenario.damage}, of {len(records)}")
        if self.world.scenario.damage == "other key" and key.exists():
            key.write_bytes(os.urandom(32))
        elif self.world.scenario.damage == "key removed":
            key.unlink(missing_ok=True)
        for record in records:
            with suppress(FileNotFoundError):  # its job has just ended
                self._damage_record(record)

    def _damage_record(self, record: Path) -> None:
        data = record.read_bytes()
        place = self.world.dice.randrange(len(data)) if data else 0
        if self.world.scenario.damage == "cut short":
            os.truncate(record, place)
        elif self.world.scenario.damage == "altered" and data:
            with record.open("r+b") as file:
                file.seek(place)
                file.write(bytes([data[place] ^ 1]))
        elif self.world.scenario.damage == "removed":
            record.unlink()

    def lift_all(self) -> None:
        for _, act in self.world.lifts:
            act()
        self.world.lifts.clear()
        self.world.stack.close()
        for phase in ("account", "session"):
            (self.world.folder / f"slow-{phase}").unlink(missing_ok=True)
        self.world.stop.touch()
        reapers = self.world.reapers()
        for one in reapers:
            truth.kill(one, signal.SIGCONT)
        self.world.signal_supervisor(signal.SIGCONT)
        if lives(self.world.supervisor) is not None:
            self._unlimit([*(one.pid for one in reapers), self.world.supervisor[0]])
            self.world.order("let go")
        else:
            self._unlimit([one.pid for one in reapers])
        if self.world.hidden:
            namespace.proc("")
        self.world.tell("the fault is lifted")

    def _unlimit(self, pids: Sequence[int]) -> None:
        """Give back what "fork refused" and "few descriptors" took: soft limits, which their own account may raise."""
        pid = os.fork()
        if pid == 0:
            try:
                strangers.become(self.world.slot.service.uid, self.world.slot.service.gid)
                for limited in pids:
                    _raise_soft_limits(limited)
            finally:
                os._exit(0)
        self.world.observer.staff.add(known(pid))
        os.waitpid(pid, 0)


def _raise_soft_limits(pid: int) -> None:
    for which in (resource.RLIMIT_NPROC, resource.RLIMIT_NOFILE):
        with suppress(ProcessLookupError):
            most = resource.prlimit(pid, which)[1]
            resource.prlimit(pid, which, (most, most))
