"""The portable tracker, forced on Linux: sticky membership and scans, the most that a host without subreapers allows.

Every hostile tree is ended in every way. Those that hang together leave nothing; of the others the limit is shown.
Whatever happens, the verdict claims no proof.
"""

import json
import os
import re
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Route
from tests.harness import truth
from tests.harness.driving import Driver, freeze
from tests.harness.service import Service
from tests.harness.stage import REPOSITORY
from tests.harness.trees import TREES, Planted, Tree
from tests.harness.waiting import wait_until

Plant = Callable[[Tree], Planted]
Way = Callable[[Driver], dict[str, Any]]
GUARANTEES = REPOSITORY / "docs" / "guarantees.md"

UNPROMISED = {
    "closed_daemon": "the daemon's parent came and went, and took along the session that the daemon is in",
    "left_behind": "the same, and then the command exits",
    "stdin_held_open": "the same; descriptors that the daemon shares with the command lead to nobody",
    "environment_wiped": "the same; an environment is not looked at, wiped or not",
    "successor_every_30_ms": "each successor is in a session of its own, and its parent has gone",
}
"""The trees that may leave something behind, and why: docs/guarantees.md has this very table."""

ENDED_BY_LUCK = {"successor_every_30_ms"}
"""Those of them that a look in the right moment ends: they may as well leave nothing."""


def ask(driver: Driver) -> dict[str, Any]:
    return driver.end()


def kill_supervisor(driver: Driver) -> dict[str, Any]:
    driver.program.kill()
    report = driver.report_in_file()
    reaper = driver.job["reaper_pid"]
    wait_until(lambda: truth.look(reaper) is None, what="the reaper had gone", picture=driver.picture)
    return report


def kill_reaper(driver: Driver) -> dict[str, Any]:
    os.kill(driver.job["reaper_pid"], signal.SIGKILL)
    return dict(driver.ask("ended"))


def kill_both_and_sweep(driver: Driver) -> dict[str, Any]:
    driver.kill_with_reaper()
    status, swept, said = driver.service.sweep()
    assert (status, len(swept["swept"])) == (0, 1), (swept, said)
    return dict(swept["swept"][0]["report"])


ENDED_BY = {ask: "reaper", kill_supervisor: "reaper", kill_reaper: "supervisor", kill_both_and_sweep: "sweep"}
every_way = pytest.mark.parametrize("way", ENDED_BY, ids=lambda way: way.__name__)


def cases(trees: Sequence[Tree]) -> list[Any]:
    """Return the trees in every way, under both accounts. Under the own account, `ask` is for everyday.

    Across sudo every tree is ended by its reaper and by the sweep; in the ways between only the few that are quick.
    """
    found = []
    for tree in trees:
        for account in ("own_account",) if tree.across else ("own_account", "across_sudo"):
            for way in ENDED_BY:
                across = account == "across_sudo"
                if across and way in (kill_supervisor, kill_reaper) and not tree.quick and tree.name not in UNPROMISED:
                    continue
                marks = [pytest.mark.cross_account] if across or tree.across else []
                marks += [] if tree.quick and way is ask and not across else [pytest.mark.slow]
                found.append(pytest.param(tree, across, way, id=f"{tree.name}-{account}-{way.__name__}", marks=marks))
    return found


def assert_claims_no_proof(report: dict[str, Any], way: Way) -> None:
    assert (report["verdict"], report["proof"], report["survivors"]) == ("empty_by_scan", None, []), report
    assert report["ended_by"] == ENDED_BY[way]


def alive(driver: Driver) -> list[truth.Seen]:
    """What lives of the test, without its supervisor, where that one lives."""
    return driver.service.judge.alive(but=[driver.pid] if driver.program.poll() is None else [])


def named_in(record: Path) -> set[int]:
    """The pids of all members that a job's record names."""
    lines = [line.rpartition(" ")[0] for line in record.read_text().split("\n")[:-1]]
    return {pid for line in lines for pid, _ in json.loads(line).get("members", ())}


@pytest.mark.parametrize(
    ("tree", "across", "way"), cases([tree for tree in TREES.values() if tree.name not in UNPROMISED])
)
@pytest.mark.slow
def test_a_tree_that_hangs_together_is_ended_and_the_verdict_claims_no_proof(
    tree: Tree, across: bool, way: Way, driver: Driver, planted: Plant
) -> None:
    plan = planted(tree)
    user = driver.service.stage.person.name if across else None
    driver.start_job(list(plan.argv), user, kill=20, tracker="portable")
    plan.wait_ready(driver.service.judge.alive)
    report = way(driver)
    assert alive(driver) == [], report
    assert_claims_no_proof(report, way)


SEEN_DAEMON = """
import os, signal, sys
gate, status = sys.argv[1:]
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        with open(status, "a") as file:
            file.write(f"daemon {os.getpid()}\\nready\\n")
    else:
        open(gate).close()
        os._exit(0)
else:
    os.wait()
    with open(status, "a") as file:
        file.write("orphaned\\n")
while True:
    signal.pause()
"""


