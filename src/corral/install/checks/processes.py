"""Agents of the people's accounts that nobody owns any more: what other supervisors left."""

from __future__ import annotations

import shlex

from corral.backends.programs import is_agent
from corral.install.finding import Findings, ok, skip, warn
from corral.install.subjects import Subjects
from corral.process import LedgerError, find_orphans, live_jobs
from corral.process.bare.host import host_table


def orphans(subjects: Subjects) -> Findings:
    """Report them, by the rule of `corral sweep --adopt`; nothing is ended here."""
    state_dir = subjects.config.service.state_dir
    try:
        jobs = live_jobs(state_dir)
    except LedgerError:
        yield skip("orphans", "the ledger cannot be read: they could not be told from jobs")
        return
    owned = {process.identity: f"job {job.entry.id}" for job in jobs for process in job.tree}
    table, clean = host_table(), True
    for account in sorted({person.os_user or subjects.service for person in subjects.config.people}):
        found = find_orphans(account, is_agent, owned=owned)
        command = f"corral sweep --user {shlex.quote(account)} --adopt"
        for one in found.orphans:
            clean = False
            words = table.command(one.root.pid) or one.root.comm
            yield warn(
                "orphans",
                f"pid {one.root.pid} of {account}, with {len(one.tree) - 1} below it, has no owner: {words[:120]}",
                f"{command} shows them, and ends them when told to",
                command,
            )
        for left in found.undecided:
            clean = False
            yield warn("orphans", f"pid {left.process.pid} of {account}: {left.reason}", f"{command} shows it")
        if found.blind:
            clean = False
            yield skip("orphans", f"processes of {account} may be hidden from {subjects.service} (hidepid)")
    if clean:
        yield ok("orphans", "no agent of these people's accounts is without an owner")
