"""Where /proc may hide processes (hidepid), not finding any means nothing, whichever account the job is of."""

import json
import os
import signal
from pathlib import Path

import pytest

from corral.process.bare import procfs
from tests.harness.driving import Driver
from tests.harness.service import Service
from tests.harness.stage import Account
from tests.harness.waiting import wait_until

pytestmark = pytest.mark.cross_account
PROC = "mount -t proc -o {} proc /proc"
# Adopted tells a job's orphans from the supervisor's own children: here is one.
WITH_A_CHILD = """
import subprocess, runpy, sys
child = subprocess.Popen(["sleep", "1000"])
sys.argv.pop(0)
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def behind(service: Service, options: str, argv: list[str], drop: str = "") -> list[str]:
    """The command line that runs it as the service account, with /proc mounted with these options."""
    who = service.account
    drop = drop or f"setpriv --reuid {who.uid} --regid {who.gid} --clear-groups"
    return ["unshare", "--mount", "sh", "-euc", f'{PROC.format(options)}\nexec {drop} "$@"', "-", *argv]


def start(service: Service, argv: list[str]) -> Driver:
    with (service.folder / "driver.err").open("wb") as log:
        return Driver(service, service.start(argv, account=Account("root", 0, 0, service.home), stderr=log))


@pytest.mark.parametrize(
    ("options", "drop", "hides"),
    [
        ("hidepid=0", "games", False),
        ("subset=pid", "games", False),
        *((f"hidepid={word}", "games", True) for word in ("1", "2", "4", "noaccess", "invisible", "ptraceable")),
        ("hidepid=2,subset=pid", "games", True),
        ("hidepid=2,gid=42", "games", True),
        ("hidepid=2,gid=42", "games --groups 42", False),
        ("hidepid=2", "games --groups 0", False),
        ("hidepid=1,gid=42", "games --groups 42", False),
        ("hidepid=4,gid=42", "games --groups 42", True),
        ("hidepid=2", "root", False),
        ("hidepid=4", "root", False),
        ("hidepid=4", "root --bounding-set -sys_ptrace", True),
        ("hidepid=2,gid=42", "root --bounding-set -sys_ptrace", True),
    ],
)
@pytest.mark.slow
def test_it_is_known_whether_any_process_may_be_hidden(service: Service, options: str, drop: str, hides: bool) -> None:
    name, _, more = drop.partition(" ")
    groups = "" if "--groups" in more else "--clear-groups"
    ids = f"--reuid {name} --regid {'root' if name == 'root' else 'games'}"
    # Two programs: capabilities that leave the bounding set are lost at the next exec.
    drop = f"setpriv {ids} {groups} {more}"
    stranger = service.start(["sleep", "1000"], account=service.stage.second_person)
    program = (
        "import sys; from corral.process.bare import procfs;print(procfs.hides_others(), procfs.read(int(sys.argv[1])))"
    )
    argv = behind(service, options, [service.python, "-c", program, str(stranger.pid)], drop)
    out, err = service.start(argv, account=Account("root", 0, 0, service.home)).communicate(timeout=30)
    assert out, err
    said, seen = out.decode().split(" ", 1)
    assert (said, seen.strip() == "None") == (str(hides), hides), "the kernel agrees"


def test_a_pid_1_of_ones_own_does_not_mean_that_all_are_shown(service: Service) -> None:
    """As in a container whose process 1 belongs to the service's account."""
    who = service.account
    drop = f"setpriv --reuid {who.uid} --regid {who.gid} --clear-groups"
    program = "import os; from corral.process.bare import procfs; print(os.getpid(), procfs.hides_others())"
    script = f'{PROC.format("hidepid=2")}; exec {drop} "$@"'
    argv = ["unshare", "--mount", "--pid", "--fork", "sh", "-euc", script, "-", service.python, "-c", program]
    out, err = service.start(argv, account=Account("root", 0, 0, service.home)).communicate(timeout=30)
    assert out.split() == [b"1", b"True"], err


