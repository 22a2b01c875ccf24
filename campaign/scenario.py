"""What happens to one tree: everything is drawn from its seed."""

import random
from dataclasses import asdict, dataclass
from typing import Any

WAYS = {
    "end": 26,  # Job.end()
    "command killed": 10,
    "reaper terminated": 6,  # TERM to the reaper
    "reaper killed": 18,
    "supervisor killed": 14,
    "both killed": 20,  # supervisor and reaper; then the sweep
    "start cancelled": 6,
}
SUPERVISOR_DIES = frozenset({"supervisor killed", "both killed"})
KILLS = frozenset({"command killed", "reaper terminated", "reaper killed", "supervisor killed", "both killed"})

FAULTS = {
    "none": 22,
    "member killed": 8,
    "member stopped": 4,
    "command stopped": 4,
    "sudo killed": 6,
    "sudo stopped": 4,
    "reaper stopped": 5,
    "supervisor stopped": 4,
    "no descriptors": 8,
    "few descriptors": 4,
    "full disk": 4,
    "disk fills up": 4,
    "fork refused": 6,
    "slow sudo": 6,
    "hung sudo": 6,
    "hung exec": 4,
    "damaged record": 8,
    "hidepid": 8,
    "foreign sweep": 5,
    "early sweep": 4,
    "pid reuse": 12,
    "small pid space": 6,
}
ACROSS_ONLY = frozenset({"sudo killed", "sudo stopped", "slow sudo", "hung sudo"})
SWEPT_ONLY = frozenset({"foreign sweep"})
"""Faults that mean something only after supervisor and reaper were killed."""

FULL_DISKS = frozenset({"full disk", "disk fills up"})
DAMAGES = ("cut short", "altered", "removed", "other key", "key removed")

TREES = (
    "depth_3", "depth_8", "ignores_term", "closed_daemon", "left_behind", "forks_from_a_thread", "dead_main_thread",
    "subreaper_inside", "stopped", "respawner", "odd_name", "suspended_in_vfork", "flood_unread", "unreaped_zombies",
    "successor_every_30_ms", "environment_wiped", "stdin_held_open", "two_accounts",
)  # fmt: skip
"""Of tests/harness/trees.py."""
CHURN = "churn_60"
REUSES = frozenset({"pid reuse", "small pid space"})
FALLS_APART = frozenset(
    {"random", CHURN, "closed_daemon", "left_behind", "stdin_held_open", "environment_wiped", "successor_every_30_ms"}
)
"""Trees that docs/guarantees.md does not promise under the portable tracker."""

STRANGERS = ("sibling", "person's", "third account's", "child", "child with a limit", "child in a session", "orphan")
MAY_DIE_WITH_SUPERVISOR = frozenset({"other job"})


@dataclass(frozen=True)
class Scenario:
    """One tree, what is done to it, and who stands by."""

    seed: int
    across: bool
    tracker: str
    tree: str
    way: str
    fault: str
    moment: str
    """boot: after the start was requested; running: after it has started; ending: after the end was requested."""
    after: float
    """Seconds from the moment."""
    grace: float
    damage: str
    strangers: tuple[str, ...]
    other_job: bool

    @property
    def user_of(self) -> str:
        return "person" if self.across else "service"

    @property
    def portable(self) -> bool:
        return self.tracker == "portable"

    def facts(self) -> dict[str, Any]:
        """Return what a line of the story needs."""
        return asdict(self)

    def __str__(self) -> str:
        account = "across sudo" if self.across else "own account"
        return (
            f"{account}, {self.tracker}, tree {self.tree}, {self.way}, {self.fault}"
            f"{f' ({self.damage})' if self.damage else ''}, {self.moment} + {self.after * 1000:.0f} ms, "
            f"grace {self.grace:g} s, strangers: {', '.join(self.strangers) or 'none'}"
            f"{', another job' if self.other_job else ''}"
        )


def draw(seed: int, *, across_possible: bool = True, only: str | None = None) -> Scenario:
    """The scenario of this seed. `only` keeps one fault."""
    dice = random.Random(f"campaign {seed}")
    across = dice.random() < 0.5 and across_possible
    faults = {name: weight for name, weight in FAULTS.items() if across or name not in ACROSS_ONLY}
    fault = _weighted(dice, faults)
    if only is not None:
        fault = only
        across = across or (only in ACROSS_ONLY and across_possible)
    way = "both killed" if fault in SWEPT_ONLY else _weighted(dice, WAYS)
    if fault == "damaged record" and dice.random() < 0.7:
        way = "both killed"
    if fault == "no descriptors" and dice.random() < 0.6:
        way = "reaper killed"
    tracker = dice.choices(("auto", "subreaper-scan", "portable"), (75, 10, 15))[0]
    tree = dice.choice(TREES) if dice.random() < 0.35 else "random"
    if fault in REUSES and dice.random() < 0.6:
        tree = CHURN
    if tree == "two_accounts" and (across or not across_possible):
        tree = "random"
    moment = dice.choices(("running", "boot", "ending"), (60, 25, 15))[0] if way in KILLS else "running"
    if way == "start cancelled":
        moment = "boot"
    longest = {"running": 0.08, "boot": 0.06, "ending": 0.06}[moment]
    strangers = tuple(sorted(dice.sample(STRANGERS, dice.randrange(len(STRANGERS) + 1))))
    return Scenario(
        seed=seed,
        across=across,
        tracker=tracker,
        tree=tree,
        way=way,
        fault=fault,
        moment=moment,
        after=dice.random() * longest,
        grace=dice.choice((0.0, 0.0, 0.05, 0.2)),
        damage=dice.choice(DAMAGES) if fault == "damaged record" else "",
        strangers=strangers,
        other_job=way not in SUPERVISOR_DIES and fault not in FULL_DISKS and dice.random() < 0.25,
    )


def _weighted(dice: random.Random, weights: dict[str, int]) -> str:
    return dice.choices(list(weights), list(weights.values()))[0]
