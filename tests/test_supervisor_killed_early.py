"""The supervisor is killed while its reaper starts: nothing is started for the dead, and no record calls it alive."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from corral.process.bare import ledger
from tests.harness.service import Service
from tests.harness.waiting import wait_until

# Supervisors, one for each line of input, forked so that a reaper starts at once.
SUPERVISORS = """
import asyncio, os, sys
from corral.process import Job, reaper_process

reaper_process._BOOT = sys.argv[1] or reaper_process._BOOT

async def supervise(ran):
    argv = ["sh", "-c", 'echo > "$0"; exec sleep 1000', ran]
    async with await Job.start(argv, state_dir=sys.argv[2], report_file=ran + ".json") as one:
        await one.ended()

for line in sys.stdin:
    pid = os.fork()
    if pid == 0:
        asyncio.run(supervise(line.strip()))
        os._exit(0)
    print(pid, flush=True)
"""
# A boot that holds still at one moment, until the gate has been opened.
HELD = """
import os, runpy, sys

def hold():
    with open({ready!r}, "w") as file:
        file.write(str(os.getpid()))
    os.rename({ready!r}, {ready!r} + ".there")
    open({gate!r}).close()

def holding_after(owner, name):
    call = getattr(owner, name)
    def held(*arguments, **options):
        result = call(*arguments, **options)
        hold()
        return result
    setattr(owner, name, held)

sys.path.append({source!r})
if {moment!r} == "boot":
    hold()
else:
    from corral.process.bare import launch, ledger
    holding_after(*{{"record": (ledger.Record, "create"), "command": (launch.Launch, "run")}}[{moment!r}])
runpy.run_path({boot!r})
"""


@dataclass
class Supervisors:
    """A process that makes supervisors, of which each starts one job."""

    service: Service
    program: subprocess.Popen[bytes]

    def make(self, name: str) -> int:
        """The pid of a supervisor that starts its job now."""
        assert self.program.stdin is not None
        assert self.program.stdout is not None
        self.program.stdin.write(f"{self.ran(name)}\n".encode())
        self.program.stdin.flush()
        return int(self.program.stdout.readline())

    def ran(self, name: str) -> Path:
        """The file that the job's command makes first of all."""
        return self.service.folder / name

    def supervisors_in_records(self) -> set[int]:
        found = set()
        for file in (self.service.state_dir / "jobs").glob("*.job"):
            # Unless it is being written just now.
            if line := file.read_text().partition("\n")[0]:
                found.add(json.loads(line.rpartition(" ")[0])["supervisor"][0])
        return found

    def everybody(self) -> list[int]:
        return [one.pid for one in self.service.judge.alive(but=[self.program.pid])]


@pytest.fixture
def supervisors(service: Service) -> Callable[[str], Supervisors]:
    def start(boot: str = "") -> Supervisors:
        service.folder.chmod(0o777)
        argv = [service.python, "-c", SUPERVISORS, boot, str(service.state_dir)]
        return Supervisors(service, service.start(argv, stderr=subprocess.DEVNULL))

    return start


def held_boot(service: Service, moment: str) -> tuple[Path, Path, Path]:
    """The script, the gate, and the file in which the reaper says that it holds still."""
    script, gate, ready = (service.folder / name for name in ("boot.py", "gate", "ready"))
    os.mkfifo(gate)
    gate.chmod(0o666)
    words = {
        "ready": str(ready),
        "gate": str(gate),
        "moment": moment,
        "source": service.stage.python_path[0],
        "boot": f"{service.stage.python_path[0]}/corral/process/bare/boot.py",
    }
    script.write_text(HELD.format(**words))
    return script, gate, ready.with_suffix(".there")


@pytest.mark.parametrize("moment", ["boot", "record", "command"])
@pytest.mark.parametrize("reaper_too", [False, True], ids=["reaper_lives", "reaper_killed"])
@pytest.mark.slow
def test_a_supervisor_killed_at_one_moment_of_its_reapers_start(
    moment: str, reaper_too: bool, service: Service, supervisors: Callable[[str], Supervisors]
) -> None:
    script, gate, there = held_boot(service, moment)
    world = supervisors(str(script))
    pid = world.make("one")
    wait_until(there.exists, 20, "the reaper held still")
    reaper = int(there.read_text())
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: pid not in world.everybody(), 20, "the supervisor was dead")
    assert world.supervisors_in_records() <= {pid}
    if reaper_too:
        os.kill(reaper, signal.SIGKILL)
    else:
        with gate.open("w"):
            pass
    wait_until(lambda: reaper not in world.everybody(), 20, "the reaper had gone")
    if not reaper_too:
        report = json.loads((service.folder / "one.json").read_text())
        assert (report["verdict"], report["cause"]) == ("proven_empty", "lifeline")
        assert report["signals"] == [] or moment != "boot", "there was nobody to signal"
        assert world.everybody() == []
        assert not list((service.state_dir / "jobs").glob("*.job"))
    # Before the check the command is not started; after it, it may have been.
    assert not world.ran("one").exists() or moment == "command"
    status, result, _ = service.sweep()
    assert (status, world.everybody()) == (0, []), result
    assert not list((service.state_dir / "jobs").glob("*.job"))


@pytest.mark.slow
def test_a_supervisor_killed_at_any_moment_of_its_reapers_start(
    service: Service, supervisors: Callable[[str], Supervisors]
) -> None:
    world = supervisors("")
    made: set[int] = set()
    for number in range(30):
        pid = world.make(f"job-{number}")
        made.add(pid)
        time.sleep(number * 0.002)  # The stimulus: from before the reaper's first instruction to after its last.
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        os.kill(pid, signal.SIGKILL)
        if number % 2 and children:
            os.kill(int(children[0]), signal.SIGKILL)
        assert world.supervisors_in_records() <= made
    wait_until(lambda: not reapers(service), 30, "the reapers had gone")
    assert world.supervisors_in_records() <= made
    status, result, _ = service.sweep()
    assert (status, result["live"], result["held"]) == (0, [], []), result
    assert world.everybody() == []
    assert not list((service.state_dir / "jobs").glob("*.job"))


def reapers(service: Service) -> list[Any]:
    return [one for one in service.judge.alive() if "boot.py" in one.command]


@pytest.mark.cross_account
def test_a_reaper_that_is_not_its_supervisors_child_starts_nothing(service: Service) -> None:
    """As where root has unshared the PID namespace of its children: the supervisor is told, and not left to wait."""
    program = (
        "import asyncio, ctypes, sys; from corral.process import Job, StartError\n"
        "ctypes.CDLL(None).unshare(0x20000000)\n"
        "try: asyncio.run(Job.start(['true'], state_dir=sys.argv[1]))\n"
        "except StartError as error: print(error.kind, error)"
    )
    done = subprocess.run(
        [service.python, "-c", program, str(service.folder / "state-2")],
        env=service.env,
        capture_output=True,
        text=True,
        timeout=40,
        check=False,
    )
    assert "nothing was started" in done.stdout, done
    assert ledger.entries(str(service.folder / "state-2")) == []
