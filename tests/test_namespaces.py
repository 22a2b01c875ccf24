"""A state folder that PID namespaces share: what cannot be looked for from one is never called gone there."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from corral.config import Config
from corral.install.checks import state
from corral.install.subjects import Subjects
from corral.process import Ladder, live_jobs, sweep
from corral.process.bare import ledger, mark, procfs
from corral.process.bare.ledger import Entry, Record
from corral.process.bare.table import UNKNOWN, Namespace
from corral.process.sweeping import SweepResult
from corral.service.recovery import recover
from corral.service.store.store import Store
from tests.harness import truth
from tests.harness.driving import Driver
from tests.harness.service import Service
from tests.harness.stage import Account
from tests.harness.waiting import until, wait_until

# Where a command is run from: what `unshare` is given.
ELSEWHERE = {
    "another_namespace": ["--pid", "--fork", "--mount-proc"],
    "another_clock": ["--time", "--boottime=1000", "--fork"],
}
OUTER_PROC = ["--pid", "--fork"]
# A job in a namespace whose process 1 is a shell; its supervisor prints the identities that the namespace gives them.
SUPERVISE = """
import asyncio, sys
from corral.process import Job

async def main():
    job = await Job.start(["sleep", "1000"], state_dir=sys.argv[1])
    print(job.id, flush=True)
    await job.ended()

asyncio.run(main())
"""


def corral_from(service: Service, place: list[str], *arguments: str) -> tuple[int, str, str]:
    """Run `corral … --json` as the service account from there; its status and what it said."""
    who = service.account
    drop = ["setpriv", f"--reuid={who.uid}", f"--regid={who.gid}", "--clear-groups"]
    argv = ["unshare", *place, *drop, *service.corral(*arguments, "--json"), "--state-dir", str(service.state_dir)]
    done = service.start(argv, account=Account("root", 0, 0, service.home))
    out, err = done.communicate(timeout=60)
    return done.returncode, out.decode(), err.decode()


@pytest.fixture(params=[True, False], ids=["living_job", "orphaned_job"])
def alive(request: pytest.FixtureRequest, driver: Driver) -> bool:
    """Whether the job that the driver has started still has its supervisor and its reaper."""
    job = driver.start_job(["sleep", "1000"])
    if not request.param:
        driver.kill_with_reaper()
        wait_until(lambda: truth.look(job["reaper_pid"]) is None, 20, "the reaper was dead")
    return bool(request.param)


@pytest.mark.cross_account
@pytest.mark.parametrize("place", ELSEWHERE)
@pytest.mark.slow
def test_a_sweep_from_elsewhere_leaves_the_job_and_its_record_and_says_so(
    place: str, alive: bool, service: Service, driver: Driver
) -> None:
    before = {one.pid for one in service.judge.alive()}
    status, out, err = corral_from(service, ELSEWHERE[place], "sweep")
    assert out, err
    result = json.loads(out)
    assert (status, result["clean"], result["swept"], result["held"], result["live"]) == (1, False, [], [], [])
    [left] = result["elsewhere"]
    assert left["id"] == driver.job["id"]
    assert "another PID namespace" in left["reason"]
    assert f"remove {driver.record}" in left["reason"]
    status, out, _ = corral_from(service, ELSEWHERE[place], "ps")
    [shown] = json.loads(out)["jobs"]
    assert (status, shown["id"], shown["state"], shown["tree"]) == (1, driver.job["id"], "elsewhere", [])
    assert driver.record.exists()
    assert {one.pid for one in service.judge.alive()} == before, "nobody was signalled"
    status, result, _ = service.sweep()
    assert (status, len(result["live"]), len(result["swept"])) == (0, int(alive), int(not alive))


@pytest.mark.cross_account
@pytest.mark.parametrize("command", ["sweep", "ps"])
@pytest.mark.slow
def test_with_the_proc_of_another_namespace_nothing_is_looked_for(
    command: str, alive: bool, service: Service, driver: Driver
) -> None:
    before = {one.pid for one in service.judge.alive()}
    status, out, err = corral_from(service, OUTER_PROC, command)
    assert (status, out) == (1, "")
    assert "/proc is of another PID namespace" in err
    assert driver.record.exists()
    assert {one.pid for one in service.judge.alive()} == before, "nobody was signalled"
    status, result, _ = service.sweep()
    assert (status, len(result["live"]), len(result["swept"])) == (0, int(alive), int(not alive))


@dataclass
class Container:
    """A PID namespace with a job in it, of whose supervisor and reaper nothing is left."""

    program: subprocess.Popen[bytes]
    state_dir: Path

    @property
    def record(self) -> Path:
        [file] = (self.state_dir / "jobs").glob("*.job")
        return file

    def end(self) -> None:
        self.program.kill()
        self.program.wait()
        wait_until(lambda: not self.below(), 20, "the namespace had ended")

    def below(self) -> list[truth.Seen]:
        marker = str(self.state_dir)
        return [one for pid in truth.pids() if (one := truth.look(pid)) and marker in one.command]


@pytest.fixture
def container(tmp_path: Path) -> Iterator[Container]:
    state_dir = tmp_path / "state"
    script = '"$@"; exec sh -c "sleep 1000; : $4"'
    python = [sys.executable, "-c", SUPERVISE, str(state_dir)]
    argv = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", script, "-", *python]
    program = subprocess.Popen(argv, stdout=subprocess.PIPE)
    found = Container(program, state_dir)
    assert program.stdout is not None
    assert program.stdout.readline()
    [supervisor] = [one for one in found.below() if one.name.startswith("python")]
    [reaper] = [row.pid for row in procfs.descendants(supervisor.pid) if row.comm == "corral-reaper"]
    os.kill(supervisor.pid, signal.SIGSTOP)
    os.kill(reaper, signal.SIGKILL)
    os.kill(supervisor.pid, signal.SIGKILL)
    wait_until(lambda: truth.look(supervisor.pid) is None, 20, "the supervisor was dead")
    yield found
    program.kill()
    program.communicate()


@pytest.fixture
def as_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the namespace of the tests for the host's: it shows every one that is made below it."""
    own = procfs.namespace()
    assert own is not None
    monkeypatch.setattr(procfs, "_INITIAL_NAMESPACE", own.pid)


