"""Running one command as a job in the foreground: what `corral run` does."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Sequence

from corral.process.errors import StartError
from corral.process.job import INHERIT, Job
from corral.process.report import Report

FAILED = 125
NOT_EXECUTABLE = 126
NOT_FOUND = 127

_STATUS_OF_KIND = {"not_found": NOT_FOUND, "not_executable": NOT_EXECUTABLE}
_ENDING_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


async def run(
    argv: Sequence[str],
    *,
    user: str | None,
    grace: float,
    kill: float,
    report_file: str | None,
    state_dir: str | None,
    tracker: str,
    say: Callable[[str], None],
) -> int:
    """Run argv over this process's standard streams until its tree is gone; the exit status of the contract.

    TERM, INT and HUP end the tree; a second one takes away the grace. `say` gets sentences for the person.
    """
    try:
        job = await Job.start(
            argv,
            user=user,
            stdin=INHERIT,
            stdout=INHERIT,
            stderr=INHERIT,
            grace=grace,
            kill=kill,
            report_file=report_file,
            state_dir=state_dir,
            tracker=tracker,
            label="run",
        )
    except StartError as error:
        say(str(error))
        return _STATUS_OF_KIND.get(error.kind, FAILED)
    report = await _until_ended(job)
    for notice in (*job.notices, *report.notes):
        say(notice)
    if not report.empty:
        for line in survivors_text(report):
            say(line)
        return FAILED
    status = await job.wait()
    return status if status >= 0 else 128 - status


async def _until_ended(job: Job) -> Report:
    loop = asyncio.get_running_loop()
    endings: set[asyncio.Task[Report]] = set()

    def end() -> None:
        endings.add(loop.create_task(job.end(grace=0 if endings else None)))

    for number in _ENDING_SIGNALS:
        loop.add_signal_handler(number, end)
    try:
        return await job.ended()
    finally:
        for number in _ENDING_SIGNALS:
            loop.remove_signal_handler(number)
        await asyncio.gather(*endings)


def survivors_text(report: Report) -> list[str]:
    """The survivors of a report, a line each, with what would help."""
    return [
        f"{len(report.survivors)} processes still run; their reaper holds them and goes on trying:",
        *(
            f"  pid {one.pid} ({one.user}, state {one.state}) {one.command[:80]}: {one.reason}"
            for one in report.survivors
        ),
    ]
