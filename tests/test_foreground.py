"""`corral run` as people call it: in odd surroundings, and with its report where they ask for it."""

import json
import os
import signal
from pathlib import Path

import pytest

from tests.harness.service import Service
from tests.harness.stage import Account
from tests.harness.waiting import wait_until
from tests.test_odd_hosts import start_behind


def run(service: Service, *options: str, command: tuple[str, ...] = ("echo", "hello")) -> list[str]:
    return service.corral("run", "--state-dir", str(service.state_dir), *options, "--", *command)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda one: one.name)
@pytest.mark.slow
def test_signals_that_were_blocked_when_it_was_started_end_the_job(number: signal.Signals, service: Service) -> None:
    block = "import os, signal, sys; signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 32)); os.execv(*sys.argv[1:2], "
    there = service.folder / "there"
    command = run(service, command=("sh", "-c", f"touch {there}; exec sleep 1000"))
    program = service.start([service.python, "-c", block + "sys.argv[1:])", *command])
    wait_until(there.exists, 20, "the command ran")
    program.send_signal(number)
    assert service.wait_exit(program) == 128 + signal.SIGTERM


def test_a_sentence_that_nobody_reads_does_not_change_the_status(service: Service) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    argv = run(service, "--report", "/proc/nowhere/report", command=("sh", "-c", "exit 7"))
    program = service.start(argv, stderr=writing)
    os.close(writing)
    assert service.wait_exit(program) == 7


@pytest.mark.parametrize("files", [6, 8, 10])
@pytest.mark.slow
def test_too_few_descriptors_are_a_sentence_and_125(files: int, service: Service) -> None:
    done = service.run(["sh", "-c", f'ulimit -n {files}; exec "$@"', "-", *run(service)])
    assert (done.returncode, done.stdout) == (125, "")
    assert done.stderr.startswith("corral: this process may not open the files"), done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("files", [5, 7, 9, 11])
@pytest.mark.slow
def test_a_library_caller_with_too_few_descriptors_gets_a_start_error_or_a_job(files: int, service: Service) -> None:
    code = """
import asyncio, resource, sys
from corral.process import Job, StartError

async def main():
    used = len(__import__("os").listdir("/proc/self/fd")) - 1
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + int(sys.argv[2]) - 5, ) * 2)
    try:
        async with await Job.start(["/bin/true"], state_dir=sys.argv[1], stdin=None, stdout=None, stderr=None) as job:
            print(await job.wait())
    except StartError as error:
        print(error.kind)

asyncio.run(main())
"""
    done = service.run([service.python, "-c", code, str(service.state_dir), str(files)])
    assert done.stdout in {"0\n", "fork\n", "internal\n"}, done.stderr
    service.wait_empty(5)


class TestReport:
    """Where a report can go beside a file."""

    @pytest.mark.parametrize("name", ["-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"])
    @pytest.mark.slow
    def test_standard_output(self, name: str, service: Service) -> None:
        said = service.run(run(service, "--report", name)).stdout
        assert said.startswith("hello\n")
        assert json.loads(said.removeprefix("hello\n"))["verdict"] == "proven_empty"

    def test_standard_error(self, service: Service) -> None:
        said = service.run(run(service, "--report", "/dev/stderr")).stderr
        assert json.loads(said)["verdict"] == "proven_empty"

    def test_a_descriptor_of_the_shell(self, service: Service) -> None:
        file = service.folder / "report"
        done = service.run(["sh", "-c", f'exec 7>{file}; exec "$@"', "-", *run(service, "--report", "/dev/fd/7")])
        assert (done.returncode, json.loads(file.read_text())["verdict"]) == (0, "proven_empty")

    def test_a_descriptor_that_is_not_open_is_a_sentence(self, service: Service) -> None:
        done = service.run(run(service, "--report", "/dev/fd/77"))
        assert (done.returncode, done.stdout) == (0, "hello\n")
        assert done.stderr.startswith("corral: the report could not be written to descriptor 77: Bad file"), done.stderr


def test_the_tracker_subreaper_is_what_auto_is_here(service: Service) -> None:
    report = service.folder / "report"
    done = service.run(run(service, "--tracker", "subreaper", "--report", str(report)))
    assert (done.returncode, json.loads(report.read_text())["proof"]) == (0, "no_children")


@pytest.mark.cross_account
class TestProc:
    """A /proc that cannot be used is said to be that, and nothing is started, swept or shown by it."""

    ACTIONS = (("run", "--", "true"), ("sweep",), ("ps",))

    def check(self, service: Service, setup: str, arguments: tuple[str, ...], expected: str) -> None:
        command, *more = arguments
        program = start_behind(service, setup, service.corral(command, "--state-dir", str(service.state_dir), *more))
        _, said = program.communicate(timeout=30)
        assert (program.returncode, expected in said.decode()) == (125 if command == "run" else 1, True), said
        assert said.count(b"\n") == 1, said.decode()

    @pytest.mark.parametrize("arguments", ACTIONS, ids=lambda one: one[0])
    @pytest.mark.slow
    def test_only_processes_are_shown(self, arguments: tuple[str, ...], service: Service) -> None:
        self.check(service, "mount -t proc -o subset=pid proc /proc", arguments, "subset=pid")

    @pytest.mark.parametrize("arguments", ACTIONS, ids=lambda one: one[0])
    @pytest.mark.slow
    def test_another_pid_namespace_is_shown(self, arguments: tuple[str, ...], service: Service) -> None:
        enter = 'exec unshare --pid --fork --kill-child sh -euc \'exec setpriv --reuid "$1" --regid "$2" --clear-groups'
        who: Account = service.account
        setup = f'{enter} "${{@:3}}"\' - {who.uid} {who.gid} "$@"'
        command, *more = arguments
        argv = service.corral(command, "--state-dir", str(service.state_dir), *more)
        root = Account("root", 0, 0, Path("/"))
        program = service.start(["bash", "-euc", setup.replace("sh -euc", "bash -euc"), "-", *argv], account=root)
        _, said = program.communicate(timeout=30)
        assert (program.returncode, b"/proc is of another PID" in said) == (125 if command == "run" else 1, True), said