def test_mount_options_are_those_of_the_device_and_an_unknown_one_is_an_error() -> None:
    line = "413 395 0:53 / /proc rw,relatime shared:1 - proc proc rw,gid=5,hidepid=invisible"
    other = "414 395 0:54 / /elsewhere/proc rw,relatime - proc proc rw"
    mountinfo = f"{other}\n{line}\n"
    assert procfs.mount_options(mountinfo, os.makedev(0, 53)) == {"rw": "", "gid": "5", "hidepid": "invisible"}
    assert procfs.mount_options(mountinfo, os.makedev(0, 54)) == {"rw": ""}
    with pytest.raises(ValueError, match="0:55"):
        procfs.mount_options(mountinfo, os.makedev(0, 55))


def own_job_with_sudo(service: Service, driver: Driver) -> None:
    """A job of the service's own account, whose command went on to another one by itself."""
    ready = service.folder / "ready"
    service.folder.chmod(0o777)
    program = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        f"open({str(ready)!r}, 'w').close(); time.sleep(1000)"
    )
    driver.start_job(["sudo", "-n", "-u", service.stage.person.name, "--", service.python, "-c", program], kill=1)
    wait_until(ready.exists, 20, "the command ran", driver.picture)


def records(service: Service) -> list[Path]:
    return list((service.state_dir / "jobs").glob("*.job"))


@pytest.mark.slow
def test_what_an_own_jobs_sudo_started_is_not_called_gone_by_the_sweep(service: Service) -> None:
    driver = start(service, behind(service, "hidepid=2", [service.python, str(service.stage.harness / "driver.py")]))
    own_job_with_sudo(service, driver)
    driver.kill_with_reaper()
    state = ("--state-dir", str(service.state_dir))
    sweep = start(service, behind(service, "hidepid=2", service.corral("sweep", "--json", *state))).program
    result = json.loads(sweep.communicate(timeout=60)[0])
    assert service.judge.alive()
    assert (sweep.returncode, result["clean"]) == (1, False)
    assert [one["report"]["verdict"] for one in result["swept"]] == ["survivors"]
    assert any("hidepid" in note for note in result["swept"][0]["report"]["notes"])
    assert records(service), "the record stays for a sweep that can see"
    ps = start(service, behind(service, "hidepid=2", service.corral("ps", "--json", *state))).program
    [shown] = json.loads(ps.communicate(timeout=60)[0])["jobs"]
    assert (ps.returncode, shown["state"], shown["tree"]) == (1, "orphaned", [])
    assert "hidepid" in shown["reason"]
    assert service.sweep()[0] == 0
    assert service.judge.alive() == []
    assert records(service) == []


def test_what_an_own_jobs_sudo_started_is_not_called_gone_by_the_supervisor(service: Service) -> None:
    program = [service.python, "-c", WITH_A_CHILD, str(service.stage.harness / "driver.py")]
    driver = start(service, behind(service, "hidepid=2", program))
    own_job_with_sudo(service, driver)
    os.kill(driver.job["reaper_pid"], signal.SIGKILL)
    report = driver.ask("ended")
    assert [one for one in service.judge.alive() if service.stage.person.uid in one.uids], "it ignores TERM"
    assert report["verdict"] == "survivors", report
    assert any("hidepid" in note for note in report["notes"])


def test_a_sweep_that_cannot_see_the_strays_of_a_rejected_file_is_not_clean(service: Service) -> None:
    jobs = service.state_dir / "jobs"
    jobs.mkdir(mode=0o700)
    (jobs / "hand.job").write_text("not a record")
    for path in (jobs, jobs / "hand.job"):
        os.chown(path, service.account.uid, service.account.gid)
    argv = service.corral("sweep", "--json", "--state-dir", str(service.state_dir))
    sweep = start(service, behind(service, "hidepid=2", argv)).program
    result = json.loads(sweep.communicate(timeout=60)[0])
    assert (sweep.returncode, result["clean"], result["blind"], result["strays"]) == (1, False, True, [])
    status, result, _ = service.sweep()
    assert (status, result["clean"], result["blind"]) == (1, False, False), "the file is still not understood"
    (jobs / "hand.job").unlink()
    assert service.sweep()[0] == 0
