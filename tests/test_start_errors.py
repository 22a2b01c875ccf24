"""A command that cannot be started is a clear error at once, and leaves no process and no record."""

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Route
from tests.harness.driving import Driver, DriverError
from tests.harness.service import Service
from tests.harness.stage import Account
from tests.harness.waiting import wait_until

SudoRules = Callable[..., object]


def refused(driver: Driver, argv: list[str], user: str | None = None, **more: Any) -> DriverError:
    """Start it, and return the error; nothing may be left, and nothing of it in the ledger."""
    with pytest.raises(DriverError) as error:
        driver.start_job(argv, user, **more)
    driver.service.wait_empty(10, but=[driver.pid])
    jobs = driver.service.state_dir / "jobs"
    assert [path.name for path in jobs.glob("*.job")] == [] if jobs.exists() else True
    return error.value


def in_its_own_hands(pid: int) -> bool:
    """Whether the program has taken INT out of the interpreter's hands, which drop one at times while they import."""
    status = dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    caught = int(status["SigCgt"], 16) >> (signal.SIGINT - 1) & 1
    started = int(status["SigIgn"], 16) >> (signal.SIGPIPE - 1) & 1  # Python ignores it before it catches INT
    return bool(started and (not caught or Path(f"/proc/{pid}/task/{pid}/children").read_text()))


def test_a_command_that_does_not_exist(account: Route, driver: Driver) -> None:
    error = refused(driver, ["/nonexistent/agent", "--x"], account.user)
    assert error.kind in {"not_found", "sudo_rule"}
    assert "/nonexistent/agent" in str(error)


def test_a_name_that_is_not_on_path(driver: Driver) -> None:
    error = refused(driver, ["no-such-agent"])
    assert error.kind == "not_found"
    assert "PATH" in str(error)


@pytest.mark.cross_account
def test_a_name_that_sudo_does_not_find_although_it_may_run_anything(driver: Driver, sudo_rules: SudoRules) -> None:
    sudo_rules(commands=("ALL",))
    assert refused(driver, ["no-such-agent"], driver.service.stage.person.name).kind == "not_found"


@pytest.mark.parametrize("content", ["#!/nonexistent/interpreter\n", "not a program\n"], ids=["interpreter", "text"])
def test_a_file_that_is_no_program(content: str, driver: Driver) -> None:
    program = driver.service.folder / "agent"
    program.write_text(content)
    program.chmod(0o755)
    assert refused(driver, [str(program)]).kind == "not_executable"


def test_a_file_that_may_not_be_executed(driver: Driver) -> None:
    program = driver.service.folder / "agent"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o644)
    error = refused(driver, [str(program)])
    assert error.kind == "not_executable"
    assert "Permission denied" in str(error)


def test_an_account_that_does_not_exist(driver: Driver) -> None:
    error = refused(driver, ["/bin/true"], "no-such-account")
    assert error.kind == "unknown_user"
    assert "no-such-account" in str(error)


def test_a_folder_that_does_not_exist(driver: Driver) -> None:
    error = refused(driver, ["/bin/true"], cwd="/nonexistent/folder")
    assert error.kind == "cwd"
    assert "/nonexistent/folder" in str(error)


@pytest.mark.cross_account
def test_a_folder_that_this_account_may_not_enter(driver: Driver, person: Account) -> None:
    folder = driver.service.folder / "private"
    folder.mkdir(mode=0o700)
    os.chown(folder, person.uid, person.gid)
    error = refused(driver, ["/bin/true"], cwd=str(folder))
    assert error.kind == "cwd"
    assert "Permission denied" in str(error)


@pytest.mark.cross_account
def test_a_folder_that_the_person_may_not_enter(driver: Driver, person: Account) -> None:
    folder = driver.service.folder / "private"
    folder.mkdir(mode=0o700)
    os.chown(folder, driver.service.account.uid, driver.service.account.gid)
    error = refused(driver, [driver.service.python, "-c", ""], person.name, cwd=str(folder))
    assert error.kind == "cwd"
    assert f"{person.name} may not enter {folder}" in str(error)


