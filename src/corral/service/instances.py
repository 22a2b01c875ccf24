"""The processes that have the store open: a service, terminal chats. Others can tell whether one still lives."""

from __future__ import annotations

import fcntl
import os
import sqlite3
import time
import uuid
from contextlib import suppress
from pathlib import Path

from corral.process.bare.host import host_table
from corral.process.bare.table import ProcessTable, find_living

_locks: dict[str, int] = {}
"""The descriptors of this process's own locks, by entry."""


def register(connection: sqlite3.Connection, what: str) -> str:
    """Write this process down; the id of its entry. Raises OSError if its lock cannot be made."""
    table, pid, key = host_table(), os.getpid(), uuid.uuid4().hex
    _locks[key] = _make_lock(_lock_file(connection, key))
    try:
        connection.execute(
            "insert into instances (id, pid, start_time, boot_id, what, opened) values (?, ?, ?, ?, ?, ?)",
            (key, pid, table.start_time(pid) or 0, _scope(table), what, time.time()),
        )
    except sqlite3.Error:
        unlock(_folder(connection), key, left=True)
        raise
    return key


def leave(connection: sqlite3.Connection, instance: str) -> None:
    """This process has done with the store; once that is committed, `unlock`."""
    _remove_left_locks(connection)
    _close(connection, instance)


def unlock(folder: Path, instance: str, *, left: bool) -> None:
    """Release this process's lock. Its file stays unless `left` is committed: an open entry needs it."""
    if left:
        with suppress(OSError):
            (folder / _lock_name(instance)).unlink()
    if (descriptor := _locks.pop(instance, None)) is not None:
        os.close(descriptor)


def mark_dead(connection: sqlite3.Connection, but: str) -> None:
    """Write down which others have died since anybody looked, and that they hold nothing any more."""
    _remove_left_locks(connection)
    others = connection.execute("select id from instances where closed is null and id <> ?", (but,)).fetchall()
    for (key,) in others:
        if not is_there(connection, key):
            _close(connection, key)


def _close(connection: sqlite3.Connection, instance: str) -> None:
    connection.execute("update instances set closed = ? where id = ?", (time.time(), instance))
    connection.execute("update conversations set holder = null where holder = ?", (instance,))


def _remove_left_locks(connection: sqlite3.Connection) -> None:
    """Remove the locks of entries that an earlier transaction closed, or that never came to be."""
    kept = {_lock_name(key) for (key,) in connection.execute("select id from instances where closed is null")}
    for file in _folder(connection).glob(_lock_name("*")):
        if file.name not in kept:
            with suppress(OSError):
                file.unlink()


def is_there(connection: sqlite3.Connection, instance: str) -> bool:
    """Whether that process has the store open still."""
    row = connection.execute(
        "select pid, start_time, boot_id from instances where id = ? and closed is null", (instance,)
    ).fetchone()
    if row is None:
        return False
    pid, start_time, scope = row
    table = host_table()
    boot_id, _, namespace = scope.partition(" ")
    if boot_id == table.boot_id() and namespace and scope != _scope(table):
        # Its pid means nothing here (a container that shares the folder); the kernel's locks hold across namespaces.
        return _is_locked(_lock_file(connection, instance))
    return lives(pid, start_time, boot_id)


def _scope(table: ProcessTable) -> str:
    """The boot and the PID namespace, in which this process's pid means something."""
    namespace = table.namespace()
    # A name of its own where it is not known, so that nobody takes it for the same.
    return f"{table.boot_id()} {f'{namespace.pid}:{namespace.time}' if namespace is not None else uuid.uuid4().hex}"


def _lock_file(connection: sqlite3.Connection, instance: str) -> Path:
    return _folder(connection) / _lock_name(instance)


def _lock_name(instance: str) -> str:
    return f"instance-{instance}.lock"


def _folder(connection: sqlite3.Connection) -> Path:
    [file] = [file for _, name, file in connection.execute("pragma database_list") if name == "main"]
    return Path(file).parent


def _make_lock(path: Path) -> int:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        if os.geteuid() == 0:
            # As the database: what root makes in a service's folder must stay open to the service.
            folder = path.parent.stat()
            os.fchown(descriptor, folder.st_uid, folder.st_gid)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        path.unlink()
        raise
    return descriptor


def _is_locked(path: Path) -> bool:
    """Whether a process holds the lock, however it is hidden from this one. True if that cannot be found out."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False


def lives(pid: int, start_time: int, boot_id: str) -> bool:
    """Whether the process with that identity lives; also true for a pid of which the kernel shows no more."""
    table = host_table()
    if boot_id != table.boot_id():
        return False
    if find_living(table, (pid, start_time)) is not None:
        return True
    if table.read(pid) is not None:
        return False  # a zombie, or another process that has the pid now
    return _has_process(pid)


def _has_process(pid: int) -> bool:
    # hidepid shows nothing of another account's process, and this still does.
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
