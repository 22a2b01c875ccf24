"""The states of a job: which follows which, and what callers are told at each step."""

import asyncio
import ctypes
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from corral.process import Job, Report, StartError
from corral.process.lifecycle import Ended, Ending, Failed, Lifecycle, Running, Starting, State

COMMAND = (7, 1)
REPORT = Report("proven_empty", "no_children", 0.1)
OTHER = Report("survivors", None, 0.2)
ERROR = StartError("cwd", "the folder is gone")

STATES: list[State] = [Starting(), Running(COMMAND), Ending(COMMAND), Ended(REPORT), Failed(ERROR)]
STEPS: dict[str, Callable[[Lifecycle], None]] = {
    "end_later": lambda life: life.end_later(2.0),
    "run": lambda life: life.run(COMMAND),
    "refuse": lambda life: life.refuse(ERROR),
    "exit": lambda life: life.exit(0),
    "begin_ending": lambda life: life.begin_ending(),
    "end": lambda life: life.end(OTHER),
}
FOLLOWS: dict[str, list[State]] = {
    "end_later": [Starting(2.0), *STATES[1:]],
    "run": [Running(COMMAND), *STATES[1:]],
    "refuse": [Ending(), Ending(COMMAND), *STATES[2:]],
    "exit": [Starting(), Running(None), Ending(None), *STATES[3:]],
    "begin_ending": [Ending(), Ending(COMMAND), *STATES[2:]],
    "end": [Ended(OTHER), Ended(OTHER), Ended(OTHER), *STATES[3:]],
}


def life_in(state: State) -> Lifecycle:
    life = Lifecycle(asyncio.get_running_loop())
    if isinstance(state, (Running, Ending, Ended)):
        life.run(COMMAND)
    if isinstance(state, Ending):
        life.begin_ending()
    if isinstance(state, Ended):
        life.end(state.report)
    if isinstance(state, Failed):
        life.fail(state.error)
    assert life.state == state
    return life


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("number", range(len(STATES)), ids=[type(state).__name__ for state in STATES])
async def test_every_step_leads_from_every_state_to_one_state(step: str, number: int) -> None:
    life = life_in(STATES[number])
    STEPS[step](life)
    assert life.state == FOLLOWS[step][number]
    assert life.is_over == isinstance(life.state, (Ended, Failed))
    assert life.ending.is_set() == (life.state not in (Starting(), Running(COMMAND), Running(None)))
    for told in (life.started, life.exited, life.reported):
        if told.done():
            told.exception()


async def test_the_shortest_grace_of_several_early_ends_counts() -> None:
    life = life_in(Starting())
    for grace in (5.0, 1.0, 3.0):
        life.end_later(grace)
    assert life.state == Starting(1.0)


async def test_a_status_that_nobody_told_is_that_of_kill() -> None:
    life = life_in(Ended(REPORT))
    assert life.exited.result() == -signal.SIGKILL
    life.exit(0)
    assert life.exited.result() == -signal.SIGKILL, "callers were told"


async def test_an_end_before_anything_was_said_of_the_command_is_a_failed_start() -> None:
    life = life_in(Starting())
    life.end(OTHER._replace(notes=("no memory",)))
    with pytest.raises(StartError, match="could not be held: no memory"):
        life.started.result()


async def test_the_states_of_a_real_job(tmp_path: Path) -> None:
    seen: list[State] = []
    async with await Job.start(
        ["sh", "-c", "trap '' TERM; echo; sleep 1000"],
        state_dir=tmp_path,
        prepared=lambda job: seen.append(job._supervision.life.state),
    ) as job:
        assert job.stdout is not None
        await job.stdout.readline()
        seen.append(job._supervision.life.state)
        ending = asyncio.create_task(job.end(grace=0.2))
        await job.ending()
        seen.append(job._supervision.life.state)
        report = await ending
        seen.append(job._supervision.life.state)
    assert [type(state) for state in seen] == [Starting, Running, Ending, Ended]
    assert isinstance(seen[1], Running)
    assert seen[1].command is not None
    assert seen[1].command[0] == job.pid
    assert seen[3] == Ended(report)


class TestLifelineThatIsHeldOpen:
    """What a child of the reaper's does that hangs between fork and exec, which closes nothing."""

    SYS_PIDFD_GETFD = 438

    def hold(self, reaper: int) -> int:
        """The reaper's end of the lifeline, in this process as well."""
        folder = Path(f"/proc/{reaper}/fd")
        [number] = [int(one.name) for one in folder.iterdir() if str(one.readlink()).startswith("socket:")]
        pidfd = os.pidfd_open(reaper)
        try:
            held = ctypes.CDLL(None, use_errno=True).syscall(self.SYS_PIDFD_GETFD, pidfd, number, 0)
        finally:
            os.close(pidfd)
        if held < 0:
            pytest.skip(f"the kernel does not hand it out: {os.strerror(ctypes.get_errno())}")
        return int(held)

    async def test_the_death_of_the_reaper_is_heard_all_the_same(self, tmp_path: Path) -> None:
        job = await Job.start(["sleep", "1000"], state_dir=tmp_path)
        held = self.hold(job.reaper_pid)
        try:
            os.kill(job.reaper_pid, signal.SIGKILL)
            async with asyncio.timeout(20):
                report = await job.ended()
            assert (report.ended_by, report.empty) == ("supervisor", True)
        finally:
            os.close(held)

    async def test_its_last_words_are_heard_too(self, tmp_path: Path) -> None:
        job = await Job.start(["sleep", "1000"], state_dir=tmp_path)
        held = self.hold(job.reaper_pid)
        try:
            async with asyncio.timeout(20):
                report = await job.end()
            assert (report.ended_by, report.verdict, await job.wait()) == ("reaper", "proven_empty", -signal.SIGTERM)
        finally:
            os.close(held)

    async def test_its_last_words_are_heard_too_when_its_death_is_heard_first(self, tmp_path: Path) -> None:
        job = await Job.start(["sleep", "1000"], state_dir=tmp_path)
        reaper = job._supervision.reaper
        assert reaper is not None
        held = self.hold(job.reaper_pid)
        try:
            ending = asyncio.create_task(job.end())
            await asyncio.sleep(0)  # The request is sent. The loop stands still until the reaper is dead:
            os.waitid(os.P_PID, reaper.pid, os.WEXITED | os.WNOWAIT)  # noqa: ASYNC222 - which is what is tried here
            reaper._go()
            async with asyncio.timeout(20):
                report = await ending
            assert (report.ended_by, report.verdict) == ("reaper", "proven_empty")
        finally:
            os.close(held)
