"""`corral ps`: the live jobs with their trees, for people and for programs, as /proc has them."""

import json
import os
import pwd
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Route
from tests.harness import truth
from tests.harness.driving import Driver, freeze
from tests.harness.service import Service
from tests.harness.trees import TREES, Planted, Tree
from tests.harness.waiting import wait_until

Plant = Callable[[Tree], Planted]
PERSON = "[[people]]\nname = 'a'\n"
KEYS = {"id", "label", "state", "reason", "user", "command", "started", "reaper", "tree"}
PROCESS_KEYS = {"pid", "ppid", "depth", "user", "state", "start_time", "rss", "command"}


def ps(service: Service, *options: str) -> tuple[int, str, str]:
    done = service.run(service.corral("ps", "--state-dir", str(service.state_dir), *options))
    return done.returncode, done.stdout, done.stderr


def jobs(service: Service) -> list[dict[str, Any]]:
    status, said, complaint = ps(service, "--json")
    assert (status, complaint) == (0, "")
    return list(json.loads(said)["jobs"])


def running(driver: Driver, planted: Plant, account: Route, **more: Any) -> list[truth.Seen]:
    """Start a job of three levels. Return what the judge sees of it, without its reaper."""
    plan = planted(TREES["depth_3"])
    job = driver.start_job(list(plan.argv), account.user, **more)
    plan.wait_ready(driver.service.judge.alive)

    def settled() -> list[truth.Seen]:
        # Once the command runs the reaper calls sudo, to learn whether it may signal the account: it sleeps only during
        # the call and after it, and the call's sudo is its child.
        reaper = truth.look(job["reaper_pid"])
        seen = driver.service.judge.alive(but=[driver.pid, job["reaper_pid"]])
        children = [one.pid for one in seen if one.parent == job["reaper_pid"]]
        return seen if reaper is not None and reaper.state == "S" and children == [job["pid"]] else []

    return wait_until(settled, 20, "the reaper has only the command below it")


def account_name(seen: truth.Seen) -> str:
    return pwd.getpwuid(seen.uids[0]).pw_name


def assert_is_the_tree(tree: list[dict[str, Any]], seen: list[truth.Seen]) -> None:
    """The tree is what the judge saw, parents before children, with the levels counted from the command."""
    by_pid = {one.pid: one for one in seen}
    assert {one["pid"] for one in tree} == set(by_pid)
    depths: dict[int, int] = {}
    for one in tree:
        truly = by_pid[one["pid"]]
        assert set(one) == PROCESS_KEYS
        assert (one["ppid"], one["start_time"]) == (truly.parent, truly.start_time)
        assert (one["user"], one["command"]) == (account_name(truly), truly.command)
        assert one["rss"] > 100_000
        depths[one["pid"]] = depths.get(one["ppid"], 0) + 1
        assert one["depth"] == depths[one["pid"]]


@pytest.mark.parametrize("tracker", ["auto", "subreaper-scan", "portable"])
@pytest.mark.slow
def test_a_running_job_is_listed_with_its_whole_tree(
    tracker: str, account: Route, driver: Driver, planted: Plant
) -> None:
    seen = running(driver, planted, account, label="daniel's codex", tracker=tracker)
    (job,) = jobs(driver.service)
    assert set(job) == KEYS
    assert (job["id"], job["reaper"]) == (driver.job["id"], driver.job["reaper_pid"])
    assert (job["label"], job["state"], job["user"]) == ("daniel's codex", "running", driver.job["user"])
    assert job["command"] == os.path.basename(driver.service.python)  # noqa: PTH119 - a name, not a path
    assert_is_the_tree(job["tree"], seen)
    driver.end()
    assert jobs(driver.service) == []


