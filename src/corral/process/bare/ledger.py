"""The ledger: one small file per live job, so that a later start can finish what a dead supervisor left.

`STATE_DIR/jobs/ID.job` is written before the command starts and is appended to as the tree grows; it goes when the
tree is gone. Each line is a JSON object and its MAC under a key of the folder, so a file that was cut short, altered or
written by hand is told from a record, and nothing is done on its word. The writer holds a lock (flock) on the file for
as long as it lives, which the kernel lets go of however it dies: a record that can be locked has no reaper.

Nothing is synced to disk: what the sweep needs survives the death of every process, and a power cut ends the tree.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import sys
import time
from collections.abc import Iterable

from corral.process.bare.authentic import genuine_lines, sealed
from corral.process.bare.errors import LedgerError
from corral.process.bare.table import Identity, Namespace
from corral.process.bare.typed import Any, NamedTuple

_SUFFIX = ".job"
_FRESH = ".new"
"""Behind the name of a record, while a shorter one is written that will replace it."""
_KEY_NAME = "key"
_KEY_BYTES = 32
_MOST_BYTES = 64 * 1024 * 1024
_COMPACT_BYTES = 512 * 1024
_FORMAT = 1
_NAME = set("0123456789abcdefghijklmnopqrstuvwxyz-.")


class Entry(NamedTuple):
    """What a record says. Every line of it was checked against the key."""

    id: str
    path: str
    boot_id: str
    host_id: str | None
    """The host it ran on; None in the record of an older version."""
    namespace: Namespace | None
    """The PID namespace that its pids are of; None where that was not known, or in the record of an older version."""
    supervisor: Identity
    reaper: Identity
    user: str
    label: str
    command: str
    """The name of the program, without its arguments."""
    mark: int
    started: float
    """Seconds since the epoch."""
    grace: float
    kill: float
    members: frozenset[Identity]
    """Every process that was ever seen in the tree."""


class Rejected(NamedTuple):
    """A file of the ledger that is not a record, and why. Nothing is done on its word."""

    path: str
    reason: str

    @property
    def advice(self) -> str:
        """What to do with it: only a person can say that nothing of its job runs any more."""
        from shlex import quote  # not with the reaper: it imports re

        remove = "rm -r" if os.path.isdir(self.path) else "rm"
        return (
            "Its job may still run: look for its processes and end them, then remove the file "
            f"(`{remove} -- {quote(self.path)}`); until then every sweep has status 1"
        )


def default_state_dir() -> str:
    """The platform's folder for a user's state (XDG_STATE_HOME on Linux), with `corral` in it."""
    if sys.platform == "darwin":
        return os.path.expanduser("~/Library/Application Support/corral")
    base = os.environ.get("XDG_STATE_HOME", "")
    return os.path.join(base if os.path.isabs(base) else os.path.expanduser("~/.local/state"), "corral")


def new_id() -> str:
    """A job's id: the second it was made in, then random, so that names sort by age."""
    return f"{int(time.time()):08x}-{os.urandom(4).hex()}"


def is_id(text: str) -> bool:
    """Whether it can name a record."""
    return bool(text) and not set(text) - _NAME and not text.startswith(".")


