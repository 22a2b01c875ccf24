"""`corral sweep --adopt`: agents that nobody owns, shown, and ended when somebody says so."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import typer

from corral.cli.common import say


def run(user: str, state_dir: Path | None, *, end: bool, as_json: bool) -> int:
    """Show the account's orphans, end them if that is wanted, and return the exit status."""
    from corral.backends.programs import is_agent
    from corral.display import processes
    from corral.process import JobError, end_orphans, find_orphans
    from corral.process.bare.host import host_table
    from corral.terminal import render

    owned = _of_the_ledger(state_dir)
    try:
        found = find_orphans(user, is_agent, owned=owned or {})
    except JobError as error:
        say(str(error))
        return 1
    document = found.to_json(host_table())
    if not as_json:
        render.show(processes.orphans(found))
        if found.orphans and owned is not None and not end and sys.stdin.isatty() and sys.stdout.isatty():
            end = typer.confirm("End them?")
    report = end_orphans(found) if end and owned is not None and found.orphans else None
    if as_json:
        document["report"] = report.to_json() if report is not None else None
        document["clean"] = found.is_clean(report)
        typer.echo(json.dumps(document, indent=2))
    elif report is not None:
        render.show(processes.report(report))
    return 0 if found.is_clean(report) else 1


def _of_the_ledger(state_dir: Path | None) -> dict[tuple[int, int], str] | None:
    """The processes of recorded jobs: a job is ended by its own means. None where they are not known."""
    from corral.process import LedgerError, live_jobs

    owned: dict[tuple[int, int], str] = {}
    try:
        jobs = live_jobs(state_dir)
    except LedgerError as error:
        say(f"what is shown may be a job's, so that nothing of it is ended: {error}")
        return None
    for job in jobs:
        how = "`corral sweep` without --adopt ends it" if job.state == "orphaned" else "`corral ps` shows it"
        owned |= dict.fromkeys((process.identity for process in job.tree), f"job {job.entry.id} has it: {how}")
    return owned