@pytest.mark.cross_account
@pytest.mark.usefixtures("as_host")
def test_on_the_host_it_is_known_when_a_namespace_has_ended(
    container: Container, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert [one.entry.path for one in sweep(container.state_dir).elsewhere] == [str(container.record)]
    container.end()
    with monkeypatch.context() as patch:
        patch.setattr(procfs, "hides_others", lambda: True)
        assert len(sweep(container.state_dir).elsewhere) == 1, "what is hidden may be its process 1"
    # Its command line goes before the process does.
    wait_until(lambda: live_jobs(container.state_dir) == [], 20, "its process 1 was dead")
    path, result = container.record, sweep(container.state_dir)
    assert (result.clean, [one.report.verdict for one in result.swept]) == (True, ["empty_by_scan"])
    assert "the PID namespace that it ran in has ended" in result.swept[0].report.notes[0]
    assert not path.exists()


@pytest.mark.cross_account
def test_beside_a_namespace_it_is_not_known_when_that_has_ended(container: Container) -> None:
    container.end()
    result = sweep(container.state_dir)
    assert (result.clean, len(result.elsewhere)) == (False, 1)
    # The way out, for an operator who knows that the container is gone.
    assert result.elsewhere[0].reason.endswith(f"remove {container.record}")
    container.record.unlink()
    assert sweep(container.state_dir).clean


@pytest.mark.usefixtures("as_host")
def test_a_namespace_of_which_too_little_is_known_has_not_ended() -> None:
    own = procfs.namespace()
    assert own is not None
    assert procfs.has_ended(own._replace(pid=1, init=own.init + 1))
    assert not procfs.has_ended(own._replace(pid=1, init=own.init)), "its process 1 may be that one"
    assert not procfs.has_ended(own._replace(pid=1, init=UNKNOWN))
    assert not procfs.has_ended(own._replace(pid=1, time=1, init=own.init + 1)), "another clock counts otherwise"


HEADER: dict[str, Any] = {
    "supervisor": [2, 0],
    "reaper": [3, 0],
    "user": "daniel",
    "label": "",
    "command": "codex",
    "started": 1.0,
    "grace": 0.0,
    "kill": 5.0,
}


def record(folder: Path, *, members: list[tuple[int, int]], number: int = 0, **more: Any) -> Path:
    """A record of this boot whose supervisor and reaper are dead."""
    header = {**HEADER, "boot_id": procfs.boot_id(), "mark": number, **more}
    made = Record.create(str(folder), "one", header)
    made.add(members)
    made.close()
    return Path(made.path)


def summary(result: SweepResult) -> tuple[bool, int, int]:
    return result.clean, len(result.swept), len(result.elsewhere)


def test_a_namespace_with_the_same_inode_is_this_one_or_has_ended(tmp_path: Path) -> None:
    own = procfs.namespace()
    assert own is not None
    path = record(tmp_path, members=[], namespace=own._replace(init=own.init - 1))
    assert summary(sweep(tmp_path)) == (True, 1, 0)
    assert not path.exists()


@pytest.mark.parametrize("known", [{}, {"namespace": None}], ids=["older_version", "not_known"])
def test_a_record_that_names_no_namespace_stays_unless_its_processes_are_here(
    known: dict[str, None], tmp_path: Path
) -> None:
    number = mark.choose()
    program = (
        f"import resource, time; resource.setrlimit(15, ({number}, {number})); print(flush=True); time.sleep(1000)"
    )
    marked = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, start_new_session=True)
    assert marked.stdout is not None
    marked.stdout.readline()
    identity = (marked.pid, procfs.start_time(marked.pid) or 0)

    path = record(tmp_path, members=[(marked.pid, identity[1] - 1)], number=number, **known)
    [entry] = ledger.entries(str(tmp_path))
    assert isinstance(entry, Entry)
    assert entry.namespace is None
    assert summary(sweep(tmp_path)) == (False, 0, 1)
    path.unlink()
    path = record(tmp_path, members=[identity], number=number + 1, **known)
    assert summary(sweep(tmp_path)) == (False, 0, 1), "a pid and a time alone could be those of another namespace"
    assert marked.poll() is None
    path.unlink()
    path = record(tmp_path, members=[identity], number=number, **known)
    assert summary(sweep(tmp_path, ladder=Ladder(0, 10))) == (True, 1, 0)
    marked.communicate(timeout=10)
    assert marked.returncode == -signal.SIGKILL
    assert not path.exists()


