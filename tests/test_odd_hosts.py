"""Hosts that hide, lack or refuse something: the tree is ended all the same, and the report says what was missing."""

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from typing import IO

import pytest

from tests.conftest import Route
from tests.harness.driving import Driver, DriverError
from tests.harness.service import Service
from tests.harness.stage import Account
from tests.harness.trees import TREES, Planted, Tree
from tests.harness.waiting import wait_until

Plant = Callable[[Tree], Planted]
PROVEN = ("proven_empty", "no_children", [])


def verdict(report: dict[str, object]) -> tuple[object, object, object]:
    return report["verdict"], report["proof"], report["survivors"]


def start_behind(
    service: Service, setup: str, command: list[str], stderr: int | IO[bytes] = subprocess.PIPE
) -> subprocess.Popen[bytes]:
    """Start it as the service account in a mount namespace of its own, in which root has run `setup` before."""
    root = Account("root", 0, 0, service.home)
    who = service.account
    drop = f"exec setpriv --reuid {who.uid} --regid {who.gid} --clear-groups"
    argv = ["unshare", "--mount", "sh", "-euc", f'{setup}\n{drop} "$@"', "-", *command]
    return service.start(argv, account=root, stderr=stderr)


def driver_behind(service: Service, setup: str) -> Driver:
    """A supervisor that is started by `start_behind`."""
    program = str(service.stage.harness / "driver.py")
    with (service.folder / "driver.err").open("wb") as log:
        return Driver(service, start_behind(service, setup, [service.python, program], log))


@pytest.mark.cross_account
class TestHiddenProcesses:
    """hidepid=2: the files of other accounts' processes are not there, sudo's among them."""

    HIDDEN = "mount -t proc -o hidepid=2 proc /proc"

    @pytest.mark.slow
    @pytest.mark.parametrize("tree", ["depth_3", "ignores_term", "stopped", "closed_daemon", "respawner"])
    @pytest.mark.parametrize("grace", [0.0, 0.3])
    def test_a_tree_across_sudo_is_ended_level_by_level(
        self, tree: str, grace: float, service: Service, planted: Plant
    ) -> None:
        driver = driver_behind(service, self.HIDDEN)
        plan = planted(TREES[tree])
        driver.start_job(list(plan.argv), service.stage.person.name, kill=20)
        plan.wait_ready(service.judge.alive)
        report = driver.end(grace=grace)
        assert service.judge.alive(but=[driver.pid]) == [], report
        assert verdict(report) == PROVEN

    def corral(self, service: Service, *arguments: str) -> list[str]:
        return service.corral(*arguments, "--state-dir", str(service.state_dir))

    def test_ps_shows_a_question_mark_for_what_is_hidden(self, service: Service, planted: Plant) -> None:
        driver = driver_behind(service, self.HIDDEN)
        plan = planted(TREES["depth_3"])
        sudo = driver.start_job(list(plan.argv), service.stage.person.name, kill=20)["pid"]
        plan.wait_ready(service.judge.alive)
        said, _ = start_behind(service, self.HIDDEN, self.corral(service, "ps")).communicate(timeout=30)
        head, *lines = said.decode().splitlines()
        assert f"{driver.job['id']}  running" in head
        assert [line.split() for line in lines] == [["?", str(sudo), "?", "0M", "[?]"]]

    def test_a_killed_supervisor_leaves_nothing(self, service: Service, planted: Plant) -> None:
        driver = driver_behind(service, self.HIDDEN)
        plan = planted(TREES["ignores_term"])
        driver.start_job(list(plan.argv), service.stage.person.name, kill=20)
        plan.wait_ready(service.judge.alive)
        driver.program.kill()
        service.wait_empty(30)

    @pytest.mark.slow
    def test_what_cannot_be_seen_is_not_said_to_be_gone(self, service: Service, planted: Plant) -> None:
        """Of daemons that only a scan could find, a sweep that is not shown them does not say that they are gone."""
        driver = driver_behind(service, self.HIDDEN)
        plan = planted(TREES["closed_daemon"])
        driver.start_job(list(plan.argv), service.stage.person.name, kill=2)
        plan.wait_ready(service.judge.alive)
        driver.kill_with_reaper()
        assert service.judge.alive()
        sweep = start_behind(service, self.HIDDEN, self.corral(service, "sweep", "--json"))
        said, _ = sweep.communicate(timeout=60)
        result = json.loads(said)
        assert (sweep.returncode, result["clean"]) == (1, False)
        assert any("hidepid" in note for one in result["swept"] for note in one["report"]["notes"]), result
        assert list((service.state_dir / "jobs").glob("*.job")), "the record stays for a sweep that can see"
        assert service.sweep()[0] == 0
        assert service.judge.alive() == []


