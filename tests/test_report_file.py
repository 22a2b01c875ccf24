"""The file of the report: whose it is, what is in its place before, and what others may have put there."""

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from corral.process import Job, Report, StartError
from corral.process.bare import report as reports
from tests.harness.driving import Driver
from tests.harness.service import Service
from tests.harness.stage import Account

REPORT = Report("proven_empty", "no_children", 0.1, job_id="6b0324a7-cb6e7e41", ended_at=1_795_368_103.2)
STALE = '{"verdict": "proven_empty", "job_id": "an earlier one"}'


def test_a_report_of_an_older_version_can_be_read() -> None:
    data = REPORT.to_json()
    del data["job_id"], data["ended_at"]
    old = Report.from_json(data)
    assert (old.verdict, old.job_id, old.ended_at) == ("proven_empty", "", 0.0)


def to_a_file(target: Path) -> None:
    target.write_text("precious")


def to_a_pipe(target: Path) -> None:
    os.mkfifo(target)


def to_nothing(_target: Path) -> None:
    pass


@pytest.mark.parametrize("make", [to_a_file, to_a_pipe, to_nothing])
@pytest.mark.parametrize("step", [lambda path: REPORT.write(path), reports.clear], ids=["write", "clear"])
def test_a_link_in_the_place_of_the_report_is_never_followed(
    make: Callable[[Path], None], step: Callable[[str], None], tmp_path: Path
) -> None:
    target, link = tmp_path / "target", tmp_path / "report.json"
    make(target)
    before = os.lstat(target) if os.path.lexists(target) else None
    link.symlink_to(target)
    step(str(link))
    assert not link.is_symlink()
    assert os.path.lexists(target) == (before is not None)
    if before is not None:
        assert os.path.samestat(os.lstat(target), before)
    if make is to_a_file:
        assert target.read_text() == "precious"
    left = {path.name for path in tmp_path.iterdir()} - {"target"}
    assert left == ({"report.json"} if link.exists() else set()), "nothing half written stays"
    assert not link.exists() or json.loads(link.read_text()) == REPORT.to_json()


def test_what_is_neither_a_file_nor_a_pipe_is_not_replaced(tmp_path: Path) -> None:
    folder = tmp_path / "report.json"
    folder.mkdir()
    assert any("neither a file nor a pipe" in note for note in REPORT.written(str(folder)).notes)
    with pytest.raises(OSError, match="neither"):
        reports.clear(str(folder))
    assert folder.is_dir()


def test_clearing_what_is_not_there_is_no_error(tmp_path: Path) -> None:
    reports.clear(str(tmp_path / "report.json"))
    reports.clear(str(tmp_path / "absent" / "report.json"))


@pytest.mark.cross_account
def test_root_does_not_replace_the_links_of_dev(service: Service) -> None:
    """In a mount namespace of its own, whose /dev may be lost."""
    program = (
        "import os; from corral.process.bare import report; one = report.Report('survivors', None, 0.0)\n"
        "print([one.written('/dev/stdout').notes])\n"
        "try: report.clear('/dev/stdout')\n"
        "except OSError as error: print(error.strerror)\n"
        "print(os.readlink('/dev/stdout'))"
    )
    script = 'mount -t tmpfs none /dev && ln -s /proc/self/fd/1 /dev/stdout && exec "$@"'
    argv = ["unshare", "--mount", "sh", "-euc", script, "-", service.python, "-c", program]
    done = service.start(argv, account=Account("root", 0, 0, service.home))
    out, err = done.communicate(timeout=30)
    assert done.returncode == 0, err
    lines = out.decode().splitlines()
    assert [line for line in lines if "--report - is standard output" in line] == lines[:2]
    assert lines[2:] == ["/proc/self/fd/1"]


@pytest.fixture
def shared(service: Service) -> Path:
    """A folder like /tmp, and the service's own file that others would like to have replaced."""
    folder = service.folder / "shared"
    folder.mkdir()
    folder.chmod(0o1777)
    (service.state_dir / "precious").write_text("precious")
    return folder


