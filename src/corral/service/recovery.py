"""What a service does about one that died before it: end what is left, and learn how it ended."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from corral.process import LedgerError, Report, SweepResult, sweep
from corral.service.starting import REPORTS
from corral.service.store import StoreError

if TYPE_CHECKING:
    from corral.service.store import Store

log = structlog.get_logger(__name__)

REPORT_BYTES = 16 * 2**20


async def recover(state_dir: Path, store: Store) -> SweepResult | None:
    """Mark the turns that were cut, sweep, and take the reports of the dead service's backends into the store.

    It takes as long as the sweep does, which the ladders of the swept jobs bound. A ledger that cannot be read is an
    error in the log: nothing can be done about it here, and nobody is kept from working.
    """
    try:
        await store.cut_turns()
    except StoreError as error:
        log.error("what was cut is not marked", error=str(error))
    result: SweepResult | None = None
    try:
        result = await asyncio.to_thread(sweep, state_dir)
    except LedgerError as error:
        log.error("not swept", error=str(error))
    if result is not None:
        for one in result.swept:
            log.info("swept", label=one.entry.label, account=one.entry.user, verdict=one.report.verdict)
        for held in result.held:
            log.error("still held by its reaper", label=held.label, account=held.user)
        for other in result.elsewhere:
            log.error("not swept", label=other.entry.label, account=other.entry.user, why=other.reason)
    try:
        await _take_in_reports(state_dir / REPORTS, store, result)
    except StoreError as error:
        log.error("reports were not taken in", error=str(error))
    return result


async def _take_in_reports(folder: Path, store: Store, result: SweepResult | None) -> None:
    swept = {one.entry.id: one.report for one in result.swept} if result is not None else {}
    for row in await store.lost_backends():
        file = folder / f"{row.job_id}.json"
        report = swept.get(row.job_id) or await asyncio.to_thread(_read, file)
        if report is not None:
            await store.report_found(row.id, report)
            log.info("backend ended", person=row.person, why="the service died", verdict=report.verdict)
        file.unlink(missing_ok=True)


def _read(file: Path) -> Report | None:
    try:
        if file.stat().st_size > REPORT_BYTES:
            return None
        return Report.from_json(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError) as error:
        if not isinstance(error, FileNotFoundError):
            log.warning("a report could not be read", file=str(file), error=str(error))
        return None
