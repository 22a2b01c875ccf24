"""Every hostile tree, under its own account and across sudo, ended in every way: /proc must show that nothing lives.

The judge is tests/harness/truth.py, which shares no code with Corral. The report may claim what the judge finds true.
"""

import json
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from tests.conftest import Route
from tests.harness import truth
from tests.harness.driving import Driver, DriverError, freeze
from tests.harness.service import Service
from tests.harness.trees import TREES, Planted, Tree
from tests.harness.waiting import wait_until

GRACE = 0.3
Plant = Callable[[Tree], Planted]
SudoRules = Callable[..., object]


@dataclass(frozen=True)
class Case:
    """A tree and the account that it runs as."""

    tree: Tree
    account: str

    @property
    def across(self) -> bool:
        return self.account == "across_sudo"


def cases(everyday: Callable[[Tree], bool]) -> list[Any]:
    """Return every tree under both accounts; a tree that goes across accounts by itself only under its own."""
    found = []
    for tree in TREES.values():
        if tree.ends_itself:
            continue
        for account in ("own_account",) if tree.across else ("own_account", "across_sudo"):
            crosses = tree.across or account == "across_sudo"
            marks = [pytest.mark.cross_account] if crosses else []
            marks += [] if everyday(tree) else [pytest.mark.slow]
            found.append(pytest.param(Case(tree, account), id=f"{tree.name}-{account}", marks=marks))
    return found


every_tree = pytest.mark.parametrize("case", cases(lambda tree: tree.quick))
# Of these ways `make quick` takes one tree.
every_tree_seldom = pytest.mark.parametrize("case", cases(lambda tree: tree.name == "closed_daemon"))


def job_of(driver: Driver, case: Case, planted: Plant, **more: Any) -> Planted:
    """Start the case's tree as a job of the driver, and wait until it stands."""
    plan = planted(case.tree)
    user = driver.service.stage.person.name if case.across else None
    driver.start_job(plan.argv, user, GRACE, **more)
    plan.wait_ready(driver.service.judge.alive)
    return plan


def assert_proven(report: dict[str, Any]) -> None:
    assert (report["verdict"], report["proof"], report["survivors"]) == ("proven_empty", "no_children", []), report


@every_tree
def test_end_leaves_nothing_and_proves_it(case: Case, driver: Driver, planted: Plant) -> None:
    job_of(driver, case, planted)
    report = driver.end()
    assert driver.service.judge.alive(but=[driver.pid]) == [], report
    assert_proven(report)
    assert report["ended_by"] == "reaper"


@every_tree_seldom
@pytest.mark.slow
def test_term_to_corral_run_leaves_nothing_and_proves_it(case: Case, service: Service, planted: Plant) -> None:
    plan = planted(case.tree)
    report = service.state_dir / "report.json"
    options = ["--grace", str(GRACE), "--report", str(report), "--state-dir", str(service.state_dir)]
    options += ["--user", service.stage.person.name] if case.across else []
    supervisor = service.start(service.corral("run", *options, "--", *plan.argv))
    plan.wait_ready(service.judge.alive)
    supervisor.terminate()
    service.wait_exit(supervisor)
    assert service.judge.alive() == []
    assert_proven(json.loads(report.read_text()))


@every_tree_seldom
def test_a_killed_supervisor_leaves_nothing_and_the_reaper_proves_it(
    case: Case, driver: Driver, planted: Plant
) -> None:
    job_of(driver, case, planted)
    driver.program.kill()
    driver.service.wait_empty()
    report = driver.report_in_file()
    assert_proven(report)
    assert report["ended_by"] == "reaper"


@pytest.mark.slow
def test_half_a_message_before_a_supervisor_is_killed_holds_nothing_up(
    account: Route, driver: Driver, planted: Plant
) -> None:
    job_of(driver, Case(TREES["ignores_term"], "across_sudo" if account.user else "own_account"), planted)
    driver.ask("write", text='{"end": {"gra')
    driver.program.kill()
    driver.service.wait_empty()
    report = driver.report_in_file()
    assert_proven(report)
    assert (report["cause"], report["ended_by"]) == ("lifeline", "reaper")


@every_tree
@pytest.mark.slow
def test_a_killed_reaper_leaves_nothing(case: Case, driver: Driver, planted: Plant) -> None:
    job_of(driver, case, planted)
    os.kill(driver.job["reaper_pid"], signal.SIGKILL)
    report = driver.ask("ended")
    assert driver.service.judge.alive(but=[driver.pid]) == [], report
    assert report["ended_by"] == "supervisor"
    assert report["verdict"] in {"proven_empty", "empty_by_scan"}
    assert report["survivors"] == []


@every_tree_seldom
@pytest.mark.slow
def test_the_sweep_ends_what_a_killed_supervisor_and_reaper_left(case: Case, driver: Driver, planted: Plant) -> None:
    job_of(driver, case, planted)
    driver.kill_with_reaper()
    assert driver.service.judge.alive(), "the tree ended without the sweep, so this test would show nothing"
    status, swept, said = driver.service.sweep()
    assert driver.service.judge.alive() == [], (swept, said)
    assert status == 0, (swept, said)


def test_a_command_that_exits_with_success_leaves_no_daemon(account: Route, driver: Driver, planted: Plant) -> None:
    plan = planted(TREES["left_behind"])
    driver.start_job(plan.argv, account.user, GRACE)
    report = driver.ask("ended")
    assert driver.ask("wait") == 0
    assert plan.pids("daemon")
    assert driver.service.judge.alive(but=[driver.pid]) == []
    assert_proven(report)


