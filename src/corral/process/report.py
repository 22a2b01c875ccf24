"""What a teardown knows when it is over, and how that is judged."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Sequence

from corral.process.typed import Any, NamedTuple

PROVEN_EMPTY = "proven_empty"
EMPTY_BY_SCAN = "empty_by_scan"
SURVIVORS = "survivors"

NO_CHILDREN = "no_children"
"""The proof by ECHILD: the kernel said that this child subreaper has no descendant left."""


class SignalCount(NamedTuple):
    """How many processes of an account were sent a signal."""

    signal: str
    account: str
    processes: int


class Survivor(NamedTuple):
    """A process that the teardown could not end."""

    pid: int
    start_time: int
    user: str
    state: str
    command: str
    reason: str
    """Why it lives, and the line or step that would help."""


class Report(NamedTuple):
    """The outcome of one ending. It never claims more than was seen."""

    verdict: str
    """`proven_empty`, `empty_by_scan` or `survivors`."""
    proof: str | None
    """`no_children`, `cgroup`, or None."""
    seconds: float
    signals: tuple[SignalCount, ...] = ()
    survivors: tuple[Survivor, ...] = ()
    cause: str = ""
    """Why the tree was ended: `exit` of the command, `request`, `lifeline` (the supervisor is gone), `signal` to the
    reaper, `failure` of the reaper's own, `reaper_died`, or `sweep`."""
    ended_by: str = "reaper"
    """Who ended it: `reaper`, `supervisor` or `sweep`."""
    notes: tuple[str, ...] = ()
    """What went wrong on the way without changing the verdict."""

    @property
    def empty(self) -> bool:
        return self.verdict != SURVIVORS

    def to_json(self) -> dict[str, Any]:
        """The JSON object of the contract; programs may rely on its keys."""
        return {
            **self._asdict(),
            "seconds": round(self.seconds, 6),
            "signals": [
                {"signal": sent.signal, "account": sent.account, "count": sent.processes} for sent in self.signals
            ],
            "survivors": [survivor._asdict() for survivor in self.survivors],
            "notes": list(self.notes),
        }

    def write(self, path: str) -> None:
        """Write the JSON to a file, whole or not at all; a pipe or a device is written to. Raises OSError.

        It never waits: a pipe that nobody reads, or that is full, is an error.
        """
        path = os.path.realpath(path)
        if os.path.exists(path) and not os.path.isfile(path):
            descriptor = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
            data = json.dumps(self.to_json()).encode() + b"\n"
            with os.fdopen(descriptor, "wb", buffering=0) as file:
                # Without a buffer a full pipe is no exception, but None; one with some room takes a part.
                if file.write(data) != len(data):
                    raise BlockingIOError(errno.EAGAIN, "nobody reads it, or not fast enough")
            return
        fresh = f"{path}.{os.getpid()}.new"
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                json.dump(self.to_json(), file, indent=2)
                file.write("\n")
            os.replace(fresh, path)
        except OSError:
            os.unlink(fresh)
            raise

    def written(self, path: str) -> Report:
        """Write it; the report again, with a note if that could not be done."""
        try:
            self.write(path)
        except OSError as error:
            return self._replace(notes=(*self.notes, f"the report could not be written to {path}: {error.strerror}"))
        return self

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Report:
        """The report again. Raises KeyError, TypeError or ValueError for what is not one."""
        known = {name: data[name] for name in cls._fields if name in data}
        known["signals"] = tuple(
            SignalCount(sent["signal"], sent["account"], sent["count"]) for sent in data["signals"]
        )
        known["survivors"] = tuple(Survivor(**survivor) for survivor in data["survivors"])
        known["notes"] = tuple(data.get("notes", ()))
        return cls(**known)


def judge(proof: str | None, empty: bool, survivors: Sequence[Survivor]) -> str:
    """The verdict. Only the kernel's own word may be called proof; a scan is a scan."""
    if not empty or survivors:
        return SURVIVORS
    return PROVEN_EMPTY if proof else EMPTY_BY_SCAN
