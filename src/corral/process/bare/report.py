"""What a teardown knows when it is over, and how that is judged."""

from __future__ import annotations

import errno
import json
import os
import stat
from collections.abc import Sequence

from corral.process.bare.typed import Any, NamedTuple

PROVEN_EMPTY = "proven_empty"
EMPTY_BY_SCAN = "empty_by_scan"
SURVIVORS = "survivors"

NO_CHILDREN = "no_children"
"""The proof by ECHILD: the kernel said that this child subreaper has no descendant left."""

_FOLDER_FLAGS = os.O_CLOEXEC | os.O_DIRECTORY | getattr(os, "O_PATH", os.O_RDONLY)


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
    job_id: str = ""
    """The job that was ended; '' where it was none (`corral sweep --adopt`)."""
    ended_at: float = 0.0
    """When the ending was over, in seconds since the epoch; 0 in the reports of older versions."""

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

        A symbolic link with that name is replaced, and what it points to stays as it is: in a folder that others may
        write to, anybody could have put it there. It never waits: a pipe that nobody reads, or that is full, is an
        error.
        """
        place = _Place(path)
        try:
            if place.is_stream():
                place.write_stream(json.dumps(self.to_json()).encode() + b"\n")
            else:
                place.replace(json.dumps(self.to_json(), indent=2).encode() + b"\n")
        finally:
            place.close()

    def written(self, path: str) -> Report:
        """Write it; the report again, with a note if that could not be done."""
        try:
            self.write(path)
        except OSError as error:
            return self._replace(notes=(*self.notes, f"the report could not be written to {path}: {error.strerror}"))
        except ValueError as error:  # a NUL byte in the name
            return self._replace(notes=(*self.notes, f"the report could not be written to {path!r}: {error}"))
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


def clear(path: str) -> None:
    """Remove the report of an earlier run: a file or a link; a pipe or a device stays. Raises OSError, ValueError."""
    try:
        place = _Place(path)
    except FileNotFoundError:
        return
    try:
        if not place.is_stream():
            place.remove()
    except FileNotFoundError:
        pass
    finally:
        place.close()


class _Place:
    """Where a report goes: a name in a folder that is held open. The name is never followed if it is a link."""

    def __init__(self, path: str) -> None:
        folder, self._name = os.path.split(path)
        self._is_dev = os.path.realpath(folder) == "/dev"
        self._folder = os.open(folder or ".", _FOLDER_FLAGS)

    def close(self) -> None:
        os.close(self._folder)

    def is_stream(self) -> bool:
        """Whether it is a pipe or a device, to be written to. Raises OSError for what must not be replaced."""
        try:
            found = os.stat(self._name, dir_fd=self._folder, follow_symlinks=False)
        except FileNotFoundError:
            return False
        if stat.S_ISREG(found.st_mode) or stat.S_ISLNK(found.st_mode):
            if self._is_dev and stat.S_ISLNK(found.st_mode):
                # /dev/stdout and its like are the system's, and root could replace them.
                raise OSError(errno.ELOOP, "it is a link of the system's: --report - is standard output")
            return False
        if not (stat.S_ISFIFO(found.st_mode) or stat.S_ISCHR(found.st_mode)):
            raise OSError(errno.EINVAL, "it is neither a file nor a pipe")
        folder = os.fstat(self._folder)
        # The rule of fs.protected_fifos, which the kernel applies only where a file would be made.
        open_to_all = folder.st_mode & stat.S_ISVTX and folder.st_mode & stat.S_IWOTH
        if open_to_all and found.st_uid not in (os.geteuid(), folder.st_uid):
            raise OSError(errno.EACCES, "it is another account's pipe in a folder that everybody may write to")
        return True

    def write_stream(self, data: bytes) -> None:
        flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(self._name, flags, dir_fd=self._folder)
        with os.fdopen(descriptor, "wb", buffering=0) as file:
            kind = os.fstat(descriptor).st_mode
            if not (stat.S_ISFIFO(kind) or stat.S_ISCHR(kind)):
                raise OSError(errno.EBUSY, "it was replaced meanwhile")
            # Without a buffer, a full pipe gives None and does not raise; one with some room takes a part.
            if file.write(data) != len(data):
                raise BlockingIOError(errno.EAGAIN, "nobody reads it, or not fast enough")

    def replace(self, data: bytes) -> None:
        fresh = f".corral-report-{os.urandom(8).hex()}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(fresh, flags, 0o600, dir_fd=self._folder)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
            os.replace(fresh, self._name, src_dir_fd=self._folder, dst_dir_fd=self._folder)
        except OSError:
            os.unlink(fresh, dir_fd=self._folder)
            raise

    def remove(self) -> None:
        os.unlink(self._name, dir_fd=self._folder)


def judge(proof: str | None, empty: bool, survivors: Sequence[Survivor]) -> str:
    """The verdict. Only the kernel's own word may be called proof; a scan is a scan."""
    if not empty or survivors:
        return SURVIVORS
    return PROVEN_EMPTY if proof else EMPTY_BY_SCAN
