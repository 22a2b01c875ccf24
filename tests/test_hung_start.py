"""A start that hangs (a program on a dead mount, a scanner, sudo) can be ended like any job, and loses nothing."""

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness import truth
from tests.harness.freezer import NoFreezerError, freezer
from tests.harness.scanner import NoScannerError, Scanner, scanner
from tests.harness.service import Service
from tests.harness.waiting import wait_until


@pytest.fixture
def program(service: Service) -> Path:
    """A program of the test's own, that every account may execute."""
    copy = service.folder / "agent"
    shutil.copy("/bin/sleep", copy)
    return copy


@pytest.fixture
def held(program: Path) -> Iterator[Scanner]:
    """Whoever executes the program hangs."""
    try:
        with scanner(program) as found:
            yield found
    except NoScannerError as error:
        pytest.skip(f"nothing here makes an exec hang: {error}")


def run(service: Service, program: Path, *options: str) -> tuple[subprocess.Popen[bytes], Path]:
    """`corral run` of the program, and the file of its report."""
    report = service.state_dir / "report.json"
    options = ("--state-dir", str(service.state_dir), "--report", str(report), *options)
    return service.start(service.corral("run", *options, "--", str(program), "1000")), report


def read(report: Path) -> dict[str, object]:
    return dict(json.loads(wait_until(lambda: report.exists() and report.read_text(), 20, "a report was written")))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda one: one.name)
def test_a_signal_to_corral_run_ends_a_start_that_hangs(
    number: signal.Signals, service: Service, program: Path, held: Scanner
) -> None:
    started, report = run(service, program, "--grace", "0.1")
    held.holds()
    started.send_signal(number)
    assert service.wait_exit(started, 10) == 128 + signal.SIGTERM
    assert read(report)["verdict"] == "proven_empty"
    service.wait_empty(5)


def test_a_killed_supervisor_ends_a_start_that_hangs(service: Service, program: Path, held: Scanner) -> None:
    started, report = run(service, program, "--grace", "0.1")
    held.holds()
    started.kill()
    assert (read(report)["verdict"], read(report)["cause"]) == ("proven_empty", "lifeline")
    service.wait_empty(5)


def test_term_to_the_reaper_ends_a_start_that_hangs(service: Service, program: Path, held: Scanner) -> None:
    started, report = run(service, program, "--grace", "0.1")
    seen = truth.look(held.holds())
    assert seen is not None
    os.kill(seen.parent, signal.SIGTERM)
    assert service.wait_exit(started, 10) == 128 + signal.SIGTERM
    assert (read(report)["verdict"], read(report)["cause"]) == ("proven_empty", "signal")


def test_a_reaper_that_is_killed_during_a_start_that_hangs_is_noticed(
    service: Service, program: Path, held: Scanner
) -> None:
    started, report = run(service, program, "--grace", "0.1")
    seen = truth.look(held.holds())
    assert seen is not None
    os.kill(seen.parent, signal.SIGKILL)
    assert service.wait_exit(started, 10) == 125, "before the 30 s that a start may take"
    assert (read(report)["verdict"], read(report)["cause"]) == ("proven_empty", "reaper_died")
    service.wait_empty(5)


def test_a_start_that_hangs_and_cannot_die_is_named_and_held(service: Service, program: Path, held: Scanner) -> None:
    try:
        with freezer(service.stage) as ice:
            started, report = run(service, program, "--grace", "0", "--kill", "0.2")
            pid = held.holds()
            ice.freeze(pid)
            started.terminate()
            assert service.wait_exit(started, 10) == 125
            assert started.stderr is not None
            (survivor,) = read(report)["survivors"]
            assert (survivor["pid"], survivor["state"]) == (pid, "D")
            assert list((service.state_dir / "jobs").glob("*.job")), "a sweep could still find it"
            ice.thaw()
            service.wait_empty()
            assert f"pid {pid}" in started.stderr.read().decode()
            assert read(report)["verdict"] == "proven_empty"
    except NoFreezerError as error:
        pytest.skip(f"nothing here can keep a process from dying: {error}")


def test_a_cancelled_start_does_not_wait_for_what_hangs(service: Service, program: Path, held: Scanner) -> None:
    code = """
import asyncio, sys
from corral.process import Job

async def main():
    starting = asyncio.create_task(Job.start([sys.argv[2], "1000"], state_dir=sys.argv[1]))
    await asyncio.to_thread(sys.stdin.readline)
    starting.cancel()
    await asyncio.wait([starting])
    print(starting.cancelled(), flush=True)

asyncio.run(main())
"""
    started = service.start([service.python, "-c", code, str(service.state_dir), str(program)])
    held.holds()
    assert started.stdin is not None
    assert started.stdout is not None
    started.stdin.write(b"\n")
    started.stdin.flush()
    assert started.stdout.readline() == b"True\n"
    assert service.wait_exit(started, 5) == 0
    service.wait_empty(2)


@pytest.mark.slow
def test_a_start_that_hangs_for_too_long_is_an_error_of_its_own(service: Service, program: Path, held: Scanner) -> None:
    code = """
import asyncio, sys
from corral.process import Job, StartError, supervision
supervision._START_WITHIN = 2.0  # seconds, of 30: time enough for a reaper to start up

async def main():
    try:
        await Job.start([sys.argv[2], "1000"], state_dir=sys.argv[1])
    except StartError as error:
        print(error.kind, error.report.verdict, error)

asyncio.run(main())
"""
    done = service.run([service.python, "-c", code, str(service.state_dir), str(program)])
    assert done.stdout.startswith("hung proven_empty"), (done.stdout, done.stderr)
    service.wait_empty(10)
