"""A killed reaper, and a supervisor that has children of its own, or is itself in trouble: the tree is ended, strangers
are not touched, and whoever waits for the end hears of it."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from corral.process import Job, Report, StartError, inherit
from tests.harness import truth
from tests.harness.waiting import until

ROOT = Path(__file__).parent.parent
TREE = ["sh", "-c", "trap '' TERM; (setsid sleep 1000.5 &); echo; sleep 1000.5"]


async def start(state_dir: Path, **more: Any) -> Job:
    job = await Job.start(TREE, grace=0.1, kill=1.0, state_dir=state_dir, **more)
    assert job.stdout is not None
    await job.stdout.readline()
    return job


async def killed(job: Job) -> Any:
    os.kill(job.reaper_pid, signal.SIGKILL)
    async with asyncio.timeout(20):
        return await job.ended()


async def gone(pids: list[int]) -> None:
    await until(lambda: not [pid for pid in pids if truth.look(pid)], 20, "the tree had ended")


class Broken:
    """A function that fails until it is fixed."""

    def __init__(self, work: Callable[..., Any], error: Exception | None = None) -> None:
        self.fixed = False
        self._work = work
        self._error = error or RuntimeError("a fault")

    def __call__(self, *arguments: Any) -> Any:
        if not self.fixed:
            raise self._error
        return self._work(*arguments)


def limited_children() -> list[subprocess.Popen[bytes]]:
    """Children of this process with a limit of their own: one that goes on, and one that has ended with status 7."""
    limited = ["prlimit", "--rttime=200000:200000"]
    commands = (["sleep", "1000.25"], ["sh", "-c", "exit 7"])
    own = [subprocess.Popen([*limited, *command], start_new_session=True) for command in commands]
    os.waitid(os.P_PID, own[1].pid, os.WEXITED | os.WNOWAIT)
    return own


class TestTheSupervisorsOwnChildren:
    async def test_one_with_another_limit_is_left_alone_and_keeps_its_status(self, tmp_path: Path) -> None:
        sleeper, ended = limited_children()
        async with await start(tmp_path) as job:
            tree = [process.pid for process in job.tree()]
            report = await killed(job)
        assert (report.verdict, report.ended_by) == ("empty_by_scan", "supervisor")
        assert not [pid for pid in tree if truth.look(pid)]
        assert truth.look(sleeper.pid) is not None
        assert (sleeper.poll(), ended.poll()) == (None, 7)
        sleeper.kill()
        sleeper.wait()

    async def test_other_jobs_go_on(self, tmp_path: Path) -> None:
        other = await start(tmp_path)
        async with await start(tmp_path) as job:
            await killed(job)
        assert truth.look(other.pid) is not None
        assert truth.look(other.reaper_pid) is not None
        assert (await other.end(grace=0)).verdict == "proven_empty"


class TestShortOfDescriptors:
    def run(self, tmp_path: Path, *more: str) -> dict[str, Any]:
        program = [sys.executable, "-m", "tests.harness.short_of_descriptors", str(tmp_path), *more]
        done = subprocess.run(program, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        assert not done.stderr, "nothing died of it"
        found = dict(json.loads(done.stdout))
        assert found["tree"] == 3
        assert found["other"] == [True, True], "the other job goes on"
        assert found["own"] == [None, None, None, 7], "what the supervisor started itself goes on, or has its status"
        assert found["last"]["verdict"] == "proven_empty"
        return found

    def test_the_reserve_is_enough_to_end_the_tree(self, tmp_path: Path) -> None:
        found = self.run(tmp_path)
        report = found["report"]
        assert (report["verdict"], report["ended_by"], report["survivors"]) == ("empty_by_scan", "supervisor", [])
        assert found["status"] in {-signal.SIGKILL, 128 + signal.SIGKILL}, "the shell's, whose child was killed first"
        assert found["reserve"] == inherit._RESERVE

    @pytest.mark.slow
    def test_without_one_it_is_said_in_time_that_nobody_could_look_and_the_tree_is_ended_later(
        self, tmp_path: Path
    ) -> None:
        report = self.run(tmp_path, "without_reserve")["report"]
        assert (report["verdict"], report["proof"], report["survivors"]) == ("survivors", None, [])
        assert any("not possible to look" in note for note in report["notes"]), report
        assert report["seconds"] < 5


class TestFailuresOfTheEnding:
    """Whatever fails, and where: nobody waits for ever, and the tree is ended in the end."""

    @pytest.mark.parametrize("error", [MemoryError(), ValueError("a fault")], ids=["memory", "fault"])
    @pytest.mark.slow
    async def test_what_fails_for_a_while_is_tried_until_it_works(
        self, error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        broken = Broken(inherit.ledger.find, error)
        monkeypatch.setattr(inherit.ledger, "find", broken)
        job = await start(tmp_path)
        tree = [process.pid for process in job.tree()]
        report = await killed(job)
        assert await job.wait() == -signal.SIGKILL
        assert (report.verdict, report.proof, report.ended_by) == ("survivors", None, "supervisor")
        assert all(truth.look(pid) for pid in tree), "it says so because they live"
        broken.fixed = True
        await gone(tree)
        await until(lambda: not list(tmp_path.glob("jobs/*.job")), 20, "the record had gone")

    async def test_a_report_that_cannot_be_written_whatever_the_reason(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(*_: object) -> Report:
            raise RuntimeError("a fault")

        monkeypatch.setattr(Report, "written", fail)
        async with await start(tmp_path, report_file=tmp_path / "report") as job:
            tree = [process.pid for process in job.tree()]
            report = await killed(job)
        assert not [pid for pid in tree if truth.look(pid)]
        assert report.empty
        assert any("could not be written" in note for note in report.notes)

    async def test_no_room_for_a_thread(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(*_: object, **__: object) -> None:
            raise RuntimeError("can't start new thread")

        monkeypatch.setattr(inherit, "_start_thread", fail)
        async with await start(tmp_path) as job:
            tree = [process.pid for process in job.tree()]
            report = await killed(job)
        assert not [pid for pid in tree if truth.look(pid)]
        assert (report.ended_by, report.empty) == ("supervisor", True)

    @pytest.mark.slow
    async def test_no_room_for_the_thread_that_holds_survivors(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        start_thread, refused = inherit._start_thread, 0

        def refuse_once(work: Callable[[], object], name: str, *, daemon: bool) -> None:
            nonlocal refused
            if daemon and not refused:
                refused += 1
                raise RuntimeError("can't start new thread")
            start_thread(work, name, daemon=daemon)

        monkeypatch.setattr(inherit, "_start_thread", refuse_once)
        monkeypatch.setattr(inherit, "_THREAD_PAUSE", 0.01)
        broken = Broken(inherit.ledger.find)
        monkeypatch.setattr(inherit.ledger, "find", broken)
        job = await start(tmp_path)
        tree = [process.pid for process in job.tree()]
        assert (await killed(job)).verdict == "survivors"
        broken.fixed = True
        await gone(tree)
        assert refused

    @pytest.mark.parametrize(
        "message",
        [b'{"report": {}}', b'{"report": 7}', b'{"exited": "soon"}', b'{"started": 1}', b'{"error": null}', b"[]"],
    )
    async def test_a_message_of_the_reaper_that_makes_no_sense_costs_only_itself(
        self, message: bytes, tmp_path: Path
    ) -> None:
        async with await start(tmp_path) as job:
            reaper = job._supervision.reaper
            assert reaper is not None
            assert reaper.wire is not None
            reaper.wire.data_received(message + b"\n")
            assert truth.look(job.pid) is not None
            report = await job.end(grace=0)
        assert (report.verdict, report.ended_by) == ("proven_empty", "reaper")


@pytest.mark.parametrize(
    "more",
    [
        {"report_file": "a\0b"},
        {"report_file": "a\ud800b"},
        {"state_dir": "a\0b"},
        {"cwd": "/\0"},
        {"user": "a\0b"},
        {"env": {"A": "\ud800"}},
        {"grace": float("nan")},
        {"kill": float("inf")},
    ],
)
async def test_what_no_kernel_takes_is_refused_before_anything_starts(more: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(StartError) as refused:
        await Job.start(["sleep", "1000"], **{"state_dir": tmp_path, **more})
    assert refused.value.kind == "invalid"
    assert not list(tmp_path.glob("jobs/*"))


DROPS = """
import os, resource, signal, sys
if os.fork(): os._exit(0)
os.setsid()
if os.fork(): os._exit(0)
os.setsid()
for limit in map(int, sys.argv[1:]): resource.setrlimit(limit, (200_000, 200_000))
print(os.getpid(), flush=True)
signal.pause()
"""


@pytest.mark.parametrize("dropped", [["15"], ["10"], ["10", "15"]], ids=["rttime", "locks", "both"])
async def test_a_daemon_is_told_by_either_limit_and_one_that_dropped_both_is_nobodys(
    dropped: list[str], tmp_path: Path
) -> None:
    """It is too young for the record: the reaper is stopped before it starts."""
    shell = 'read line; "$@" & exec sleep 1000'
    command = ["sh", "-c", shell, "-", sys.executable, "-c", DROPS, *dropped]
    async with await Job.start(command, state_dir=tmp_path, grace=0.1, kill=1.0) as job:
        assert job.stdin is not None
        assert job.stdout is not None
        os.kill(job.reaper_pid, signal.SIGSTOP)
        job.stdin.write(b"\n")
        daemon = int(await job.stdout.readline())
        report = await killed(job)
    assert report.verdict in {"empty_by_scan", "proven_empty"}
    if len(dropped) == 1:
        assert truth.look(daemon) is None
        return
    assert truth.look(daemon) is not None, "nothing says that it is the job's"
    assert report.verdict == "empty_by_scan", "and nobody says that it is proven to be gone"
    os.kill(daemon, signal.SIGKILL)
    with suppress(ChildProcessError):  # It is this process's, if this process adopts orphans.
        os.waitid(os.P_PID, daemon, os.WEXITED)  # noqa: ASYNC222 - it was killed
