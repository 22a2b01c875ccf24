"""The judge of what is left and of what was said: verdicts and sweeps beside what the observer sees."""

import json
import signal
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from campaign.faults import Faults
from campaign.observer import Look, lives
from campaign.scenario import FALLS_APART, REUSES, SUPERVISOR_DIES
from campaign.ways import KILL_STEP
from campaign.world import HungError, World
from tests.harness import truth
from tests.harness.truth import Identity

ANSWERS_WITHIN = 25.0
"""Seconds beyond the ladder: the margin that a stopped reaper is given, the look and the call of sudo at its end."""
HELD_WITHIN = 14.0
UNREACHABLE = frozenset({"fork refused", "few descriptors", "hung sudo", "hidepid"})
CANCELLED = "a cancelled start has no report that could name what the reaper cannot end and holds"
EXITS_WITHIN = 15.0
REAPER_EXITS_WITHIN = 5.0
LONG_DEAD = 1.5
OWN_CALLS_WITHIN = 7.0


@dataclass
class Outcome:
    """Waits for the outcome, and judges it."""

    world: World
    faults: Faults

    def await_outcome(self) -> None:
        if self.world.scenario.fault == "damaged record" and self.world.scenario.way != "both killed":
            self.faults.damage()
        bound = self.world.scenario.grace + KILL_STEP + ANSWERS_WITHIN
        if self.world.scenario.moment == "boot":
            bound += 33  # the start's own
        if lives(self.world.supervisor) is None or self.world.scenario.way in SUPERVISOR_DIES:
            self._await_reapers_gone(bound)
            return
        self.world.wait(self._answered, bound, "the end was answered")
        event = self._answered()
        self._judge_answer(event)

    def _answered(self) -> dict[str, Any]:
        if lives(self.world.supervisor) is None:
            raise HungError("the supervisor died by itself")
        return self.world.event("report", "start failed", "cancelled")

    def _await_reapers_gone(self, bound: float) -> None:
        """With the supervisor dead the reaper ends the tree and goes; a stopped one is woken by a sweep."""
        if self.world.scenario.moment == "boot":
            self.world.pause(0.15)  # a child of the supervisor that was becoming the reaper
        try:
            self.world.wait(
                lambda: not self.world.reapers(), self.world.scenario.grace + KILL_STEP + 2, "the reaper had gone"
            )
        except HungError:
            # It is stopped, or holds what it cannot end.
            self.faults.lift_all()
            self.world.sweep(wait=True)
            self.world.wait(lambda: not self.world.reapers(), bound, "the reaper had gone")
        if self.world.scenario.way == "both killed" and self.world.scenario.fault in REUSES:
            result = self.world.sweep(wait=True)
            if result.get("clean"):
                self._judge_clean(self.world.observer.alive(), result)
        look = self.world.observer.alive()
        if self.world.scenario.way == "supervisor killed" and look.tree and not self._excuse():
            self.world.find("left", f"the reaper had gone, and alive were\n{truth.picture(look.tree)}")

    def _judge_answer(self, event: dict[str, Any]) -> None:
        look = self.world.observer.alive()
        if event["event"] == "cancelled" and look.tree and self.world.scenario.fault in UNREACHABLE:
            self.world.find("excused", f"cancelled, {len(look.tree)} alive: {CANCELLED}")
            return
        if event["event"] == "start failed" and event["report"] is not None:
            # A failed start names what it could not end, as an ending does.
            self._judge_report(event["report"], look, event["at"])
            return
        if event["event"] != "report":
            self._judge_alive(f"the start was over ({event['event']})", look, also_reapers=True)
            return
        self._judge_report(event["report"], look, event["at"])

    def _judge_report(self, report: dict[str, Any], look: Look, now: float) -> None:
        verdict = report["verdict"]
        self.world.facts["verdict"] = verdict
        if verdict == "survivors":
            self._judge_survivors(report, look, now)
            return
        if report["survivors"]:
            self.world.find("false", f"{verdict} with survivors")
        if verdict == "proven_empty" and (report["proof"] is None or self.world.scenario.portable):
            self.world.find(
                "false", f"proven_empty with proof {report['proof']!r} by the {self.world.scenario.tracker} tracker"
            )
        self._judge_alive(f"the verdict was {verdict}", look, also_reapers=verdict == "proven_empty")

    def _judge_alive(self, when: str, look: Look, *, also_reapers: bool = False) -> None:
        found = [*look.tree, *(look.reapers if also_reapers else ())]
        if not found:
            return
        if excuse := self._excuse():
            self.world.find("excused", f"{when}, {len(found)} alive: {excuse}")
            return
        text = f"{when}, and alive were\n{truth.picture(found)}"
        self.world.find("false", text)
        self.world.find("left", text)

    def _excuse(self) -> str:
        """What docs/guarantees.md does not promise."""
        scenario = self.world.scenario
        if scenario.portable and scenario.tree in FALLS_APART:
            return "the portable tracker does not promise this tree"
        if scenario.portable and (
            scenario.moment == "boot" or scenario.way == "command killed" or scenario.fault != "none"
        ):
            return "the portable tracker does not promise trees that fall apart before they were seen"
        return ""

    def _judge_survivors(self, report: dict[str, Any], look: Look, now: float) -> None:
        alive = {(one.pid, one.start_time) for one in (*look.tree, *look.reapers, *look.others)}
        harmless = {planted.who: planted.name for planted in self.world.planted}
        named = {(one["pid"], one["start_time"]) for one in report["survivors"]}
        for who in named:
            if who in harmless:
                self.world.find("false", f"the stranger {harmless[who]} is listed as a survivor")
            elif who not in alive and now - self._last_known_alive(who) > LONG_DEAD and who[1] > 0:
                self.world.find(
                    "false", f"{who} is listed as a survivor and was dead for {LONG_DEAD} s or never the tree's"
                )
        lately = any(now - self._last_known_alive(who) < LONG_DEAD for who in named)
        if not look.tree and not self.world.hidden and not lately:
            self.world.find("needless", f"survivors, and nothing lived: {json.dumps(report)[:600]}")

    def _last_known_alive(self, who: Identity) -> float:
        """The later of its birth and the last look that saw it, in seconds of CLOCK_MONOTONIC.

        A process that was born between two looks, and had died before the second, was seen by no look at all.
        """
        return max(self.world.seen_alive.get(who, 0.0), truth.born_at(who))

    def settle(self) -> None:
        """What survived is held, and ended now that it can be."""
        if lives(self.world.supervisor) is None or not self.world.observer.alive().tree:
            return
        if self.world.hidden or self._excuse():
            return
        deadline = time.monotonic() + HELD_WITHIN
        while self.world.observer.alive().tree and time.monotonic() < deadline:
            self.world.pause(0.1)
        if self.world.observer.alive().tree:
            self.world.find("weaker", f"not ended {HELD_WITHIN:g} s after the fault was lifted\n{self.world.picture()}")

    def sweep_up(self) -> None:
        scenario = self.world.scenario
        if scenario.fault == "foreign sweep":
            self._foreign_sweep()
        before = self.world.observer.alive()
        if before.reapers and not before.tree:
            # It starts, and will find that its lifeline is closed; or it has just ended its tree.
            with suppress(HungError):
                self.world.wait(lambda: not self.world.observer.look().reapers, 5, "the reaper had gone")
        if before.tree or before.reapers or scenario.way == "both killed" or self.world.dice.random() < 0.1:
            self._last_sweeps()
        self._judge_others()

    def _last_sweeps(self) -> None:
        result: dict[str, Any] = {}
        for _ in range(3):
            result = self.world.sweep(wait=True)
            if result.get("clean"):
                break
            self.world.pause(0.3)
        look = self.world.observer.alive()
        if result.get("clean"):
            self._judge_clean(look, result)
        elif look.tree:
            if excuse := self._excuse_sweep() or self._excuse():
                self.world.find("excused", f"the sweep said that it is not clean, and {len(look.tree)} lived: {excuse}")
            else:
                self.world.find(
                    "weaker", f"not ended, and said so: {json.dumps(result)[:800]}\n{truth.picture(look.tree)}"
                )
        elif not self._excuse_sweep() and not self._was_hidden_portable():
            self.world.find(
                "needless", f"the sweep said that it is not clean, and nothing lived: {json.dumps(result)[:800]}"
            )

    def _judge_clean(self, look: Look, result: dict[str, Any]) -> None:
        if look.reapers and not look.tree:
            # Its record is removed before its last report, and only then it exits.
            with suppress(HungError):
                self.world.wait(lambda: not self.world.observer.look().reapers, REAPER_EXITS_WITHIN, "it had exited")
            look = self.world.observer.alive()
        if not look.tree and not look.reapers:
            return
        if excuse := self._excuse() or self._excuse_clean():
            self.world.find("excused", f"the sweep said clean, {len(look.tree)} alive: {excuse}")
            return
        self.world.find(
            "left",
            f"after a sweep that said clean: {json.dumps(result)[:600]}\n{truth.picture((*look.tree, *look.reapers))}",
        )

    def _excuse_clean(self) -> str:
        scenario = self.world.scenario
        if scenario.fault != "damaged record":
            return ""
        if scenario.damage == "removed":
            return "a record that was removed leads a sweep to nobody"
        return "what the portable tracker started has no mark" if scenario.portable else ""

    def _excuse_sweep(self) -> str:
        if self.world.scenario.fault != "damaged record":
            return ""
        return "nothing is done on the word of a file that is not a record; its strays are named"

    def _judge_others(self) -> None:
        """What Corral itself started, and its reapers, must have gone as well."""
        deadline = time.monotonic() + OWN_CALLS_WITHIN
        while (look := self.world.observer.look()).others and time.monotonic() < deadline:
            self.world.pause(0.1)
        if look.others:
            self.world.find("left", f"of Corral's own calls\n{truth.picture(look.others)}")

    def _foreign_sweep(self) -> None:
        records = list((self.world.state_dir / "jobs").glob("*.job"))
        alive = self.world.observer.alive().tree
        result = self.world.sweep(wait=True, foreign=True)
        if result["clean"] and alive and records:
            self.world.find("false", f"a sweep from another PID namespace said clean: {result}\n{truth.picture(alive)}")
        if records and not list((self.world.state_dir / "jobs").glob("*.job")) and alive:
            self.world.find("false", "a sweep from another PID namespace removed the record")

    def dismiss_supervisor(self) -> None:
        if lives(self.world.supervisor) is None:
            return
        if self.world.scenario.other_job:
            report = self.world.await_event("other", 20)["report"]
            if report["verdict"] == "survivors" or report["survivors"]:
                self.world.find("false", f"the other job's report: {report}")
        self.world.order("exit")
        try:
            self.world.wait(lambda: not lives(self.world.supervisor), EXITS_WITHIN, "the supervisor had exited")
        except HungError as hung:
            self.world.find("hung", str(hung))
            self.world.signal_supervisor(signal.SIGKILL)
            self.world.wait(lambda: not lives(self.world.supervisor), 5, "the supervisor was killed")

    def _was_hidden_portable(self) -> bool:
        """A portable reaper that began where processes are hidden never says that nothing is left."""
        return self.world.scenario.portable and self.world.scenario.fault == "hidepid"
