"""`corral serve` as process 1 of a container: it collects everybody's orphans, and takes nobody's status."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from corral.backends.backend import Input
from corral.config import load
from corral.install.checks import state
from corral.install.subjects import Subjects
from corral.service.store.records import endings
from tests.harness.daemon import Daemon, start, write_config
from tests.harness.waiting import until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0 or sys.platform != "linux", reason="only root can make a PID namespace"),
]

NAMESPACE = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child")


def inside(pid: int) -> list[tuple[int, int, str]]:
    """Pid, parent and state of all below the process whose namespace it is, by its own pids."""
    done = subprocess.run(
        ["nsenter", f"--target={pid}", "--pid", "--mount", "ps", "-eo", "pid=,ppid=,stat=,args="],
        capture_output=True,
        text=True,
        check=True,
    )
    rows = [line.split(maxsplit=3) for line in done.stdout.splitlines()]
    return [(int(pid), int(ppid), state) for pid, ppid, state, args in rows if "ps -eo" not in args]


def children(pid: int) -> list[int]:
    return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@contextmanager
def container(folder: Path, scene: str = "obey") -> Iterator[tuple[Daemon, int]]:
    """A service as process 1 of a namespace, and the pid that it has outside."""
    config = write_config(folder)
    config.write_text(config.read_text().replace('"obey"', f'"{scene}"'))
    daemon = start(folder, config, before=NAMESPACE)
    try:
        daemon.wait_logged("serving")
        (init,) = children(daemon.process.pid)
        yield daemon, init
    finally:
        if daemon.process.poll() is None:
            daemon.signal(signal.SIGKILL)  # --kill-child
            daemon.wait()


async def test_orphans_of_others_are_collected_and_agents_are_ended_and_proven_as_always(tmp_path: Path) -> None:
    with container(tmp_path) as (daemon, init):
        orphans = "for i in 1 2 3; do (setsid sleep 0.01 &); done; (setsid sleep 600 &)"
        enter = ["nsenter", f"--target={init}", "--pid", "--mount", "sh", "-c", orphans]
        await asyncio.to_thread(subprocess.run, enter, check=True)
        async with daemon.attached() as anna:
            anna.seat.send(Input("stray"))
            await anna.until(lambda: anna.text, "it runs")
            anna.seat.command("/stop")
            await anna.until(lambda: "backend_ended" in anna.ends, "its ending is over")
        await until(
            lambda: not [one for one in inside(init) if "Z" in one[2]], 10, "all the dead are collected", daemon.text
        )
        rows = inside(init)
        assert sorted(ppid for pid, ppid, _ in rows if pid != 1) == [1, 1], f"the service and one orphan: {rows}"
        os.kill(init, signal.SIGTERM)
        assert daemon.wait() == 0
        (ended,) = daemon.logged("backend ended")
        assert (ended["verdict"], ended["proof"]) == ("proven_empty", "no_children")
        assert [line for line in daemon.log if line["level"] == "error"] == []


def test_the_doctor_outside_takes_the_listener_for_the_service_that_it_is(tmp_path: Path) -> None:
    with container(tmp_path) as (daemon, _):
        config = load(tmp_path / "corral.toml")
        (found,) = state.socket(Subjects.of(config))
        assert (found.status, "another program" in found.detail) != ("error", True), found
        assert daemon.socket.is_socket()


async def test_when_the_service_is_killed_its_reapers_still_write_their_reports(tmp_path: Path) -> None:
    with container(tmp_path) as (daemon, init):
        async with daemon.attached() as anna:
            anna.seat.send(Input("stray"))
            await anna.until(lambda: anna.text, "it runs")
            (service,) = children(init)
            os.kill(service, signal.SIGKILL)
            assert daemon.wait() == 128 + signal.SIGKILL
    (report,) = (tmp_path / "state" / "reports").iterdir()
    assert json.loads(report.read_text())["verdict"] == "proven_empty"
    assert endings(tmp_path / "state").unknown, "until the next start"


async def test_only_a_signal_to_stop_cuts_the_wait_for_the_reapers_of_a_killed_service_short(tmp_path: Path) -> None:
    with container(tmp_path, "stubborn") as (daemon, init):
        async with daemon.attached() as anna:
            anna.seat.send(Input("work"))
            await anna.until(lambda: anna.text, "it works")
            (service,) = children(init)
            os.kill(service, signal.SIGKILL)
            await until(lambda: service not in children(init), 10, "process 1 has seen its end")
            for number in signal.SIGHUP, signal.SIGWINCH, signal.SIGUSR1:
                os.kill(init, number)
            daemon.wait()
    (report,) = (tmp_path / "state" / "reports").iterdir()
    assert json.loads(report.read_text())["verdict"] == "proven_empty"


def test_a_service_that_cannot_begin_ends_with_its_own_status(tmp_path: Path) -> None:
    config = write_config(tmp_path, more="[nonsense]")
    daemon = start(tmp_path, config, before=NAMESPACE)
    assert daemon.wait() == 1
    assert "nonsense" in daemon.text()


def test_the_doctor_sees_a_process_1_that_collects_nobody() -> None:
    look = "from corral.install.checks import host; print(*host.process_1(), sep='\\n')"
    # Process 1 of this namespace waits for the doctor alone, and has an orphan that is dead.
    first = (
        "import os, subprocess, sys, time\n"
        "subprocess.run(['sh', '-c', '(setsid true &)'])\n"
        "while not any('(true) Z 1 ' in open(f'/proc/{p}/stat').read() for p in os.listdir('/proc') if p.isdigit()):\n"
        "    time.sleep(0.01)\n"
        f"sys.exit(subprocess.run([sys.executable, '-c', {look!r}]).returncode)"
    )
    argv = [*NAMESPACE, sys.executable, "-c", first]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=True)
    assert "status='warn'" in done.stdout, done
    assert "does not collect what dies: 1 dead processes" in done.stdout