@pytest.mark.cross_account
def test_a_folder_that_only_sudo_can_enter_needs_a_rule_and_works_with_it(
    driver: Driver, person: Account, sudo_rules: SudoRules
) -> None:
    folder = driver.service.folder / "home"
    folder.mkdir(mode=0o700)
    os.chown(folder, person.uid, person.gid)
    argv = [driver.service.python, "-I", "-c", "import os; open('here', 'w').write(os.getcwd())"]
    error = refused(driver, argv, person.name, cwd=str(folder))
    assert "CWD=*" in str(error)
    sudo_rules(command_tags="CWD=* NOPASSWD:")
    driver.start_job(argv, person.name, cwd=str(folder))
    assert driver.ask("wait") == 0
    assert (folder / "here").read_text() == str(folder)


@pytest.mark.cross_account
def test_a_variable_that_sudo_does_not_pass_on_names_setenv(driver: Driver, sudo_rules: SudoRules) -> None:
    argv, person = [driver.service.python, "-c", ""], driver.service.stage.person.name
    error = refused(driver, argv, person, env={"CODEX_HOME": "/tmp"})
    assert "NOPASSWD:SETENV:" in str(error)
    sudo_rules(command_tags="NOPASSWD:SETENV:")
    driver.start_job(argv, person, env={"CODEX_HOME": "/tmp"})
    assert driver.ask("wait") == 0


@pytest.mark.cross_account
def test_the_message_gives_the_line_that_makes_it_work(driver: Driver, sudo_rules: SudoRules, service: Service) -> None:
    argv, person = [service.python, "-c", ""], service.stage.person.name
    sudo_rules(commands=("/bin/false",))
    error = refused(driver, argv, person)
    line = f"{service.account.name} ALL=({person}) NOPASSWD: {service.python}"
    assert line in str(error)


def processes_of(uid: int) -> int:
    """Threads of an account, zombies included, as RLIMIT_NPROC counts them."""
    found = 0
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            status = dict(
                line.split(":\t", 1) for line in (folder / "status").read_text().splitlines() if ":\t" in line
            )
        except OSError:
            continue
        found += int(status["Threads"]) if int(status["Uid"].split()[0]) == uid else 0
    return found


@pytest.mark.cross_account
@pytest.mark.parametrize("room", [2, 3], ids=["for_the_reaper", "for_the_command"])
def test_a_host_without_room_for_another_process(room: int, service: Service) -> None:
    # The supervisor is two of them: its main thread, and the one that reads the orders. The dead that nobody waited for
    # count as well.
    room += processes_of(service.account.uid)
    program = str(service.stage.harness / "driver.py")
    with (service.folder / "driver.err").open("wb") as log:
        argv = ["/bin/bash", "-c", f'ulimit -u {room}; exec "$@"', "-", service.python, program]
        driver = Driver(service, service.start(argv, stderr=log))
    error = refused(driver, ["/bin/true"])
    assert error.kind == "fork"
    assert "limit" in str(error)


@pytest.mark.parametrize(
    ("argv", "more"),
    [([], {}), (["a\0b"], {}), (["/bin/true"], {"grace": -1}), (["/bin/true"], {"tracker": "none"})],
    ids=["no_command", "nul_byte", "negative_grace", "no_such_tracker"],
)
def test_bad_arguments_are_refused_before_anything_starts(
    argv: list[str], more: dict[str, Any], driver: Driver
) -> None:
    assert refused(driver, argv, **more).kind == "invalid"


