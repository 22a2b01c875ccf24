"""A job in an event loop, beside other work: many callers, cancellation, streams, and what a command inherits."""

import asyncio
import gc
import os
import resource
import signal
import subprocess
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest

from corral.process import Job, Report, StartError
from corral.process.bare import lifeline
from tests.harness import truth
from tests.harness.waiting import until


def children() -> set[int]:
    """Children of this process, dead or alive."""
    found: set[int] = set()
    for task in Path("/proc/self/task").iterdir():
        with suppress(OSError):  # A thread that has gone since; its children are another's then.
            found.update(map(int, (task / "children").read_text().split()))
    return found


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.fixture(autouse=True)
async def _nothing_is_left() -> AsyncIterator[None]:
    """After each test: no child, living or dead, and no descriptor that was not there before."""
    before, adopted = descriptors(), children()
    yield

    def clean() -> bool:
        gc.collect()
        return children() <= adopted and descriptors() <= before

    await until(clean, 10, "children and descriptors are as before", lambda: f"{children()}")


async def test_any_number_of_callers_and_a_cancelled_one_share_one_report(tmp_path: Path) -> None:
    job = await Job.start(["sh", "-c", "trap '' TERM; sleep 1000 & wait"], grace=0.2, state_dir=tmp_path)
    callers = [asyncio.create_task(job.end()) for _ in range(20)]
    impatient = asyncio.create_task(job.end())
    await asyncio.sleep(0)
    impatient.cancel()
    reports = await asyncio.gather(*callers)
    assert impatient.cancelled()
    assert all(report is reports[0] for report in reports)
    assert await job.end() is reports[0]
    assert reports[0].verdict == "proven_empty"


async def test_a_later_caller_with_less_patience_is_heard(tmp_path: Path) -> None:
    job = await Job.start(["sh", "-c", "trap '' TERM; echo; sleep 1000"], grace=60, state_dir=tmp_path)
    assert job.stdout is not None
    await job.stdout.readline()
    patient = asyncio.create_task(job.end())
    async with asyncio.timeout(20):
        assert (await job.end(grace=0)) is (await patient)


async def test_a_cancelled_start_leaves_nothing(tmp_path: Path) -> None:
    before = children()
    for _ in range(10):
        start = asyncio.create_task(Job.start(["sleep", "4242.5"], state_dir=tmp_path))
        await asyncio.sleep(0.01)
        start.cancel()
        await asyncio.wait([start])
        if not start.cancelled():
            await start.result().end(grace=0)
        assert children() <= before, "neither command nor reaper is left, dead or alive"


async def test_a_job_that_is_ending_is_not_waited_for_to_stop(tmp_path: Path) -> None:
    stubborn = "trap 'echo asked' TERM; echo; while :; do sleep 0.1; done"
    job = await Job.start(["sh", "-c", stubborn], grace=60, state_dir=tmp_path)
    assert job.stdout is not None
    await job.stdout.readline()
    ending = asyncio.create_task(job.end())
    assert await job.stdout.readline() == b"asked\n"
    async with asyncio.timeout(5):
        await job.suspend()
    assert not ending.done()
    await job.end(grace=0)
    await ending


@pytest.mark.slow
async def test_a_reaper_that_cannot_look_stops_nobody_and_goes_on(tmp_path: Path) -> None:
    async with await Job.start(["sleep", "1000"], state_dir=tmp_path) as job:
        limits = resource.prlimit(job.reaper_pid, resource.RLIMIT_NOFILE)
        resource.prlimit(job.reaper_pid, resource.RLIMIT_NOFILE, (0, limits[1]))
        await job.suspend()
        assert job.report is None
        assert truth.look(job.pid).state == "S"
        resource.prlimit(job.reaper_pid, resource.RLIMIT_NOFILE, limits)
        await job.suspend()
        assert truth.look(job.pid).state == "T"
        job.resume()
    assert job.report is not None
    assert job.report.verdict == "proven_empty"


@pytest.mark.slow
async def test_a_reaper_that_may_open_nothing_still_hears_its_supervisor(tmp_path: Path) -> None:
    """With a limit of 0, poll(2) refuses to wait for any number of descriptors."""
    async with await Job.start(["sleep", "1000"], state_dir=tmp_path, kill=0.5) as job:
        hard = resource.prlimit(job.reaper_pid, resource.RLIMIT_NOFILE)[1]
        resource.prlimit(job.reaper_pid, resource.RLIMIT_NOFILE, (0, hard))
        ending = asyncio.create_task(job.end(grace=0))
        reaper = job.reaper_pid
        async with asyncio.timeout(10):
            report = await ending
        assert report.verdict == "survivors"
        resource.prlimit(reaper, resource.RLIMIT_NOFILE, (hard, hard))
        await until(lambda: truth.look(job.pid) is None, 10, "the tree was ended when the limit was lifted")