def make_gate(service: Service) -> Path:
    """A pipe in the test's folder: whoever opens it to read is held there until `open_gate`."""
    gate = service.folder / "gate"
    os.mkfifo(gate)
    gate.chmod(0o666)
    return gate


def open_gate(gate: Path) -> None:
    def opened() -> bool:
        try:
            os.close(os.open(gate, os.O_WRONLY | os.O_NONBLOCK))
        except OSError:
            return False  # Nobody is there yet.
        return True

    wait_until(opened, what="somebody came to the gate")


def shown_by_ps(driver: Driver) -> set[int]:
    done = driver.service.run(driver.service.corral("ps", "--json", "--state-dir", str(driver.service.state_dir)))
    return {one["pid"] for job in json.loads(done.stdout)["jobs"] for one in job["tree"]}


@every_way
@pytest.mark.slow
def test_a_daemon_that_was_seen_once_is_ended_although_nothing_leads_to_it_any_more(
    way: Way, account: Route, driver: Driver, planted: Plant
) -> None:
    plan, gate = planted(TREES["depth_1"]), make_gate(driver.service)
    argv = [driver.service.python, "-I", "-S", "-c", SEEN_DAEMON, str(gate), str(plan.status)]
    driver.start_job(argv, account.user, tracker="portable")
    plan.wait_ready(driver.service.judge.alive)
    (daemon,) = plan.pids("daemon")
    wait_until(lambda: daemon in named_in(driver.record), what="the record named the daemon", picture=driver.picture)
    open_gate(gate)
    wait_until(lambda: "orphaned" in plan.said(), what="the daemon's parent had gone", picture=driver.picture)
    assert {plan.pids("daemon")[0], driver.job["pid"]} <= shown_by_ps(driver)
    report = way(driver)
    assert alive(driver) == [], report
    assert_claims_no_proof(report, way)


BEHIND_THE_GATE = "import os, sys; open(sys.argv[1]).close(); os.execv(sys.argv[2], sys.argv[2:])"


def grow_unseen(driver: Driver, planted: Plant, tree: Tree, user: str | None) -> Planted:
    """Start the tree as a portable job whose reaper cannot look before the tree stands."""
    plan, gate = planted(tree), make_gate(driver.service)
    argv = [driver.service.python, "-I", "-S", "-c", BEHIND_THE_GATE, str(gate), *plan.argv]
    reaper = driver.start_job(argv, user, tracker="portable")["reaper_pid"]
    freeze(reaper)
    assert driver.job["pid"] in named_in(driver.record), "once it is started, the command is on record"
    open_gate(gate)
    plan.wait_ready(driver.service.judge.alive)
    os.kill(reaper, signal.SIGCONT)
    return plan


@pytest.mark.parametrize(
    ("tree", "across", "way"),
    cases([TREES[name] for name in UNPROMISED if not TREES[name].ends_itself]),
)
@pytest.mark.slow
def test_a_tree_that_falls_apart_unseen_leaves_its_stray_behind_and_the_verdict_claims_no_proof(
    tree: Tree, across: bool, way: Way, driver: Driver, planted: Plant
) -> None:
    """The hole, as the docs have it. Should this fail because nothing was left: they promise too little.

    But for the chain: two looks that both find its youngest link end it, and that is luck, one way or the other.
    """
    user = driver.service.stage.person.name if across else None
    plan = grow_unseen(driver, planted, tree, user)
    known = named_in(driver.record)
    report = way(driver)
    assert_claims_no_proof(report, way)
    left = {one.pid for one in alive(driver)}
    assert left or tree.name in ENDED_BY_LUCK, "nothing is left"
    # A chain may be seen with two links, the old one and its successor.
    assert not left & {*known, plan.pids("command")[0]}, "what was known is ended"
    driver.service.judge.end_leftovers()


def test_a_daemon_left_by_a_command_that_exits_unseen_is_not_found(
    account: Route, driver: Driver, planted: Plant
) -> None:
    plan = grow_unseen(driver, planted, TREES["left_behind"], account.user)
    report = driver.ask("ended")
    assert_claims_no_proof(report, ask)
    assert report["cause"] == "exit"
    assert [one.pid for one in alive(driver)] == plan.pids("daemon")
    assert driver.service.judge.end_leftovers()


def test_the_guarantees_name_the_same_unpromised_trees_for_the_same_reasons() -> None:
    section = GUARANTEES.read_text().partition("\n## The portable tracker\n")[2].partition("\n## ")[0]
    assert dict(re.findall(r"^\| `(\w+)` \| (.+?) \|$", section, re.MULTILINE)) == UNPROMISED
    assert set(UNPROMISED) <= set(TREES)
