"""The ways in which a tree comes to its end: asked for, killed, or by the death of those who hold it."""

import resource
import signal
import time
from dataclasses import dataclass

from campaign.faults import Faults
from campaign.observer import lives
from campaign.planting import Planting
from campaign.world import World
from tests.harness import truth
from tests.harness.trees import TREES
from tests.harness.truth import Seen

KILL_STEP = 3.0


@dataclass
class Ways:
    """Starts the tree, and takes the way of the scenario."""

    world: World
    planting: Planting
    faults: Faults

    def start_tree(self) -> None:
        scenario = self.world.scenario
        tree = self._tree_argv()
        argv = [str(self.world.program), *tree] if scenario.fault == "hung exec" else tree
        if scenario.fault == "full disk":
            self.faults.fill_disk()
        if scenario.fault == "few descriptors":
            self.world.order("limit", which=resource.RLIMIT_NOFILE, number=self.world.dice.randrange(1, 16))
        if scenario.fault == "fork refused":
            used = self.faults.processes_of(self.world.slot.service.uid)
            self.world.order("limit", which=resource.RLIMIT_NPROC, number=used + self.world.dice.randrange(0, 7))
        if scenario.fault == "hung exec":
            self.faults.hold_exec()
        self.faults.slow_sudo_before_start()
        self.planting.start_recycler()
        self.world.asked = time.monotonic()
        self.world.tell("start requested")
        self.world.order(
            "start",
            argv=argv,
            user=self.world.slot.person.name if scenario.across else None,
            grace=scenario.grace,
            kill=KILL_STEP,
            tracker=scenario.tracker,
            state_dir=str(self.world.state_dir),
            report_file=str(self.world.state_dir / "report.json"),
        )
        if scenario.fault == "early sweep":
            self.world.sweep(wait=False)

    def _tree_argv(self) -> list[str]:
        scenario, harness = self.world.scenario, self.world.slot.harness
        if scenario.tree == "random":
            return [
                self.world.slot.python,
                "-I",
                "-S",
                str(harness / "random_tree.py"),
                str(scenario.seed),
                self.world.marker,
            ]
        tree = TREES[scenario.tree]
        return tree.argv(self.world.slot.python, harness / "hostile.py", self.world.status, self.world.slot.person.name)

    def take_way(self) -> None:
        scenario = self.world.scenario
        way = scenario.way
        if scenario.moment == "boot":
            self.world.pause(max(0.0, self.world.asked + scenario.after - time.monotonic()))
        else:
            self.world.pause(scenario.after * self.world.dice.random())
        if scenario.moment == "ending":
            self.world.order("end", grace=scenario.grace)
            self.world.pause(scenario.after)
        self.world.tell(f"way: {way}")
        if way == "end":
            self.world.order("end", grace=scenario.grace)
        elif way == "start cancelled":
            self.world.order("cancel")
        elif way == "command killed":
            self.faults.wait_standing()
            self.faults.signal_command(signal.SIGKILL)
            self.world.order("end", grace=scenario.grace)
        else:
            self._kill_corral(way)

    def _kill_corral(self, way: str) -> None:
        if way == "both killed":
            self._kill_both()
        elif way == "supervisor killed":
            self.world.signal_supervisor(signal.SIGKILL)
            self.world.wait(lambda: not lives(self.world.supervisor), 10, "the supervisor was dead")
        else:
            number = signal.SIGTERM if way == "reaper terminated" else signal.SIGKILL
            reapers = self._await_reapers()
            for one in reapers:
                truth.kill(one, number)
            # A stopped reaper does not hear TERM: nothing is promised until somebody asks the supervisor.
            deaf = number == signal.SIGTERM and self.world.scenario.fault == "reaper stopped"
            if not reapers or deaf:
                self.world.order("end", grace=self.world.scenario.grace)

    def _await_reapers(self) -> list[Seen]:
        deadline = time.monotonic() + 1.0
        while not (found := self.world.reapers()) and time.monotonic() < deadline:
            if self.world.event("start failed", "report"):
                break
            self.world.pause(0.003)
        return found

    def _kill_both(self) -> None:
        reapers = self.world.reapers()
        together = self.world.dice.random() < 0.6
        targets = [one for one in (lives(self.world.supervisor), *reapers) if one is not None]
        if together:
            for one in targets:
                truth.kill(one, signal.SIGSTOP)
        else:
            self.world.dice.shuffle(targets)
        for one in targets:
            truth.kill(one, signal.SIGKILL)
            if not together:
                self.world.pause(self.world.dice.random() * 0.01)
        self.world.wait(lambda: not any(truth.look(one.pid) for one in targets), 10, "both were dead")
        self.faults.damage()