class Record:
    """The open, locked record of a live job."""

    def __init__(self, folder: str, job_id: str, descriptor: int, key: bytes) -> None:
        self.path = _path(folder, job_id)
        self._id = job_id
        self._descriptor = descriptor
        self._key = key
        self._lines = 0
        self._size = 0
        self._header: dict[str, Any] = {}
        self._written: set[Identity] = set()

    @classmethod
    def create(cls, state_dir: str, job_id: str, header: dict[str, Any]) -> Record:
        """Write and lock a new record. Raises LedgerError, with nothing left behind, if that cannot be done."""
        folder = _prepare(state_dir)
        try:
            key = _load_key(folder, make=True)
            record = cls(folder, job_id, _create_locked(_path(folder, job_id)), key)
        except OSError as error:
            raise LedgerError(_cannot_write(folder, error)) from error
        try:
            record._begin(header)
        except OSError as error:
            record.remove()
            raise LedgerError(_cannot_write(folder, error)) from error
        return record

    def add(self, identities: Iterable[Identity]) -> None:
        """Append the members that are not in it yet. Raises OSError (disk full); they are tried again next time."""
        new = [identity for identity in identities if identity not in self._written]
        if new:
            self._append({"members": new})
            self._written.update(new)

    def compact(self, living: Iterable[Identity]) -> None:
        """Drop the dead once the file has grown large: a dead identity cannot live again. Raises OSError."""
        if self._size < _COMPACT_BYTES:
            return
        fresh = self.path + _FRESH
        descriptor = _create_locked(fresh)
        old, self._descriptor = self._descriptor, descriptor
        state = (self._lines, self._size, self._written)
        self._lines, self._size, self._written = 0, 0, set()
        try:
            self._begin(self._header)
            self.add(living)
            os.replace(fresh, self.path)
        except OSError:
            self._descriptor, (self._lines, self._size, self._written) = old, state
            os.close(descriptor)
            _unlink(fresh)
            raise
        os.close(old)

    def remove(self) -> None:
        """The tree is gone, and so is its record."""
        _unlink(self.path)
        self.close()

    def close(self) -> None:
        """Close the file and leave it. The lock is let go of when no process has it open any more."""
        os.close(self._descriptor)

    def _begin(self, header: dict[str, Any]) -> None:
        self._header = header
        self._append({"format": _FORMAT, "id": self._id, **header})

    def _append(self, content: dict[str, Any]) -> None:
        data = sealed(self._key, self._id, self._lines, content)
        try:
            written = os.write(self._descriptor, data)
            if written != len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError:
            # A line half written would end the record there for every reader.
            os.ftruncate(self._descriptor, self._size)
            os.lseek(self._descriptor, self._size, os.SEEK_SET)
            raise
        self._lines += 1
        self._size += len(data)


class Claim(NamedTuple):
    """A record that this process has locked: no reaper lives, and no other sweep is at it."""

    descriptor: int
    path: str

    def release(self, *, remove: bool) -> None:
        if remove:
            _unlink(self.path)
        os.close(self.descriptor)


