"""What a service does about one that died before it: end what is left, and learn how it ended."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, ParamSpec, TypeVar

import structlog

from corral.process import JobError, Report, SweepResult, sweep
from corral.process.bare import ledger
from corral.service import spool
from corral.service.store.store import StoreError
from corral.workers import Workers

if TYPE_CHECKING:
    from corral.service.store.store import Store

P = ParamSpec("P")
T = TypeVar("T")

log = structlog.get_logger(__name__)

NOTHING: Mapping[str, Report] = {}
SWEEP_TIMEOUT = 600.0  # seconds
FILE_TIMEOUT = 10.0  # seconds for one report, or for the list of them

_RECOVERING = Workers("corral-recover", usual=1, most=4)


async def recover(state_dir: Path, store: Store) -> SweepResult | None:
    """Mark the turns that were cut, sweep, and take the reports of the dead service's backends into the store.

    It takes as long as the sweep does, which the ladders of the swept jobs bound, but at most SWEEP_TIMEOUT. A
    ledger that cannot be read is an error in the log: nothing can be done about it here, and nobody is kept from
    working.
    """
    try:
        await store.cut_turns()
    except StoreError as error:
        log.error("what was cut is not marked", error=str(error))
    result: SweepResult | None = None
    try:
        result = await _RECOVERING.run(lambda: sweep(state_dir), SWEEP_TIMEOUT)
    # A ledger that cannot be used, a thread that cannot be had, a sweep that takes too long.
    except (JobError, OSError) as error:
        log.error("not swept", error=str(error))
    if result is not None:
        for one in result.swept:
            log.info("swept", label=one.entry.label, account=one.entry.user, verdict=one.report.verdict)
        for held in result.held:
            log.error("still held by its reaper", label=held.label, account=held.user)
        for other in result.elsewhere:
            log.error("not swept", label=other.entry.label, account=other.entry.user, why=other.reason)
        for bad in result.rejected:
            log.error("not swept: a record cannot be believed", file=bad.path, why=bad.reason, advice=bad.advice)
    swept = {one.entry.id: one.report for one in result.swept} if result is not None else {}
    await take_in_reports(state_dir, store, swept)
    return result


async def take_in_reports(state_dir: Path, store: Store, swept: Mapping[str, Report] = NOTHING) -> None:
    """Take what reapers of dead programs left into the store, and remove the files that nobody needs any more.

    `swept`: the reports of the jobs that a sweep has just ended, by their ids. What fails is an error in the log.
    """
    try:
        await _take_in(state_dir, store, swept)
        await _remove_known(state_dir, store)
    except FileNotFoundError:
        pass  # there never was a report
    except (StoreError, JobError, OSError) as error:
        log.error("reports were not taken in", error=str(error))


async def _take_in(state_dir: Path, store: Store, swept: Mapping[str, Report]) -> None:
    for row in await store.lost_backends():
        report = swept.get(row.job_id) or await _in_thread(spool.read, state_dir, row.job_id)
        if report is not None:
            await store.report_found(row.id, report)
            log.info("backend ended", person=row.person, why="the service died", verdict=report.verdict)


async def _remove_known(state_dir: Path, store: Store) -> None:
    waiting = await _in_thread(spool.waiting, state_dir)
    ended = await store.jobs(waiting)
    for job_id in waiting:
        if job_id in ended:
            if ended[job_id]:
                await _in_thread(spool.remove, state_dir, job_id)
        elif await _in_thread(_is_over, state_dir, job_id):
            # Its program could not write to the store: the log is the only place where this can be told.
            report = await _in_thread(spool.read, state_dir, job_id)
            if report is not None:
                log.warning("a backend without a record ended", job_id=job_id, verdict=report.verdict)
            await _in_thread(spool.remove, state_dir, job_id)


async def _in_thread(call: Callable[P, T], *arguments: P.args, **options: P.kwargs) -> T:
    return await _RECOVERING.run(partial(call, *arguments, **options), FILE_TIMEOUT)


def _is_over(state_dir: Path, job_id: str) -> bool:
    return not ledger.is_id(job_id) or ledger.find(str(state_dir), job_id) is None
