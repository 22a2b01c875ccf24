"""The processes that have the store open: a service, terminal chats. Others can tell whether one still lives."""

from __future__ import annotations

import os
import sqlite3
import time
import uuid

from corral.process.host import host_table
from corral.process.table import find_living


def register(connection: sqlite3.Connection, what: str) -> str:
    """Write this process down; the id of its entry."""
    table, pid, key = host_table(), os.getpid(), uuid.uuid4().hex
    connection.execute(
        "insert into instances (id, pid, start_time, boot_id, what, opened) values (?, ?, ?, ?, ?, ?)",
        (key, pid, table.start_time(pid) or 0, table.boot_id(), what, time.time()),
    )
    return key


def leave(connection: sqlite3.Connection, instance: str) -> None:
    """The process has done with the store, whether or not it lives on."""
    connection.execute("update instances set closed = ? where id = ?", (time.time(), instance))
    connection.execute("update conversations set holder = null where holder = ?", (instance,))


def bury(connection: sqlite3.Connection, but: str) -> None:
    """Write down which others have died since anybody looked, and that they hold nothing any more."""
    others = connection.execute(
        "select id, pid, start_time, boot_id from instances where closed is null and id <> ?", (but,)
    ).fetchall()
    for key, pid, start_time, boot_id in others:
        if not lives(pid, start_time, boot_id):
            leave(connection, key)


def is_there(connection: sqlite3.Connection, instance: str) -> bool:
    """Whether that process has the store open still."""
    row = connection.execute(
        "select pid, start_time, boot_id from instances where id = ? and closed is null", (instance,)
    ).fetchone()
    return row is not None and lives(*row)


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