class TestCorralRun:
    """Exit statuses of the contract."""

    def run(self, service: Service, *argv: str, options: tuple[str, ...] = ()) -> tuple[int, str]:
        done = service.run(service.corral("run", "--state-dir", str(service.state_dir), *options, "--", *argv))
        return done.returncode, done.stderr

    @pytest.mark.parametrize("status", [0, 3, 125])
    @pytest.mark.slow
    def test_the_commands_own_status(self, status: int, service: Service) -> None:
        assert self.run(service, "sh", "-c", f"exit {status}")[0] == status

    @pytest.mark.parametrize("number", [1, 9, 15])
    @pytest.mark.slow
    def test_128_and_the_signal_that_ended_it(self, number: int, service: Service) -> None:
        assert self.run(service, "sh", "-c", f"kill -{number} $$")[0] == 128 + number

    def test_127_for_a_command_that_is_not_found(self, service: Service) -> None:
        status, said = self.run(service, "no-such-agent")
        assert (status, said.startswith("corral: no-such-agent: command not found")) == (127, True)

    def test_126_for_a_file_that_cannot_be_executed(self, service: Service) -> None:
        assert self.run(service, "/etc/passwd")[0] == 126

    def test_125_for_a_failure_of_corral_itself(self, service: Service) -> None:
        status, said = self.run(service, "/bin/true", options=("--user", "no-such-account"))
        assert (status, "no-such-account" in said) == (125, True)

    @pytest.mark.parametrize("arguments", [["--no-such-option"], [], ["--grace", "x", "--", "true"]])
    @pytest.mark.slow
    def test_125_for_a_wrong_call(self, arguments: list[str], service: Service) -> None:
        assert service.run(service.corral("run", *arguments)).returncode == 125

    @pytest.mark.parametrize("streams", ["<&-", "<&- >&-", "<&- >&- 2>&-", "2>&-"])
    @pytest.mark.slow
    def test_closed_streams_of_the_caller_harm_nothing(self, streams: str, service: Service) -> None:
        corral = service.corral("run", "--state-dir", str(service.state_dir), "--", "sh", "-c", "sleep 1000 & exit 4")
        assert service.run(["sh", "-c", f'exec "$@" {streams}', "-", *corral]).returncode == 4
        service.wait_empty(5)

    @pytest.mark.slow
    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda one: one.name)
    def test_a_signal_that_comes_during_the_start_ends_the_job(self, number: signal.Signals, service: Service) -> None:
        for delay in range(12):
            program = service.start(service.corral("run", "--state-dir", str(service.state_dir), "--", "sleep", "1000"))
            wait_until(lambda pid=program.pid: in_its_own_hands(pid), 10, "corral has begun")
            time.sleep(delay * 0.03)  # what is tried here are moments, which no condition names
            program.send_signal(number)
            assert service.wait_exit(program) in (-number, 128 + signal.SIGTERM), "by it, or the command by TERM"
            service.wait_empty(5)

    def test_nohup_is_nohup_for_the_command_too(self, service: Service) -> None:
        corral = service.corral(
            "run", "--state-dir", str(service.state_dir), "--", "grep", "SigIgn", "/proc/self/status"
        )
        ignored = int(service.run(["nohup", *corral]).stdout.split()[1], 16)
        assert ignored & 1, "bit 0 is SIGHUP"

    def test_options_behind_the_command_are_the_commands(self, service: Service) -> None:
        status, _ = self.run(service, "sh", "-c", 'test "$1" = --help', "sh", "--help")
        assert status == 0

    def test_what_the_command_reads_and_writes_are_the_callers_streams(self, service: Service) -> None:
        done = service.run(
            service.corral("run", "--state-dir", str(service.state_dir), "--", "tr", "a-z", "A-Z"), text=b"corral"
        )
        assert done.stdout == "CORRAL"

    def test_the_report_is_written_where_it_was_asked_for(self, service: Service) -> None:
        file = service.state_dir / "report"
        self.run(service, "sh", "-c", "setsid sleep 1000 &", options=("--report", str(file), "--grace", "1"))
        report = json.loads(file.read_text())
        assert (report["verdict"], report["proof"], report["cause"]) == ("proven_empty", "no_children", "exit")
        assert {one["signal"] for one in report["signals"]} == {"TERM"}
        service.wait_empty(5)


def test_secrets_of_the_environment_appear_in_no_argument_list_and_no_record(driver: Driver) -> None:
    secret = "s3cret-value-of-a-token"
    driver.start_job([driver.service.python, "-c", "input()"], env={"TOKEN": secret, "PATH": "/usr/bin:/bin"})
    tree = [one["pid"] for one in driver.ask("tree")]
    lines = [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in (*tree, driver.job["reaper_pid"])]
    assert not any(secret.encode() in line for line in lines)
    assert secret.encode() not in Path(f"/proc/{driver.job['reaper_pid']}/environ").read_bytes()
    for record in (driver.service.state_dir / "jobs").glob("*"):
        assert secret.encode() not in record.read_bytes()
    driver.end()
