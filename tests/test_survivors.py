"""A process that cannot die: it is named, the job is held, and once it can die the last word is said.

The processes are frozen by cgroup v1, as by a device that does not answer. Survivors across accounts are in
test_endings.py, where the rule for kill is missing.
"""

import json
import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.harness import truth
from tests.harness.driving import Driver
from tests.harness.freezer import Freezer, NoFreezerError, freezer
from tests.harness.service import Service
from tests.harness.trees import TREES, Planted, Tree
from tests.harness.waiting import wait_until

Plant = Callable[[Tree], Planted]
pytestmark = pytest.mark.slow


@pytest.fixture
def ice(service: Service) -> Iterator[Freezer]:
    """A freezer, thawed before the leftovers of the test are ended.

    It needs root, but no other account: no test that takes it may be marked cross_account, which must never be skipped.
    """
    try:
        with freezer(service.stage) as found:
            yield found
            found.thaw()
            service.judge.end_leftovers()
    except NoFreezerError as error:
        pytest.skip(f"nothing here can keep a process from dying: {error}")


def frozen_job(driver: Driver, planted: Plant, ice: Freezer, **more: Any) -> int:
    """Start a job of three levels, and freeze its innermost process. Return the pid of that one."""
    plan = planted(TREES["depth_3"])
    driver.start_job(list(plan.argv), kill=0.3, **more)
    plan.wait_ready(driver.service.judge.alive)
    (pid,) = plan.pids("level-3")
    ice.freeze(pid)
    return pid


def assert_named(report: dict[str, Any], pid: int, user: str) -> None:
    """The report has exactly this survivor, with who it is and why it lives."""
    assert (report["verdict"], report["proof"]) == ("survivors", None), report
    (survivor,) = report["survivors"]
    seen = truth.look(pid)
    assert seen is not None
    told = (survivor["pid"], survivor["start_time"], survivor["user"], survivor["state"], survivor["command"])
    assert told == (pid, seen.start_time, user, "D", seen.command)
    assert "state D" in survivor["reason"]


def test_a_survivor_is_named_and_held_and_the_reaper_says_the_last_word_when_it_has_gone(
    driver: Driver, planted: Plant, ice: Freezer
) -> None:
    pid = frozen_job(driver, planted, ice)
    report = driver.end()
    assert_named(report, pid, driver.job["user"])
    assert {one.pid for one in driver.service.judge.alive(but=[driver.pid])} == {driver.job["reaper_pid"], pid}
    assert driver.record.exists(), "a sweep could still find it"
    assert driver.report_in_file()["verdict"] == "survivors"

    ice.thaw()
    driver.wait_reaper_gone()
    assert driver.service.judge.alive(but=[driver.pid]) == []
    assert not driver.record.exists()
    assert driver.ask("ended") == report, "who has asked keeps what was said"

    driver.let_go()
    last = driver.report_in_file()
    assert (last["verdict"], last["proof"], last["survivors"]) == ("proven_empty", "no_children", [])
    # Not "reaper_died" by the supervisor: it saw its reaper go, and must not take that for a death.
    assert (last["cause"], last["ended_by"]) == ("request", "reaper")
    assert [note for note in last["notes"] if note.startswith("held and ended ")], last["notes"]


def test_a_command_that_exits_over_a_survivor_is_held_too(driver: Driver, planted: Plant, ice: Freezer) -> None:
    pid = frozen_job(driver, planted, ice)
    os.kill(driver.job["pid"], signal.SIGKILL)
    report = driver.ask("ended")
    assert_named(report, pid, driver.job["user"])
    assert driver.ask("wait") == -signal.SIGKILL
    ice.thaw()
    driver.wait_reaper_gone()
    driver.let_go()
    last = driver.report_in_file()
    assert (last["verdict"], last["cause"], last["ended_by"]) == ("proven_empty", "exit", "reaper")


@pytest.mark.slow
def test_a_killed_supervisor_leaves_a_reaper_that_holds_on(driver: Driver, planted: Plant, ice: Freezer) -> None:
    pid = frozen_job(driver, planted, ice)
    driver.program.kill()
    driver.program.wait(10)
    assert_named(driver.report_in_file(), pid, driver.job["user"])
    status, swept, said = driver.service.sweep()
    assert (status, [one["id"] for one in swept["held"]]) == (1, [driver.job["id"]]), (swept, said)
    ice.thaw()
    driver.service.wait_empty()
    assert (driver.report_in_file()["verdict"], driver.record.exists()) == ("proven_empty", False)


def test_a_killed_reaper_leaves_a_supervisor_that_holds_on(driver: Driver, planted: Plant, ice: Freezer) -> None:
    pid = frozen_job(driver, planted, ice)
    os.kill(driver.job["reaper_pid"], signal.SIGKILL)
    report = driver.ask("ended")
    assert_named(report, pid, driver.job["user"])
    assert driver.record.exists()
    ps = driver.service.corral("ps", "--state-dir", str(driver.service.state_dir))
    (job,) = json.loads(driver.service.run([*ps, "--json"]).stdout)["jobs"]
    assert (job["state"], job["reaper"], [one["pid"] for one in job["tree"]]) == ("ending", None, [pid])
    assert "no reaper: its supervisor ends it" in driver.service.run(ps).stdout
    ice.thaw()
    wait_until(lambda: not driver.record.exists(), 20, "the supervisor had let go", driver.picture)
    assert driver.service.judge.alive(but=[driver.pid]) == []
    last = driver.report_in_file()
    assert (last["verdict"], last["cause"], last["ended_by"]) == ("proven_empty", "reaper_died", "supervisor")
    assert [note for note in last["notes"] if note.startswith("held and ended ")], last["notes"]
    driver.let_go()


def test_a_sweep_names_what_it_cannot_end_and_leaves_the_record_to_the_next(
    driver: Driver, planted: Plant, ice: Freezer
) -> None:
    pid = frozen_job(driver, planted, ice)
    driver.kill_with_reaper()
    status, swept, said = driver.service.sweep()
    assert (status, swept["clean"]) == (1, False), said
    assert_named(swept["swept"][0]["report"], pid, driver.job["user"])
    ice.thaw()
    wait_until(lambda: truth.look(pid) is None, what="the KILL that waited for it had arrived")
    status, swept, said = driver.service.sweep()
    assert (status, swept["swept"][0]["report"]["verdict"]) == (0, "empty_by_scan"), said
    assert not driver.record.exists()


def test_corral_run_names_the_survivor_and_fails(service: Service, planted: Plant, ice: Freezer) -> None:
    plan = planted(TREES["depth_3"])
    options = ("--grace", "0.2", "--kill", "0.3", "--state-dir", str(service.state_dir))
    program = service.start(service.corral("run", *options, "--", *plan.argv))
    plan.wait_ready(service.judge.alive)
    (pid,) = plan.pids("level-3")
    ice.freeze(pid)
    program.terminate()
    assert service.wait_exit(program) == 125
    assert truth.look(pid) is not None
    ice.thaw()
    service.wait_empty()
    # Only now: the survivor has its end of the pipe open.
    assert program.stderr is not None
    assert f"pid {pid} ({service.account.name}, state D)" in program.stderr.read().decode()