@pytest.mark.slow
def test_people_get_a_line_for_each_job_and_one_for_each_process_below_its_parent(
    account: Route, driver: Driver, planted: Plant
) -> None:
    seen = {one.pid: one for one in running(driver, planted, account, label="daniel's codex")}
    status, said, complaint = ps(driver.service)
    assert (status, complaint) == (0, "")
    head, *lines = said.splitlines()
    told = f"daniel's codex  {driver.job['id']}  running, "
    assert re.fullmatch(rf"{re.escape(told)}\d+s, reaper {driver.job['reaper_pid']}", head)
    line = re.compile(r"(\S+) +(\d+) +\d+s +\d+M  ( *)(└─ )?(\S.*)")
    parents: list[tuple[int, int]] = []
    for text in lines:
        found = line.fullmatch(text)
        assert found, text
        user, pid, indent, branch, command = found.groups()
        truly = seen.pop(int(pid))
        assert command.startswith(truly.command[:90])
        assert user == account_name(truly)
        parents.append((truly.pid, truly.parent))
        assert (len(indent) + len(branch or "")) // 3 == len(parents) - 1
    assert seen == {}, "each has its line"
    assert [parent for _, parent in parents[1:]] == [pid for pid, _ in parents[:-1]]


def test_without_a_label_the_program_names_the_job(driver: Driver) -> None:
    driver.start_job(["/bin/sleep", "1000"])
    assert ps(driver.service)[1].startswith(f"sleep  {driver.job['id']}  running")


def test_a_secret_argument_of_the_command_is_not_in_the_record_that_names_the_job(driver: Driver) -> None:
    driver.start_job(["/bin/sh", "-c", "read line", "a-secret-argument"])
    (job,) = jobs(driver.service)
    assert job["command"] == "sh"


@pytest.mark.slow
def test_jobs_are_listed_oldest_first_even_those_of_one_second(service: Service) -> None:
    ids = []
    for _ in range(4):
        driver = Driver.start(service)
        ids.append(driver.start_job(["/bin/sleep", "1000"], report_file=None)["id"])
    assert [job["id"] for job in jobs(service)] == ids


@pytest.mark.slow
def test_a_job_whose_supervisor_is_dead_is_ending(account: Route, driver: Driver, planted: Plant) -> None:
    seen = running(driver, planted, account)
    freeze(driver.job["reaper_pid"])  # Or it would have ended the tree by now.
    driver.program.kill()
    driver.program.wait(10)
    (job,) = jobs(driver.service)
    assert (job["state"], job["reaper"]) == ("ending", driver.job["reaper_pid"])
    assert_is_the_tree(job["tree"], seen)
    assert f"ending, 0s, reaper {driver.job['reaper_pid']}" in re.sub(r"\d+s", "0s", ps(driver.service)[1])
    os.kill(driver.job["reaper_pid"], signal.SIGCONT)
    driver.service.wait_empty()
    assert jobs(driver.service) == []


@pytest.mark.slow
def test_a_job_whose_supervisor_and_reaper_are_dead_is_orphaned_until_it_is_swept(
    account: Route, driver: Driver, planted: Plant
) -> None:
    seen = {one.pid: one for one in running(driver, planted, account)}
    driver.kill_with_reaper()
    (job,) = jobs(driver.service)
    assert (job["state"], job["reaper"]) == ("orphaned", None)
    # Its uppermost process has another parent by now.
    assert_is_the_tree(job["tree"], [now for pid in seen if (now := truth.look(pid))])
    assert "no reaper: run `corral sweep`" in ps(driver.service)[1]
    assert driver.service.sweep()[0] == 0
    assert jobs(driver.service) == []


@pytest.mark.slow
def test_a_record_of_which_nothing_lives_is_not_shown_and_not_removed(driver: Driver) -> None:
    """Showing changes nothing: clearing away is the sweep's."""
    driver.start_job(["/bin/sleep", "1000"])
    driver.kill_with_reaper()
    os.kill(driver.job["pid"], signal.SIGKILL)
    driver.service.wait_empty()
    assert jobs(driver.service) == []
    assert driver.record.exists()
    assert driver.service.sweep()[0] == 0
    assert not driver.record.exists()


def test_with_nothing_running_it_says_so(service: Service) -> None:
    assert ps(service) == (0, "no live jobs\n", "")
    assert jobs(service) == []


def test_a_ledger_that_others_may_write_to_is_refused_with_what_to_do(driver: Driver) -> None:
    driver.start_job(["/bin/sleep", "1000"])
    driver.record.parent.chmod(0o777)
    status, said, complaint = ps(driver.service)
    assert (status, said) == (1, "")
    assert complaint.startswith("corral: the ledger ")
    assert "chmod 700" in complaint