def as_person(service: Service, *argv: str) -> None:
    assert service.start(argv, account=service.stage.person).wait(10) == 0


def run_with_report(service: Service, file: Path) -> tuple[int, str]:
    state = ("--state-dir", str(service.state_dir))
    done = service.run(service.corral("run", *state, "--report", str(file), "--", "true"))
    return done.returncode, done.stderr


@pytest.mark.cross_account
@pytest.mark.parametrize("mode", [0o1777, 0o777], ids=["sticky", "not_sticky"])
def test_a_link_that_another_account_planted_leads_nowhere(service: Service, shared: Path, mode: int) -> None:
    shared.chmod(mode)
    file, target = shared / "report.json", service.state_dir / "precious"
    before = target.stat()
    as_person(service, "ln", "-s", str(target), str(file))
    status, said = run_with_report(service, file)
    assert (status, target.stat()) == (0, before)
    if mode == 0o777:
        assert json.loads(file.read_text())["verdict"] == "proven_empty"
    else:
        # Nobody may take another's file out of a sticky folder: it is said, twice, and the link stays.
        assert f"the report of an earlier run could not be removed from {file}" in said
        assert f"the report could not be written to {file}" in said
    assert file.is_symlink() == (mode == 0o1777)


@pytest.mark.cross_account
def test_a_pipe_that_another_account_planted_gets_no_report(service: Service, shared: Path) -> None:
    file = shared / "report.json"
    as_person(service, "mkfifo", "-m", "0666", str(file))
    reading = os.open(file, os.O_RDONLY | os.O_NONBLOCK)
    status, said = run_with_report(service, file)
    assert (status, os.read(reading, 65536)) == (0, b"")
    assert "another account's pipe" in said
    os.close(reading)


def test_the_report_of_an_earlier_run_is_gone_before_the_command_starts(driver: Driver) -> None:
    driver.report_file.write_text(STALE)
    os.chown(driver.report_file, driver.service.account.uid, driver.service.account.gid)
    driver.start_job(["sh", "-c", f"test ! -e {driver.report_file} && exec sleep 1000"])
    assert not driver.report_file.exists()
    driver.kill_with_reaper()
    status, result, _ = driver.service.sweep()
    assert (status, [one["report"]["job_id"] for one in result["swept"]]) == (0, [driver.job["id"]])
    assert not driver.report_file.exists(), "what there is was not written for this job"


@pytest.mark.parametrize(
    ("argv", "more"),
    [([], {}), (["sleep", "1"], {"grace": -1}), (["/nonexistent/command"], {}), (["sleep", "1"], {"user": "no such"})],
    ids=["no_command", "bad_grace", "not_found", "no_account"],
)
async def test_a_start_that_fails_leaves_no_report_of_an_earlier_run(
    argv: list[str], more: dict[str, Any], tmp_path: Path
) -> None:
    file = tmp_path / "report.json"
    file.write_text(STALE)
    with pytest.raises(StartError):
        await Job.start(argv, state_dir=tmp_path, report_file=file, **more)
    assert not file.exists() or json.loads(file.read_text())["job_id"] != "an earlier one"


@pytest.mark.parametrize("what", ["report_file", "state_dir", "cwd"])
async def test_a_nul_byte_in_a_path_is_refused_before_anything_runs(what: str, tmp_path: Path) -> None:
    with pytest.raises(StartError, match="NUL byte"):
        await Job.start(["sleep", "1000"], **{"state_dir": tmp_path, what: "a\0b"})


@pytest.mark.parametrize("killed", ["nobody", "supervisor", "reaper"])
def test_the_report_says_which_job_ended_and_when(killed: str, driver: Driver) -> None:
    before = time.time()
    job = driver.start_job(["sleep", "1000"])
    if killed == "supervisor":
        driver.program.kill()
    elif killed == "reaper":
        os.kill(job["reaper_pid"], signal.SIGKILL)
        driver.ask("ended")
    else:
        driver.end()
    report = driver.report_in_file()
    assert report["job_id"] == job["id"]
    assert before - 0.001 <= report["ended_at"] <= time.time() + 0.001