@pytest.mark.parametrize("cancelled", [False, True])
async def test_whoever_waits_for_a_job_hears_that_its_start_has_failed(cancelled: bool, tmp_path: Path) -> None:
    """They came while there was not yet a reaper that could tell them, and there never was one."""
    waiting: list[asyncio.Future[object]] = []
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)

    def wait_for(job: Job) -> None:
        waiting.extend(map(asyncio.ensure_future, (job.end(), job.ended(), job.wait())))
        # From here on no descriptor can be had.
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))

    starting = asyncio.ensure_future(Job.start(["sleep", "1000"], state_dir=tmp_path, prepared=wait_for))
    try:
        if cancelled:
            asyncio.get_running_loop().call_soon(starting.cancel)
        with pytest.raises(asyncio.CancelledError if cancelled else StartError):
            await starting
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    async with asyncio.timeout(10):
        heard = await asyncio.gather(*waiting, return_exceptions=True)
    assert [getattr(error, "kind", error) for error in heard] == ["fork"] * 3


async def test_the_event_loop_runs_on_while_a_tree_is_ended(tmp_path: Path) -> None:
    job = await Job.start(["sh", "-c", "trap '' TERM; echo; sleep 1000"], grace=0.5, state_dir=tmp_path)
    assert job.stdout is not None
    await job.stdout.readline()
    ending = asyncio.create_task(job.end())
    turns = 0
    while not ending.done():
        await asyncio.sleep(0.005)
        turns += 1
    assert turns > 20


async def test_leaving_the_block_ends_the_job(tmp_path: Path) -> None:
    async with await Job.start(["sleep", "1000"], state_dir=tmp_path) as job:
        pid = job.pid
    assert job.report is not None
    assert truth.look(pid) is None
    assert await job.wait() == -signal.SIGTERM


async def test_output_is_whole_and_an_unread_flood_holds_nothing_up(tmp_path: Path) -> None:
    quiet = await Job.start(["sh", "-c", "head -c 3000000 /dev/zero"], state_dir=tmp_path)
    assert quiet.stdout is not None
    assert len(await quiet.stdout.read()) == 3_000_000
    assert await quiet.wait() == 0
    async with await Job.start(["sh", "-c", "yes | cat"], state_dir=tmp_path) as loud:
        assert loud.stdout is not None
        await loud.stdout.read(1)
        assert (await loud.end(grace=1)).verdict == "proven_empty"


async def test_a_command_gets_its_three_streams_and_no_other_descriptor(tmp_path: Path) -> None:
    job = await Job.start(["ls", "/proc/self/fd"], state_dir=tmp_path)
    assert job.stdout is not None
    assert (await job.stdout.read()).split() == [b"0", b"1", b"2", b"3"], "3 is the folder that ls reads"
    await job.end()


async def test_a_command_starts_with_the_signals_of_a_plain_child(tmp_path: Path) -> None:
    def masks(status: str) -> list[str]:
        return [line for line in status.splitlines() if line.startswith(("SigBlk", "SigIgn", "SigCgt"))]

    job = await Job.start(["cat", "/proc/self/status"], state_dir=tmp_path)
    assert job.stdout is not None
    plain = await asyncio.to_thread(
        subprocess.run, ["cat", "/proc/self/status"], capture_output=True, text=True, check=True, timeout=10
    )
    assert masks((await job.stdout.read()).decode()) == masks(plain.stdout)
    await job.end()


async def test_signals_that_the_supervisor_has_blocked_reach_reaper_and_command(tmp_path: Path) -> None:
    blocked = {signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, blocked)
    try:
        async with await Job.start(["sh", "-c", "read line"], state_dir=tmp_path, grace=60) as job:
            assert job.stdin is not None
            job.stdin.close()
            async with asyncio.timeout(10):
                assert (await job.ended()).cause == "exit"
        async with await Job.start(["sleep", "1000"], state_dir=tmp_path, grace=60) as job:
            os.kill(job.reaper_pid, signal.SIGTERM)
            async with asyncio.timeout(10):
                assert (await job.ended()).cause == "signal"
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@pytest.mark.slow
async def test_a_stopped_reaper_is_given_its_time_and_then_inherited_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("corral.process.supervision._REAPER_MARGIN", 0.1)
    async with await Job.start(["sh", "-c", "trap '' TERM; sleep 1000"], state_dir=tmp_path, kill=0.5) as job:
        os.kill(job.reaper_pid, signal.SIGSTOP)
        report = await job.end(grace=0.1)
    assert report.ended_by == "supervisor"
    assert report.empty


DROPS_ITS_MARK = """
import os, resource, signal, sys
if os.fork(): os._exit(0)
os.setsid()
if os.fork(): os._exit(0)
os.setsid()
resource.setrlimit(15, (200_000, 200_000))
print(os.getpid(), flush=True)
signal.pause()
"""