@pytest.mark.slow
class TestWhoseJobs:
    """Without --state-dir: the config says where they are, if this account may believe it."""

    def config(self, service: Service, owner: int, mode: int, text: str) -> dict[str, str]:
        folder = service.folder / "settings" / "corral"
        folder.mkdir(parents=True)
        file = folder / "corral.toml"
        file.write_text(text)
        file.chmod(mode)
        os.chown(file, owner, -1)
        return {"XDG_CONFIG_HOME": str(folder.parent), "XDG_STATE_HOME": str(service.state_dir)}

    @pytest.mark.cross_account
    @pytest.mark.parametrize("command", ["ps", "sweep", "reports", "history"])
    def test_where_it_may_not_read_the_services_config_it_says_that_its_own_are_meant(
        self, service: Service, command: str
    ) -> None:
        env = self.config(service, 0, 0o600, "[[people]]\nname = 'a'\n")
        done = service.run(service.corral(command), env=env)
        assert done.returncode == 0
        whose = f"corral: this shows only {service.account.name}'s own records, not the service's: /"
        assert done.stderr.startswith(whose)
        assert "may not read it" in done.stderr
        assert len(done.stderr.splitlines()) == 1

    @pytest.mark.cross_account
    def test_a_chat_that_may_not_read_the_services_config_says_that_no_service_is_there(self, service: Service) -> None:
        done = service.run(service.corral("chat"), env=self.config(service, 0, 0o600, PERSON))
        assert done.returncode == 1
        first, second, third = done.stderr.splitlines()
        assert first.startswith("corral: no service can be reached: there is no socket at /run/corral/corral.sock")
        assert "may not read it" in second
        assert "corral chat --user" in third

    @pytest.mark.parametrize("command", ["ps", "sweep"])
    def test_with_a_fault_in_its_own_config_it_does_not_say_that_nothing_is_left(
        self, service: Service, command: str
    ) -> None:
        env = self.config(service, service.account.uid, 0o600, "[[people]]\nnam = 'a'\n")
        done = service.run(service.corral(command), env=env)
        assert (done.returncode, done.stdout) == (1, "")
        assert "did you mean name?" in done.stderr

    @pytest.mark.parametrize("command", ["ps", "sweep"])
    def test_beside_the_services_jobs_it_knows_those_of_this_accounts_own_folder(
        self, service: Service, command: str
    ) -> None:
        env = self.config(
            service, service.account.uid, 0o600, f"[service]\nstate_dir = '{service.folder}/served'\n{PERSON}"
        )
        supervisor = service.start(service.corral("run", "--", "sleep", "1000"), env=env)

        def tree() -> list[dict[str, Any]]:
            done = service.run(service.corral("ps", "--json"), env=env)
            assert done.returncode == 0, done.stderr
            return [job for job in json.loads(done.stdout)["jobs"] if job["tree"]]

        (job,) = wait_until(tree, 20, "ps shows the job of `corral run`")
        if command == "sweep":
            os.kill(job["reaper"], signal.SIGSTOP)
            supervisor.kill()
            os.kill(job["reaper"], signal.SIGKILL)
            supervisor.wait(10)
            done = service.run(service.corral("sweep"), env=env)
            assert (done.returncode, done.stderr) == (0, "")
            assert job["id"] in done.stdout
        else:
            supervisor.terminate()
            supervisor.wait(10)
        service.wait_empty()


@pytest.mark.slow
class TestOutputThatIsNotTaken:
    @pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
    @pytest.mark.parametrize("options", [(), ("--json",)])
    def test_a_full_disk_is_a_sentence_and_a_status(self, service: Service, options: tuple[str, ...]) -> None:
        with Path("/dev/full").open("wb") as full:
            argv = service.corral("ps", "--state-dir", str(service.state_dir), *options)
            done = service.start(argv, stdout=full)
            complaint = done.communicate(timeout=30)[1].decode()
        assert done.returncode == 1
        assert complaint == "corral: what it has to say cannot be written: No space left on device\n"

    def test_a_letter_that_the_encoding_does_not_have_is_escaped(self, driver: Driver) -> None:
        name = driver.service.folder / "schl\xe4fer"
        name.symlink_to("/bin/sleep")
        driver.start_job([str(name), "1000"])
        argv = driver.service.corral("ps", "--state-dir", str(driver.service.state_dir))
        done = driver.service.run(argv, env={"PYTHONIOENCODING": "ascii"})
        assert (done.returncode, done.stderr) == (0, "")
        assert "schl\\xe4fer" in done.stdout
