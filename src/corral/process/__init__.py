"""Start a command as a job, end it, and prove that nothing of it is left.

    async with await Job.start(["codex", "app-server"], user="daniel") as job:
        ...
    print(job.report.verdict)

The room stands on its own: it knows nothing of agents, people or chats, and needs the standard library only (psutil on
hosts without Linux's /proc). Names are loaded when they are first used, because the reaper's bare interpreter imports
this package too and needs none of asyncio.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


if TYPE_CHECKING:
    from corral.process.bare.ending import Ladder
    from corral.process.bare.errors import JobError, LedgerError, StartError
    from corral.process.bare.ledger import default_state_dir
    from corral.process.bare.report import Report, SignalCount, Survivor
    from corral.process.bare.table import Process
    from corral.process.job import DEVNULL, INHERIT, PIPE, Job
    from corral.process.job_list import LiveJob, live_jobs
    from corral.process.orphans import Found, LeftAlone, Orphan, end_orphans, find_orphans
    from corral.process.sweeping import SweepResult, sweep

__all__ = [
    "DEVNULL",
    "INHERIT",
    "PIPE",
    "Found",
    "Job",
    "JobError",
    "Ladder",
    "LedgerError",
    "LeftAlone",
    "LiveJob",
    "Orphan",
    "Process",
    "Report",
    "SignalCount",
    "StartError",
    "Survivor",
    "SweepResult",
    "default_state_dir",
    "end_orphans",
    "find_orphans",
    "live_jobs",
    "sweep",
]

_HOME = {
    "DEVNULL": "job",
    "INHERIT": "job",
    "PIPE": "job",
    "Found": "orphans",
    "Job": "job",
    "JobError": "bare.errors",
    "Ladder": "bare.ending",
    "LedgerError": "bare.errors",
    "LeftAlone": "orphans",
    "LiveJob": "job_list",
    "Orphan": "orphans",
    "Process": "bare.table",
    "Report": "bare.report",
    "SignalCount": "bare.report",
    "StartError": "bare.errors",
    "Survivor": "bare.report",
    "SweepResult": "sweeping",
    "default_state_dir": "bare.ledger",
    "end_orphans": "orphans",
    "find_orphans": "orphans",
    "live_jobs": "job_list",
    "sweep": "sweeping",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
