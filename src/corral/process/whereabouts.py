"""Whether the processes of a record can be looked for from here, have surely ended, or neither.

Pids and start times mean something in one boot and one PID namespace. A folder can be shared between namespaces (a
container that was started again, one beside it, the host) and between hosts (NFS), and from another one none of a
record's processes is found. So a boot that is not this one is an earlier boot only on the same host.
"""

from __future__ import annotations

from typing import NamedTuple

from corral.process.bare import mark as marks
from corral.process.bare.ledger import Entry
from corral.process.bare.table import Process, ProcessTable, find_living

HERE = "here"
ENDED = "ended"
ELSEWHERE = "elsewhere"

REAPER = "corral-reaper"
"""What the reaper names itself."""


class Whereabouts(NamedTuple):
    """Where the processes of a record are."""

    where: str
    """`here`, `ended` or `elsewhere`."""
    reason: str = ""
    """How it is known that they have ended; or why they cannot be looked for, and what to do."""


class Elsewhere(NamedTuple):
    """A record whose processes cannot be looked for from here. It was left as it is."""

    entry: Entry
    reason: str


def locate(table: ProcessTable, entry: Entry) -> Whereabouts:
    """Where the processes of a record are, as far as it is known."""
    if entry.boot_id != table.boot_id():
        if entry.host_id == table.host_id():
            return Whereabouts(ENDED, "it is of an earlier boot")
        return _elsewhere(entry, _another_host(entry))
    own = table.namespace()
    if own is None:
        return _elsewhere(
            entry,
            "/proc is not that of this command's own PID namespace: mount it (`mount -t proc proc /proc`), or run "
            "`corral sweep` where the job ran",
        )
    if entry.namespace is None:
        if _shows(table, entry):
            return Whereabouts(HERE)
        return _elsewhere(entry, "its record does not say which PID namespace it ran in, and none of it is seen here")
    # The inode may have been given anew. Then the job's namespace has ended, and looking here finds nothing of it.
    if (own.pid, own.time) == (entry.namespace.pid, entry.namespace.time):
        return Whereabouts(HERE)
    if table.has_ended(entry.namespace):
        return Whereabouts(ENDED, "the PID namespace that it ran in has ended, and everything in it")
    return _elsewhere(
        entry,
        f"it ran in another PID namespace (pid:[{entry.namespace.pid}]), whose processes cannot be told from here: run "
        "`corral sweep` there",
    )


def _another_host(entry: Entry) -> str:
    if entry.host_id is None:
        return "its record does not say which host it ran on, and it is not of this boot"
    return (
        f"it ran on another host ({entry.host_id}), which shares this folder or had it before: run `corral sweep` there"
    )


def _elsewhere(entry: Entry, why: str) -> Whereabouts:
    out = f"If that host, container or namespace has ended, nothing of the job is left: remove {entry.path}"
    return Whereabouts(ELSEWHERE, f"{why}. {out}")


def _shows(table: ProcessTable, entry: Entry) -> bool:
    """Whether one of its processes is here for sure, by more than a pid and a time that another could have as well."""
    reaper = find_living(table, entry.reaper)
    if reaper is not None and reaper.comm == REAPER:
        return True
    return any(_is_member(table, identity[0], entry) for identity in entry.members)


def _is_member(table: ProcessTable, pid: int, entry: Entry) -> bool:
    process: Process | None = table.read(pid)
    return process is not None and process.identity in entry.members and marks.carries(pid, entry.mark)