@pytest.mark.cross_account
class TestFullDisk:
    """The ledger lies on a file system of a few pages."""

    def full(self, service: Service) -> str:
        target = service.folder / "small"
        target.mkdir()
        return f"mount -t tmpfs -o size=16k,mode=0777 none {target}\ncd {target}"

    def test_before_the_start_it_is_a_clear_error_and_nothing_runs(self, service: Service) -> None:
        driver = driver_behind(service, self.full(service) + "\nhead -c 100000 /dev/zero >filler || true")
        with pytest.raises(DriverError) as error:
            driver.start_job(["/bin/sleep", "1000"], state_dir=str(service.folder / "small"))
        assert error.value.kind == "ledger"
        assert "No space left" in str(error.value)
        service.wait_empty(5, but=[driver.pid])

    @pytest.mark.slow
    def test_while_the_tree_grows_it_is_a_note_and_the_tree_is_ended(self, service: Service, planted: Plant) -> None:
        driver = driver_behind(service, self.full(service))
        plan = planted(TREES["breadth_1500"])
        small = service.folder / "small"
        driver.start_job(list(plan.argv), state_dir=str(small), report_file=None, kill=20)
        plan.wait_ready(service.judge.alive)
        # The record of 1,500 members does not fit, and the supervisor is told when the reaper finds that out.
        wait_until(lambda: any("No space left" in notice for notice in driver.ask("notices")), 30)
        report = driver.end()
        assert service.judge.alive(but=[driver.pid]) == [], report
        assert verdict(report) == PROVEN
        assert any("No space left" in note for note in report["notes"]), report["notes"]


class TestLostFolders:
    """What was there when the job began is gone."""

    @pytest.mark.slow
    def test_a_ledger_that_is_removed_while_the_job_runs_loses_no_tree(
        self, account: Route, driver: Driver, planted: Plant
    ) -> None:
        plan = planted(TREES["ignores_term"])
        driver.start_job(list(plan.argv), account.user, report_file=None)
        plan.wait_ready(driver.service.judge.alive)
        shutil.rmtree(driver.service.state_dir / "jobs")
        report = driver.end()
        assert driver.service.judge.alive(but=[driver.pid]) == [], report
        assert verdict(report) == PROVEN

    def test_a_report_that_cannot_be_written_is_still_returned(self, driver: Driver) -> None:
        driver.start_job(["/bin/sleep", "1000"], report_file="/nonexistent/report.json")
        assert verdict(driver.end()) == PROVEN


@pytest.mark.slow
class TestStoppedReaper:
    """SIGSTOP is not a death: nothing closes, nobody answers."""

    def test_the_sweep_wakes_a_reaper_whose_supervisor_died_meanwhile(
        self, account: Route, driver: Driver, planted: Plant
    ) -> None:
        plan = planted(TREES["ignores_term"])
        driver.start_job(list(plan.argv), account.user)
        plan.wait_ready(driver.service.judge.alive)
        os.kill(driver.job["reaper_pid"], signal.SIGSTOP)
        driver.program.kill()
        driver.program.wait(10)
        assert driver.service.judge.alive(but=[driver.job["reaper_pid"]]), "nothing is left to sweep"
        status, swept, said = driver.service.sweep()
        assert driver.service.judge.alive() == [], (swept, said)
        assert status == 0, (swept, said)
