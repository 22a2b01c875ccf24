"""How long ending a tree takes, and what each way of ending leaves behind."""

import contextlib
import os
import select
import signal
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bench import judge
from bench.figures import Aim, Figure, Section, ratio
from bench.ground import Ground, say
from bench.judge import Row
from bench.readers import host_size
from bench.trees import Tree, bush, codex, wait_standing

CONTENDERS = {
    "corral": "Corral, end(grace=0) to proof",
    "origin": "origin's ladder",
    "psutil": "psutil recipe, a sudo kill each",
    "psutil-batched": "psutil recipe, one sudo kill",
}
OWN_ACCOUNT = {**CONTENDERS, "psutil": "psutil recipe"}
REAPER = "of it in the reaper (report.seconds)"
KERNEL = "kernel alone (root, all at once)"
KERNEL_AND_SUDO = "kernel, then sudo's own exit"
FLOOR = "one bare sudo kill -0"


@dataclass
class Rounds:
    """What the rounds of one case gave, list by list in the order of the rounds."""

    tree: Tree
    ms: dict[str, list[float]] = field(default_factory=dict)
    left: dict[str, list[int]] = field(default_factory=dict)
    names: dict[str, set[str]] = field(default_factory=dict)
    verdicts: set[str] = field(default_factory=set)

    def add(self, name: str, milliseconds: float) -> None:
        self.ms.setdefault(name, []).append(milliseconds)


def measure(ground: Ground, tree: Tree, user: str | None, names: Sequence[str], rounds: int) -> Rounds:
    """Let the contenders end the tree in turn, and beside them the kernel, each round in another order."""
    found = Rounds(tree)
    turns = [*names, "kernel"]
    for number in range(rounds):
        for name in turns[number % len(turns) :] + turns[: number % len(turns)]:
            if name == "kernel":
                _kernel_turn(ground, tree, user, found)
            else:
                _turn(ground, tree, user, name, found)
            ground.judge.clear()
    return found


def _turn(ground: Ground, tree: Tree, user: str | None, name: str, found: Rounds) -> None:
    driver = ground.driver(name)
    driver.ask("start", argv=tree.argv, user=user, text=tree.text)
    wait_standing(ground, tree)
    answer: dict[str, Any] = driver.ask("end")
    left = ground.judge.left_behind()
    found.add(name, answer["ms"])
    found.left.setdefault(name, []).append(len(left))
    found.names.setdefault(name, set()).update(row.name for row in left)
    if "verdict" in answer:
        found.verdicts.add(answer["verdict"])
        found.add("reaper", answer["reaper_ms"])


def _kernel_turn(ground: Ground, tree: Tree, user: str | None, found: Rounds) -> None:
    """End the same tree as root with one KILL each and no look first: what only the kernel, and sudo, still add."""
    driver = ground.driver("plain")
    leader = driver.ask("start", argv=tree.argv, user=user, text=tree.text)["pid"]
    rows = wait_standing(ground, tree)
    if user is not None:
        person = next(row.pid for row in rows if row.name != "sudo")
        found.add("floor", statistics.median(driver.ask("floor", user=user, pid=person) for _ in range(3)))
    victims = [handle for row in rows if _is_victim(row, leader, user) and (handle := judge.open_exactly(row))]
    handle = os.pidfd_open(leader)
    try:
        began = time.perf_counter()
        for victim in victims:
            with contextlib.suppress(ProcessLookupError):  # Codex's own children go when Codex goes.
                signal.pidfd_send_signal(victim, signal.SIGKILL)
        judge.wait_gone(victims)
        gone = time.perf_counter()
        if not select.select([handle], [], [], 20)[0]:
            raise TimeoutError("the leader of the tree did not end")
        found.add("kernel", (gone - began) * 1000)
        if user is not None:
            found.add("kernel-sudo", (time.perf_counter() - began) * 1000)
    finally:
        for opened in (*victims, handle):
            os.close(opened)
    driver.ask("close")


def _is_victim(row: Row, leader: int, user: str | None) -> bool:
    return user is None or row.pid != leader