async def test_a_service_leaves_the_records_of_another_namespace_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = record(tmp_path, members=[], namespace=Namespace(1, 1, 1))
    store = await Store.open(tmp_path)
    result = await recover(tmp_path, store)
    await store.aclose()
    assert result is not None
    assert len(result.elsewhere) == 1
    assert path.exists()
    assert "not swept" in capsys.readouterr().out


# A chat in a PID namespace of its own, with a conversation and a turn.
CHAT = """
import asyncio, sys, time
from pathlib import Path
from corral.service.store.store import Store

async def main():
    store = await Store.open(Path(sys.argv[1]), what="chat")
    conversation = (await store.new_conversation("anna", "codex", "")).id
    assert await store.claim(conversation)
    await store.turn_began(conversation, "anna")
    print(conversation, flush=True)
    time.sleep(1000)

asyncio.run(main())
"""


@pytest.fixture
def chat(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    argv = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", sys.executable, "-c", CHAT, str(tmp_path)]
    found = subprocess.Popen(argv, stdout=subprocess.PIPE)
    yield found
    found.kill()
    found.communicate()


@pytest.mark.cross_account
async def test_who_has_the_store_open_in_another_namespace_is_there_until_it_dies(
    tmp_path: Path, chat: subprocess.Popen[bytes]
) -> None:
    assert chat.stdout is not None
    conversation = chat.stdout.readline().decode().strip()
    [inner] = procfs.children(chat.pid) or ()
    store = await Store.open(tmp_path)
    assert not await store.claim(conversation), "another holds it, and lives"
    assert await store.cut_turns() == []
    chat.kill()
    # What it had started is killed with it, and is dead a moment later.
    await until(lambda: truth.look(inner) is None, 20)
    assert await store.claim(conversation)
    assert len(await store.cut_turns()) == 1
    await store.aclose()
    assert list(tmp_path.glob("instance-*")) == [], "nothing is left of the locks"


def test_the_doctor_says_which_jobs_cannot_be_looked_for(tmp_path: Path) -> None:
    record(tmp_path, members=[], namespace=Namespace(1, 1, 1))
    config = Config(service={"state_dir": tmp_path}, people=[{"name": "anna"}])
    [finding] = state.jobs(Subjects(config, "games", None, {}))
    assert finding.status == "warn"
    assert "another PID namespace" in finding.detail
