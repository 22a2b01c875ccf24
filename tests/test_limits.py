"""Limits of a person's commands: they hold for the whole tree, and for nobody above it; and the tree is still ended."""

import os
import sys
from pathlib import Path

import pytest

from corral.process import Job, StartError
from tests.conftest import Route
from tests.harness import truth
from tests.harness.driving import Driver, DriverError
from tests.harness.service import Service
from tests.harness.stage import Account, Stage
from tests.harness.waiting import wait_until

MIB = 1 << 20
LINES = {
    "data": "Max data size",
    "processes": "Max processes",
    "open_files": "Max open files",
    "core": "Max core file size",
}
WAIT = "import time; time.sleep(1000)"
# Says so when its daemon runs, and then takes more than it may.
GREEDY = """
import os, subprocess, sys
subprocess.Popen(["sleep", "1000"], start_new_session=True)
held = []
try:
    while True:
        held.append(bytearray(8 << 20))
except MemoryError:
    open(sys.argv[1], "w").write(str(len(held) * 8))
    raise
"""
# Everybody forks until nobody can any more, and whoever cannot says so and goes on trying.
BOMB = """
import os, sys, time
while True:
    try:
        os.fork()
    except OSError:
        if not os.path.exists(sys.argv[1]):
            open(sys.argv[1], "w").close()
        time.sleep(0.02)
"""


def limits_of(pid: int) -> dict[str, tuple[str, str]]:
    """Soft and hard, by our names."""
    lines = Path(f"/proc/{pid}/limits").read_text().splitlines()
    found = {}
    for name, start in LINES.items():
        soft, hard = next(line for line in lines if line.startswith(start))[len(start) :].split()[:2]
        found[name] = (soft, hard)
    return found


def tasks_of(uid: int) -> int:
    """Processes and threads of an account, as the kernel counts them for RLIMIT_NPROC."""
    count = 0
    for pid in truth.pids():
        try:
            status = dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
            count += int(status["Threads"]) if int(status["Uid"].split()[0]) == uid else 0
        except (OSError, KeyError, ValueError):
            continue
    return count


@pytest.fixture
def uid(account: Route, stage: Stage) -> int:
    return stage.person.uid if account.user else stage.service.uid


def test_the_whole_tree_has_them_and_nobody_above_it(
    driver: Driver, service: Service, account: Route, uid: int
) -> None:
    before = limits_of(driver.pid)
    wanted = {"data": 900 * MIB, "processes": 5000, "open_files": 200, "core": 0}
    shell = f'{service.python} -c "{WAIT}" & wait'
    driver.start_job([service.python, "-c", f"import os; os.system('{shell}')"], user=account.user, limits=wanted)

    def sleepers() -> list[int]:
        below = [one["pid"] for one in driver.ask("tree") if one["uid"] == uid]
        return [pid for pid in below if (seen := truth.look(pid)) and WAIT in seen.command and "sh" not in seen.name]

    for pid in wait_until(sleepers, what="the command's child ran", picture=driver.picture):
        assert limits_of(pid) == {name: (str(value), str(value)) for name, value in wanted.items()}
    assert limits_of(driver.pid) == limits_of(driver.job["reaper_pid"]) == before
    assert driver.end()["verdict"] == "proven_empty"


def test_who_allocates_beyond_its_memory_fails_and_its_tree_ends_proven(
    driver: Driver, service: Service, account: Route
) -> None:
    held = service.folder / "held"
    driver.start_job([service.python, "-c", GREEDY, str(held)], user=account.user, limits={"data": 200 * MIB})
    assert driver.ask("wait") == 1
    assert 100 < int(held.read_text()) < 200
    report = driver.ask("ended")
    assert (report["verdict"], report["cause"]) == ("proven_empty", "exit")
    service.wait_empty(but=[driver.pid])


@pytest.mark.slow
def test_a_fork_bomb_stays_within_its_processes_and_is_ended_while_others_work_on(
    driver: Driver, service: Service, account: Route, uid: int, stage: Stage
) -> None:
    if uid == 0:
        pytest.skip("the kernel does not count the processes of root")
    full, room = service.folder / "full", 60
    most = tasks_of(uid) + room
    driver.start_job([service.python, "-c", BOMB, str(full)], user=account.user, limits={"processes": most})
    wait_until(full.exists, 30, "the account was full", driver.picture)
    tree = [one for one in driver.ask("tree") if one["uid"] == uid]
    assert room // 2 < len(tree) <= most
    # The bound is the tree's own: whoever else is of the account may start what it likes.
    others = service.start([service.python, "-c", "print(1)"], account=stage.person if account.user else None)
    assert service.wait_exit(others) == 0
    assert service.run(service.corral("ps", "--state-dir", str(service.state_dir))).returncode == 0
    report = driver.end()
    assert report["verdict"] == "proven_empty", report
    assert report["survivors"] == []
    service.wait_empty(but=[driver.pid])


@pytest.mark.cross_account
def test_another_persons_job_is_not_touched_by_a_full_account(
    driver: Driver, service: Service, person: Account, stage: Stage
) -> None:
    full = service.folder / "full"
    most = tasks_of(person.uid) + 40
    driver.start_job([service.python, "-c", BOMB, str(full)], user=person.name, limits={"processes": most})
    wait_until(full.exists, 30, "the account was full", driver.picture)
    argv = [service.python, "-c", "print('here')"]
    options = ("--user", stage.second_person.name, "--state-dir", str(service.state_dir))
    done = service.run(service.corral("run", *options, "--", *argv))
    assert (done.returncode, done.stdout) == (0, "here\n"), done
    assert driver.end()["verdict"] == "proven_empty"


@pytest.mark.parametrize(
    ("limits", "why"),
    [
        ({"memory": 1}, "there is no limit named 'memory': data, processes, open_files, core can be set"),
        ({"data": -1}, "the limit data cannot be -1"),
        ({"data": 1.5}, "the limit data cannot be 1.5"),
        ({"data": True}, "the limit data cannot be True"),
        ({"data": 2**64}, f"the limit data cannot be {2**64}"),
        ({"processes": "10"}, "the limit processes cannot be '10'"),
    ],
    ids=str,
)
async def test_what_is_no_limit_is_refused_in_words(limits: dict[str, int], why: str, tmp_path: Path) -> None:
    with pytest.raises(StartError) as raised:
        await Job.start([sys.executable, "-c", "pass"], limits=limits, state_dir=tmp_path)
    assert raised.value.kind == "limits"
    assert why in str(raised.value)


def test_more_than_the_service_may_have_itself_is_refused_and_the_own_bound_is_named(
    driver: Driver, service: Service, account: Route
) -> None:
    hard = int(limits_of(driver.pid)["open_files"][1])
    with pytest.raises(DriverError, match=f"no more than {hard}") as raised:
        driver.start_job(["/bin/true"], user=account.user, limits={"open_files": hard + 1})
    assert raised.value.kind == "limits"
    service.wait_empty(but=[driver.pid])


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may ask for more than it has; its bound is the kernel's own")
async def test_what_the_kernel_refuses_is_said_and_nothing_runs(tmp_path: Path) -> None:
    most = int(Path("/proc/sys/fs/nr_open").read_text())
    with pytest.raises(StartError, match=f"the kernel does not take the limits open_files {most + 1}") as raised:
        await Job.start([sys.executable, "-c", "pass"], limits={"open_files": most + 1}, state_dir=tmp_path)
    assert raised.value.kind == "limits"
