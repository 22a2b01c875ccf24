"""The judge of what was done to strangers: each must live, unsignalled, and its status must reach its parent."""

import signal
from contextlib import suppress
from dataclasses import dataclass

from campaign import strangers
from campaign.observer import lives
from campaign.recycler import HEIR, RECYCLER
from campaign.world import HungError, Planted, World
from tests.harness import truth

WINDOW = "a pid that changed hands within an account during a call of sudo"


@dataclass
class Harm:
    """Judges the strangers, and has them leave."""

    world: World

    def judge_strangers(self) -> None:
        for planted in self.world.planted:
            if planted in self.world.forkers:
                continue
            if planted.name == "other job" and lives(self.world.supervisor) is None:
                continue
            seen = lives(planted.who)
            if seen is None:
                self.world.find("harmed", f"{planted.name} {planted.who} is dead: {self._how(planted)}")
            elif "T" in seen.threads:
                self.world.find("harmed", f"{planted.name} is stopped: {seen}")
            elif planted.name == "other job":
                self.world.order("end other")
        self.world.leave.touch()
        self._judge_stopped()
        try:
            self.world.wait(self._strangers_gone, 10, "the strangers had left")
        except HungError as hung:
            staying = [str(seen) for planted in self.world.planted if (seen := lives(planted.who))]
            raise HungError(f"{hung}: {staying}") from None
        for planted in self.world.planted:
            self._judge_record(planted)
        self._judge_statuses()

    def _judge_stopped(self) -> None:
        """Strangers' children that were stopped and left so. They are continued: their parents wait for them."""
        recyclers = {planted.who[0] for planted in self.world.planted if planted.name == RECYCLER}
        for seen in (truth.look(pid) for pid in truth.pids()):
            if seen is None or self.world.marker in seen.command or "T" not in seen.threads:
                continue
            if self._is_heirs(seen, recyclers) and seen.uids[0] == self.world.slot.person.uid and self._uses_sudo():
                self.world.find("excused", f"stopped and left so, {seen}: {WINDOW}")
            else:
                self.world.find("harmed", f"stopped and left so: {seen}")
            truth.kill(seen, signal.SIGCONT)

    def _is_heirs(self, seen: truth.Seen, recyclers: set[int]) -> bool:
        """Whether it was born with a member's pid, or is the child of one that was."""
        parent = truth.look(seen.parent)
        return seen.parent in recyclers or (parent is not None and parent.parent in recyclers)

    def _how(self, planted: Planted) -> str:
        return f"status {self.world.statuses.get(planted.who)}, recorded {self._recorded(planted)}"

    def _recorded(self, planted: Planted) -> list[str]:
        try:
            lines = planted.record.read_text().splitlines()
        except FileNotFoundError:
            return []
        return [line for line in lines if not line.startswith("pid ")]

    def _strangers_gone(self) -> bool:
        return not any(lives(planted.who) for planted in self.world.planted)

    def _judge_record(self, planted: Planted) -> None:
        recorded = self._recorded(planted)
        if planted.name == "other job":
            recorded = [line for line in recorded if line not in {"signal SIGTERM", "signal SIGCONT"}]
        excused = [line for line in recorded if self._is_in_the_window(line)]
        if excused:
            self.world.find("excused", f"{planted.name} recorded {excused[:4]}: {WINDOW}")
        recorded = [line for line in recorded if line not in excused]
        if recorded:
            self.world.find("harmed", f"{planted.name} {planted.who} recorded {recorded[:4]}")

    def _is_in_the_window(self, line: str) -> bool:
        """Whether a call of sudo may have had this pid in its arguments when it changed hands, within one account."""
        return line.startswith(f"{HEIR} of uid {self.world.slot.person.uid} ") and self._uses_sudo()

    def _uses_sudo(self) -> bool:
        return self.world.scenario.across or self.world.scenario.tree == "two_accounts"

    def _judge_statuses(self) -> None:
        of_supervisor = [
            planted for planted in self.world.planted if planted.of_supervisor and planted.name != "other job"
        ]
        told: dict[str, str] = {}
        if lives(self.world.supervisor) is not None and of_supervisor:
            told = self._children_statuses()
        own = [planted.who for planted in self.world.planted if planted.name not in {*told, "other job", "orphan"}]
        with suppress(HungError):
            self.world.wait(lambda: all(who in self.world.statuses for who in own), 3, "the strangers were collected")
        for planted in self.world.planted:
            if planted.name == "other job" or (planted.name == "orphan" and planted.who not in self.world.statuses):
                continue
            status = told.get(planted.name, str(self.world.statuses.get(planted.who, "unknown")))
            if status != str(strangers.STATUS):
                self.world.find(
                    "harmed", f"{planted.name} {planted.who} exited with {strangers.STATUS}, its parent got {status}"
                )

    def _children_statuses(self) -> dict[str, str]:
        known: dict[str, str] = {}

        def all_ended() -> bool:
            self.world.events = [event for event in self.world.events if event["event"] != "children"]
            self.world.order("children")
            event = self.world.await_event("children", 10)
            for name, status in event["statuses"].items():
                if status != "runs" and known.get(name, "runs") == "runs":
                    known[name] = status
            return len(known) == len(event["statuses"])

        self.world.wait(all_ended, 10, "the supervisor had collected its children")
        return known
