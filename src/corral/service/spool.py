"""Reports that reapers leave in STATE_DIR/reports, whether or not the service lives, until the store has them."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import structlog

from corral.process import Report

log = structlog.get_logger(__name__)

FOLDER = "reports"
MOST_BYTES = 16 * 2**20
UNFINISHED_AGE = 3600.0  # seconds after which nobody writes to a file any more that was begun and not put in place


def place(state_dir: Path, job_id: str) -> Path:
    """Where the report of a job lies."""
    return state_dir / FOLDER / f"{job_id}.json"


def read(state_dir: Path, job_id: str) -> Report | None:
    """The job's report; None where there is none that can be read."""
    file = place(state_dir, job_id)
    try:
        if file.stat().st_size > MOST_BYTES:
            log.warning("a report could not be read", file=str(file), error="it is too large")
            return None
        return Report.from_json(json.loads(file.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        log.warning("a report could not be read", file=str(file), error=str(error))
        return None


def remove(state_dir: Path, job_id: str) -> None:
    """Remove the job's report; one that cannot be removed is found again by `waiting`."""
    with suppress(OSError):
        place(state_dir, job_id).unlink(missing_ok=True)


def waiting(state_dir: Path) -> Sequence[str]:
    """The ids of the jobs whose reports lie there. What reapers left half-written is removed. Raises OSError."""
    jobs = []
    for file in (state_dir / FOLDER).iterdir():
        if file.suffix == ".json":
            jobs.append(file.stem)
            continue
        with suppress(OSError):
            if file.name.startswith(".") and time.time() - file.lstat().st_mtime > UNFINISHED_AGE:
                file.unlink()
    return jobs