def _figures(case: str, found: Rounds, labels: Mapping[str, str] = CONTENDERS) -> list[Figure]:
    labels = {**labels, "reaper": REAPER, "kernel": KERNEL, "kernel-sudo": KERNEL_AND_SUDO, "floor": FLOOR}
    ours = found.ms["corral"]
    lines = []
    for name, milliseconds in found.ms.items():
        left = tuple(found.left.get(name, ()))
        note = ", ".join(sorted(found.verdicts)) if name == "corral" else ""
        if found.names.get(name):
            note = "left: " + ", ".join(sorted(found.names[name]))
        lines.append(Figure(case, labels[name], "ms", tuple(milliseconds), ratio(milliseconds, ours), left, note))
    order = [*OWN_ACCOUNT.values(), *CONTENDERS.values(), REAPER, FLOOR, KERNEL, KERNEL_AND_SUDO]
    return sorted(lines, key=lambda line: order.index(line.contender))


def _aim(case: str, found: Rounds) -> Aim:
    allowed = [1.5 * floor + own for floor, own in zip(found.ms["floor"], found.ms["kernel"], strict=True)]
    return Aim(f"{case}: Corral over (1.5 x floor + kernel)", ratio(found.ms["corral"], allowed), 1.0, "x")


def codex_section(ground: Ground, sizes: Sequence[int], rounds: int) -> Section:
    """The tree of Codex across sudo, on hosts of several sizes, then with a daemon that lost its parent."""
    figures: list[Figure] = []
    aims: list[Aim] = []
    tree = codex(ground, 0)
    for size in sizes:
        ground.idle(size)
        say(f"ending: {tree.name} across sudo, {size:,} idle processes")
        found = measure(ground, tree, ground.person, list(CONTENDERS), rounds)
        case = f"{size:,} idle, {host_size():,} in all"
        figures += _figures(case, found)
        aims.append(_aim(case, found))
    ground.idle(0)
    say(f"ending: {tree.name} with a daemon that lost its parent")
    found = measure(ground, codex(ground, 1), ground.person, list(CONTENDERS), max(2, rounds // 3))
    figures += _figures("0 idle, and a daemon", found)
    text = (
        "From the wish to the last thing the contender does. Ratios are to Corral, the median of those of each round."
    )
    return Section(f"Ending a {tree.name} across sudo", text, tuple(figures), tuple(aims))


def large_section(ground: Ground, number: int, rounds: int) -> Section:
    """A large tree, one in a hundred of it daemons that lost their parent."""
    figures: list[Figure] = []
    tree = bush(ground, number, number // 100)
    say(f"ending: {tree.name}, own account")
    names = ["corral", "psutil"]
    figures += _figures("own account", measure(ground, tree, None, names, rounds), OWN_ACCOUNT)
    if ground.lacking is None:
        say(f"ending: {tree.name} across sudo")
        names.append("psutil-batched")
        figures += _figures("across sudo", measure(ground, tree, ground.person, names, rounds))
    text = f"{number // 100} of the {number:,} are daemons that lost their parent; the rest is three levels deep."
    return Section(f"Ending a tree of {number:,} processes", text, tuple(figures))


def sudo_calls_section(ground: Ground, number: int) -> Section:
    """How often each way of ending calls `sudo kill`. Not timed, because each call goes through a counting script."""
    figures: list[Figure] = []
    for tree, names in (
        (codex(ground, 0), list(CONTENDERS)),
        (bush(ground, number, number // 100), [name for name in CONTENDERS if name != "origin"]),
    ):
        say(f"counting calls of sudo: {tree.name}")
        counts = {}
        for name in names:
            driver = ground.driver(name, counted=True)
            driver.ask("start", argv=tree.argv, user=ground.person, text=tree.text)
            wait_standing(ground, tree)
            before = ground.sudo_kills()
            driver.ask("end")
            counts[name] = ground.sudo_kills() - before
            ground.judge.clear()
        ours = counts["corral"]
        for name, calls in counts.items():
            figures.append(
                Figure(tree.name, CONTENDERS[name], "calls", (float(calls),), calls / ours if ours else None)
            )
    return Section(
        "Calls of sudo kill to end one tree", "A script named sudo counts them, in runs of their own.", tuple(figures)
    )