def test_everybody_who_asks_for_the_end_gets_the_same_report(account: Route, driver: Driver, planted: Plant) -> None:
    job_of(driver, Case(TREES["ignores_term"], "across_sudo" if account.user else "own_account"), planted)
    assert driver.end() == driver.end() == driver.ask("ended")


def test_the_tree_of_a_job_lists_what_the_judge_sees(account: Route, driver: Driver, planted: Plant) -> None:
    plan = planted(TREES["depth_5"])
    driver.start_job(plan.argv, account.user, GRACE)
    plan.wait_ready(driver.service.judge.alive)

    def difference() -> set[int]:
        listed = {one["pid"] for one in driver.ask("tree")}
        return listed ^ {one.pid for one in driver.service.judge.alive(but=[driver.pid, driver.job["reaper_pid"]])}

    # Until the reaper has asked sudo whether it may kill, the judge sees that call, which is not of the tree.
    wait_until(lambda: not difference(), what="the tree that was listed is what the judge sees")


@pytest.mark.parametrize("milliseconds", ["0", "1", "2"])
@pytest.mark.slow
def test_a_chain_faster_than_any_signal_is_ended(
    milliseconds: str, account: Route, driver: Driver, planted: Plant
) -> None:
    """A call of sudo takes 8 ms, so that no pid it is given is still there: across accounts the account is frozen."""
    plan = planted(Tree("chain", "successors", 2, (milliseconds,)))
    driver.start_job(list(plan.argv), account.user, kill=30)
    plan.wait_ready(driver.service.judge.alive)
    report = driver.end(grace=0)
    assert driver.service.judge.alive(but=[driver.pid]) == [], report
    assert_proven(report)


@pytest.mark.cross_account
@pytest.mark.slow
def test_an_account_with_processes_of_its_own_is_never_frozen(driver: Driver, planted: Plant) -> None:
    service = driver.service
    bystander = service.start(["/bin/sleep", "1000"], account=service.stage.person)
    plan = planted(Tree("chain", "successors", 2, ("1",)))
    driver.start_job(list(plan.argv), service.stage.person.name, kill=3)
    plan.wait_ready(service.judge.alive)
    report = driver.end(grace=0)
    assert "STOP" not in {one["signal"] for one in report["signals"]}
    assert truth.look(bystander.pid) is not None
    assert report["verdict"] in {"proven_empty", "survivors"}
    if report["verdict"] == "survivors":
        assert any("others that are not the job's" in note for note in report["notes"]), report
    bystander.kill()
    bystander.wait(10)
    driver.service.wait_empty(90, but=[driver.pid])


@pytest.mark.cross_account
def test_a_stopped_sudo_does_not_hold_up_the_ending(driver: Driver, planted: Plant) -> None:
    job_of(driver, Case(TREES["depth_3"], "across_sudo"), planted)
    freeze(driver.job["pid"])
    report = driver.end()
    assert driver.service.judge.alive(but=[driver.pid]) == [], report
    assert_proven(report)


@pytest.mark.cross_account
@pytest.mark.parametrize("name", ["depth_3", "ignores_term", "stopped", "respawner"])
@pytest.mark.slow
def test_a_killed_sudo_loses_nothing(name: str, driver: Driver, planted: Plant) -> None:
    job_of(driver, Case(TREES[name], "across_sudo"), planted)
    os.kill(driver.job["pid"], signal.SIGKILL)
    report = driver.ask("ended")
    assert driver.service.judge.alive(but=[driver.pid]) == [], report
    assert_proven(report)
    assert driver.ask("wait") == -signal.SIGKILL


@pytest.mark.cross_account
@pytest.mark.parametrize("tags", [None, "PASSWD:"], ids=["no_rule", "password_wanted"])
@pytest.mark.slow
def test_without_a_rule_for_kill_the_survivors_are_named_and_ended_once_it_is_there(
    tags: str | None, driver: Driver, planted: Plant, sudo_rules: SudoRules
) -> None:
    sudo_rules(kill_tags=tags)
    plan = job_of(driver, Case(TREES["ignores_term"], "across_sudo"), planted, kill=1.0)
    report = driver.end()
    assert report["verdict"] == "survivors"
    survivors = {one["pid"]: one for one in report["survivors"]}
    deaf = plan.pids("command") + plan.pids("child")
    assert set(deaf) <= set(survivors)
    assert all("/bin/kill" in survivors[pid]["reason"] for pid in deaf), report
    assert set(deaf) <= {one.pid for one in driver.service.judge.alive()}
    sudo_rules()
    driver.service.wait_empty(30, but=[driver.pid])
    driver.wait_reaper_gone()
    assert not driver.record.exists()
    driver.let_go()
    last = driver.report_in_file()
    assert_proven(last)
    # The supervisor must not take a reaper that held, and then ended, for one that was killed.
    assert (last["cause"], last["ended_by"]) == ("request", "reaper")
    assert [note for note in last["notes"] if note.startswith("held and ended ")], last["notes"]


@pytest.mark.cross_account
@pytest.mark.parametrize(
    ("rules", "kind"),
    [({"commands": ("/bin/false",)}, "sudo_rule"), ({"command_tags": "PASSWD:"}, "sudo_password")],
    ids=["no_rule", "password_wanted"],
)
def test_a_command_that_sudo_refuses_is_an_error_that_names_what_is_missing(
    rules: dict[str, Any], kind: str, driver: Driver, planted: Plant, sudo_rules: SudoRules
) -> None:
    sudo_rules(**rules)
    plan = planted(TREES["depth_1"])
    with pytest.raises(DriverError) as refused:
        driver.start_job(plan.argv, driver.service.stage.person.name)
    assert refused.value.kind == kind
    assert "NOPASSWD" in str(refused.value)
    driver.service.wait_empty(5, but=[driver.pid])