async def test_a_daemon_that_lost_its_mark_is_still_told_from_the_supervisors_own_children(tmp_path: Path) -> None:
    """rtkit's clients lower that limit. The daemon is too young for the record, and its reaper is killed."""
    own = await asyncio.create_subprocess_exec("sleep", "1000", start_new_session=True)
    shell = "printf '%s' \"$1\" | python3 - & exec sleep 1000"
    async with await Job.start(["sh", "-c", shell, "-", DROPS_ITS_MARK], state_dir=tmp_path, grace=0.2) as job:
        assert job.stdout is not None
        daemon = int(await job.stdout.readline())
        os.kill(job.reaper_pid, signal.SIGKILL)
        report = await job.ended()
    assert truth.look(daemon) is None
    assert report.empty
    assert truth.look(own.pid) is not None, "the supervisor's own child is nobody's business"
    own.kill()
    await own.wait()


async def test_without_time_for_kill_there_is_still_one_round(tmp_path: Path) -> None:
    async with await Job.start(["sleep", "1000"], state_dir=tmp_path, kill=0) as job:
        report = await job.end(grace=0)
    assert [(sent.signal, sent.processes) for sent in report.signals] == [("KILL", 1)]
    assert report.verdict in {"proven_empty", "survivors"}


async def test_a_report_that_cannot_be_written_is_a_note_in_the_one_that_is_returned(tmp_path: Path) -> None:
    async with await Job.start(["sleep", "1000"], state_dir=tmp_path, report_file="/nonexistent/report") as job:
        report = await job.end()
    assert any("/nonexistent/report" in note for note in report.notes)


async def test_a_report_to_a_pipe_leaves_the_pipe_in_its_place(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reading = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    async with await Job.start(["true"], state_dir=tmp_path, report_file=pipe) as job:
        await job.ended()
    assert b"proven_empty" in os.read(reading, 65536)
    assert pipe.is_fifo()
    os.close(reading)


async def test_a_report_to_a_pipe_that_nobody_reads_keeps_nobody_waiting(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    async with await Job.start(["sleep", "1000"], state_dir=tmp_path, report_file=pipe) as job:
        async with asyncio.timeout(20):
            report = await job.end()
    assert report.verdict == "proven_empty"
    assert [note for note in report.notes if f"the report could not be written to {pipe}" in note], report.notes
    assert pipe.is_fifo()


async def test_a_report_to_a_pipe_that_is_full_is_not_taken_for_written(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    both = os.open(pipe, os.O_RDWR | os.O_NONBLOCK)
    with suppress(BlockingIOError):
        while True:
            os.write(both, b"x" * 4096)
    async with await Job.start(["sleep", "1000"], state_dir=tmp_path, report_file=pipe) as job:
        async with asyncio.timeout(20):
            report = await job.end()
    os.close(both)
    assert report.verdict == "proven_empty"
    assert [note for note in report.notes if f"the report could not be written to {pipe}" in note], report.notes


def test_a_report_larger_than_the_room_in_a_pipe_is_not_taken_for_written(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reading = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    told = Report("empty_by_scan", None, 0.0, notes=("n" * 1_000_000,)).written(str(pipe))
    os.close(reading)
    assert told.notes[1:], "half a report is none"
    assert told.notes[1].startswith(f"the report could not be written to {pipe}")


@pytest.mark.parametrize(
    "message",
    [
        b"\xff\xfe\0 not a message \x1b[2J\n",
        b"[]\n",
        b'{"end": "now"}\n',
        b'{"report": {}}\n',
        b"[" * 100_000 + b"\n",
        pytest.param(b"x" * (lifeline.MOST_BYTES + 1) + b"\n", marks=pytest.mark.slow),
    ],
    ids=["bytes", "no_object", "no_such_end", "no_such_message", "nested_too_deep", "too_long"],
)
async def test_a_message_that_a_reaper_does_not_understand_is_a_notice_and_costs_only_itself(
    message: bytes, tmp_path: Path
) -> None:
    async with await Job.start(["sleep", "1000"], state_dir=tmp_path) as job:
        reaper = job._supervision.reaper
        assert reaper is not None
        assert reaper.wire is not None
        assert reaper.wire.transport is not None
        reaper.wire.transport.write(message)
        await until(lambda: any("was not understood" in notice for notice in job.notices), 10, "the reaper said so")
        assert truth.look(job.pid) is not None, "the job goes on"
        report = await job.end()
    assert (report.verdict, report.proof, report.cause) == ("proven_empty", "no_children", "request")


async def test_an_end_that_comes_when_the_reaper_has_just_gone_has_the_reaper_s_report(tmp_path: Path) -> None:
    job = await Job.start(["sh", "-c", "read line"], state_dir=tmp_path)
    assert job.stdin is not None
    job.stdin.write(b"\n")
    # The loop stands still meanwhile: the reaper's last words are there and not read yet when `end` writes to it.
    os.waitid(os.P_PID, job.reaper_pid, os.WEXITED | os.WNOWAIT)  # noqa: ASYNC222 - on purpose
    report = await job.end()
    assert (report.ended_by, report.cause, report.verdict) == ("reaper", "exit", "proven_empty")