def claim(path: str) -> Claim | None:
    """Lock a record, or None if its reaper (or another sweep) has it or it is gone."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(descriptor), os.stat(path)):
            return Claim(descriptor, path)
    except OSError:
        pass
    os.close(descriptor)
    return None


def entries(state_dir: str) -> list[Entry | Rejected]:
    """All records, oldest first. An absent folder holds none. Raises LedgerError for a folder that is not ours."""
    opened = _open(state_dir)
    if opened is None:
        return []
    folder, key = opened
    return [read(os.path.join(folder, name), key) for name in sorted(os.listdir(folder)) if name.endswith(_SUFFIX)]


def remove_leftovers(state_dir: str) -> None:
    """Remove what processes that were killed while they wrote have left: half a compacted record, half a key."""
    opened = _open(state_dir)
    if opened is None:
        return
    folder, _ = opened
    for name in os.listdir(folder):
        if name.endswith(_SUFFIX + _FRESH) or name.startswith(f".{_KEY_NAME}-"):
            # A writer locks it, as it does its record.
            left = claim(os.path.join(folder, name))
            if left is not None:
                left.release(remove=True)


def find(state_dir: str, job_id: str) -> Entry | None:
    """The record of one job, or None if there is none that can be believed. Raises LedgerError as `entries` does."""
    opened = _open(state_dir)
    if opened is None or not is_id(job_id):
        return None
    folder, key = opened
    entry = read(_path(folder, job_id), key)
    return entry if isinstance(entry, Entry) else None


def _open(state_dir: str) -> tuple[str, bytes] | None:
    """The folder of the records and its key, which is empty if it cannot be read. None for an absent folder."""
    folder = os.path.join(state_dir, "jobs")
    try:
        _check_folder(folder)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise LedgerError(
            f"the ledger {folder} cannot be read ({error.strerror}): ask as the account it belongs to"
        ) from error
    try:
        return folder, _load_key(folder, make=False)
    except OSError:
        return folder, b""


def read(path: str, key: bytes) -> Entry | Rejected:
    """Read one record, up to its first line that is not whole and genuine."""
    if set(os.path.basename(path)) - _NAME:
        return Rejected(path, "that is not the name of a record")
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        return Rejected(path, f"cannot be read: {error.strerror}")
    kind = os.fstat(descriptor)
    if not stat.S_ISREG(kind.st_mode) or kind.st_uid not in (os.geteuid(), 0):
        os.close(descriptor)
        return Rejected(path, "it is not a file of this account")
    with os.fdopen(descriptor, "rb") as file:
        lines = genuine_lines(file.read(_MOST_BYTES), key, os.path.basename(path).removesuffix(_SUFFIX))
    if not lines:
        return Rejected(path, "its first line is cut short, or was not written by corral with this folder's key")
    try:
        return _entry(path, lines)
    except (KeyError, TypeError, ValueError) as error:
        return Rejected(path, f"it is not a record of this version ({error!r})")


def _entry(path: str, lines: list[dict[str, Any]]) -> Entry:
    head = lines[0]
    if head["format"] != _FORMAT:
        raise ValueError(f"format {head['format']}")
    members = {(int(pid), int(start)) for line in lines[1:] for pid, start in line["members"]}
    return Entry(
        id=head["id"],
        path=path,
        boot_id=head["boot_id"],
        host_id=head.get("host_id"),
        namespace=_namespace(head.get("namespace")),
        supervisor=(head["supervisor"][0], head["supervisor"][1]),
        reaper=(head["reaper"][0], head["reaper"][1]),
        user=head["user"],
        label=head["label"],
        command=head["command"],
        mark=head["mark"],
        started=head["started"],
        grace=head["grace"],
        kill=head["kill"],
        members=frozenset(members),
    )


def _namespace(numbers: Any) -> Namespace | None:
    if numbers is None:
        return None
    pid, time, init = (int(number) for number in numbers)
    return Namespace(pid, time, init)


def _prepare(state_dir: str) -> str:
    folder = os.path.join(state_dir, "jobs")
    try:
        os.makedirs(folder, mode=0o700, exist_ok=True)
    except OSError as error:
        raise LedgerError(_cannot_write(folder, error)) from error
    _check_folder(folder)
    return folder


def _check_folder(folder: str) -> None:
    status = os.stat(folder)
    if status.st_uid != os.geteuid() or status.st_mode & 0o022:
        raise LedgerError(
            f"the ledger {folder} must belong to this account and be writable by nobody else: "
            f"chown it and chmod 700 it, or name another folder with --state-dir"
        )


def _load_key(folder: str, *, make: bool) -> bytes:
    path = os.path.join(folder, _KEY_NAME)
    try:
        key = _read_all(path)
    except FileNotFoundError:
        if not make:
            raise
        # Linked into place whole: two jobs that start at once end up with the same key.
        fresh = os.path.join(folder, f".{_KEY_NAME}-{os.getpid()}-{os.urandom(4).hex()}")
        try:
            descriptor = _create_locked(fresh)
            try:
                if os.write(descriptor, os.urandom(_KEY_BYTES)) != _KEY_BYTES:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from None
            finally:
                os.close(descriptor)
            try:
                os.link(fresh, path)
            except FileExistsError:
                pass
        finally:
            _unlink(fresh)
        key = _read_all(path)
    if len(key) != _KEY_BYTES:
        raise OSError(errno.EINVAL, f"{path} is not a key: remove it when no job is running")
    return key


def _path(folder: str, job_id: str) -> str:
    return os.path.join(folder, job_id + _SUFFIX)


def _read_all(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read(_MOST_BYTES)


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass


def _create_locked(path: str) -> int:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return descriptor


def _cannot_write(folder: str, error: OSError) -> str:
    return (
        f"the ledger {folder} cannot be written ({error.strerror}): without a record, a tree could not be found again "
        f"after a crash. Make room or fix it, or name another folder with --state-dir"
    )
