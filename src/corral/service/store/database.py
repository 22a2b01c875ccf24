"""An SQLite file behind a thread of its own, where each transaction is one function: whole, or not at all.

The standard library's sqlite3, and not aiosqlite: that makes a round trip of each statement, and a task that is
cancelled between two of them leaves its transaction open. Here nothing can come between the statements, and its thread
keeps no process from ending.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import errno
import os
import sqlite3
import stat
import tempfile
import time
from collections.abc import Callable
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import Any, TypeVar

T = TypeVar("T")
Work = Callable[[sqlite3.Connection], T]
Order = tuple["concurrent.futures.Future[Any]", Callable[[], Any]]

BUSY = 5.0
"""Seconds that a transaction waits for another process's, which are all short."""
ANSWER = 15.0
"""Seconds until a caller is told that the store does not answer: a disk that hangs must not hold up a turn."""
AGAIN = 0.5
"""Seconds for either, once it was waited for in vain, until the store answers again: one turn waits, and not each."""
FAREWELL = 5.0
"""Seconds that closing may take; well within the shutdown of a service."""
CHECK = 2.0
"""Seconds for looking for damage when the file is opened; a large file is checked as far as that goes."""
_CHECK_STEPS = 10_000
"""Instructions of SQLite's virtual machine between two looks at the clock."""
_UNFINISHED = ".corral-store-"
_UNFINISHED_AGE = 3600.0  # seconds
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS)
"""What file systems without hard links answer."""


DAMAGED = (
    "it is damaged: move it out of the way together with its -wal and -shm, or put back a copy;"
    " without one a new store is begun"
)


class StoreError(Exception):
    """The store cannot be read or written; the message says why, and what to do. Callers can go on without it."""


class Database:
    """One connection; `open` makes it.

    A caller that is cancelled, or that was told that there is no answer, leaves no half of anything: what had begun is
    done whole. What had not begun is still done for one that was cancelled, and not for one that was told.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._orders: SimpleQueue[Order | None] = SimpleQueue()
        self._closing: concurrent.futures.Future[None] | None = None
        self._thread = Thread(target=_work, args=(self._orders,), name=f"store {path}", daemon=True)
        try:
            self._thread.start()
        except RuntimeError:
            raise StoreError(
                f"{path} cannot be had: the host refuses another thread: end some processes, or raise the limit"
            ) from None
        self._answers = True
        self._connection: sqlite3.Connection | None = None  # the thread's own, and so is the next
        self._held = False

    @classmethod
    async def open(cls, path: Path, create: Work[None], prepare: Work[None]) -> Database:
        """Open the file and run `prepare` on it first of all; a missing one is made by `create`. Raises StoreError."""
        database = cls(path)
        try:
            await database._answer(database._order(partial(database._connect, create, prepare)))
        except BaseException:
            database._close(lambda _connection: None)
            raise
        return database

    async def read(self, work: Work[T]) -> T:
        """Ask without a transaction: for one statement. Raises StoreError."""
        return await self._answer(self._order(lambda: work(self._connected())))

    async def write(self, work: Work[T]) -> T:
        """Run the function in a transaction that has the file's one write lock. Raises StoreError."""
        return await self._answer(self._order(lambda: self._transaction(work)))

    def later(self, work: Work[object]) -> None:
        """Write when its turn comes; nobody learns what became of it. After the end it is nothing at all."""
        if self._closing is None:
            self._order(lambda: self._transaction(work))

    async def aclose(self, farewell: Work[object]) -> bool:
        """Do what was asked so far, then `farewell` as the last write, and close; whether that was written.

        Waits for FAREWELL, and no longer.

        It raises nothing: what could not be written at the end is what the next start finds out for itself.
        """
        try:
            async with asyncio.timeout(FAREWELL):
                await asyncio.shield(asyncio.wrap_future(self._close(farewell)))
        except (TimeoutError, sqlite3.Error):
            return False
        return True

    def _close(self, farewell: Work[object]) -> concurrent.futures.Future[None]:
        if self._closing is None:
            self._closing = self._order(partial(self._disconnect, farewell))
            self._orders.put(None)
        return self._closing

    def _order(self, work: Callable[[], T]) -> concurrent.futures.Future[T]:
        future: concurrent.futures.Future[T] = concurrent.futures.Future()
        if self._closing is not None:
            raise StoreError(f"the store {self.path} is closed")
        self._orders.put((future, work))
        return future

    async def _answer(self, future: concurrent.futures.Future[T]) -> T:
        patience = ANSWER if self._answers else AGAIN
        try:
            async with asyncio.timeout(patience):
                answer = await asyncio.shield(asyncio.wrap_future(future))
            self._answers = True
            return answer
        except TimeoutError:
            future.cancel()
            self._answers = False
            raise StoreError(f"{self.path} has not answered for {patience:g} s: does its disk hang?") from None
        except OSError as error:
            raise StoreError(f"{self.path} cannot be had: {error.strerror or error}") from error
        except sqlite3.Error as error:
            raise StoreError(sentence(self.path, error)) from error
        except (OverflowError, UnicodeError) as error:
            raise StoreError(f"{self.path} cannot hold a value: {error}") from error

    def _connect(self, create: Work[None], prepare: Work[None]) -> None:
        make(self.path, create)
        connection = connect(str(self.path))
        try:
            _set_up(connection)
            if fault := damage(connection):
                raise StoreError(f"{self.path}: {DAMAGED} ({fault})")
            prepare(connection)
        except BaseException:
            connection.close()
            raise
        self._connection = connection

    def _connected(self) -> sqlite3.Connection:
        assert self._connection is not None, "orders come after `open`"
        return self._connection

    def _transaction(self, work: Work[T]) -> T:
        connection = self._connected()
        try:
            result = transaction(connection, work)
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode == sqlite3.SQLITE_BUSY:
                self._wait_for_others(connection, AGAIN)
                self._held = True
            raise
        if self._held:
            self._wait_for_others(connection, BUSY)
            self._held = False
        return result

    def _wait_for_others(self, connection: sqlite3.Connection, seconds: float) -> None:
        connection.execute(f"pragma busy_timeout = {seconds * 1000:.0f}")

    def _disconnect(self, farewell: Work[object]) -> None:
        if self._connection is None:
            return
        try:
            transaction(self._connection, farewell)
        finally:
            self._connection.close()


def _work(orders: SimpleQueue[Order | None]) -> None:
    while (order := orders.get()) is not None:
        future, work = order
        if not future.set_running_or_notify_cancel():
            continue
        try:
            future.set_result(work())
        except BaseException as error:  # noqa: BLE001 - whatever it is, it is for the one who asked
            future.set_exception(error)


def transaction(connection: sqlite3.Connection, work: Work[T]) -> T:
    """Run the function between `begin immediate` and `commit`; roll back if it, or the commit, fails."""
    connection.execute("begin immediate")
    try:
        result = work(connection)
        connection.execute("commit")
    except BaseException:
        # SQLite rolls back by itself on some errors, a full disk among them.
        if connection.in_transaction:
            connection.execute("rollback")
        raise
    return result


def connect(where: str, *, uri: bool = False) -> sqlite3.Connection:
    """A connection in autocommit mode, whose transactions are its user's own. Raises sqlite3.Error."""
    return sqlite3.connect(where, uri=uri, timeout=BUSY, isolation_level=None)


def damage(connection: sqlite3.Connection, seconds: float = CHECK) -> str:
    """The first damage that SQLite finds in the file; empty if it finds none, or none in that time.

    Raises sqlite3.Error for a file that cannot be read at all.
    """
    deadline = time.monotonic() + seconds
    connection.set_progress_handler(lambda: time.monotonic() > deadline, _CHECK_STEPS)
    try:
        (found,) = connection.execute("pragma quick_check(1)").fetchone()
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode == sqlite3.SQLITE_INTERRUPT:
            return ""
        raise
    finally:
        connection.set_progress_handler(None, 0)
    return "" if found == "ok" else str(found)


def refuse_empty(path: Path) -> None:
    """Raise StoreError for a file that lost its content: a new one is never empty. Raises OSError."""
    if path.stat().st_size == 0:
        raise StoreError(f"{path} is empty, which no store is: put back a copy, or remove it to begin anew")


def make(path: Path, create: Work[None]) -> None:
    """The file for its owner alone, and its folder if that is missing. Raises OSError, StoreError, sqlite3.Error."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    _remove_unfinished(path.parent)
    if not os.path.lexists(path):
        _make_new(path, create)
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise StoreError(f"{path} is no file, but a device or a pipe: move it out of the way")
        folder = path.parent.stat()
        if os.geteuid() == 0 and (found.st_uid, found.st_gid) != (folder.st_uid, folder.st_gid):
            # Root looks into a service's folder: what it makes there must stay open to the service. A file with other
            # names is another's, that the folder's owner has linked to here; root would give it away.
            if found.st_nlink != 1:
                raise StoreError(f"{path} is not its folder's owner's, and has other names: move it out of the way")
            os.fchown(descriptor, folder.st_uid, folder.st_gid)
        if found.st_mode & 0o077:
            os.fchmod(descriptor, 0o600)
    finally:
        os.close(descriptor)
    refuse_empty(path)


def _make_new(path: Path, create: Work[None]) -> None:
    """Make the file complete under another name first: an empty or half-made one under its own is damage."""
    _refuse_left_log(path)
    descriptor, name = tempfile.mkstemp(prefix=_UNFINISHED, dir=path.parent)
    os.close(descriptor)
    fresh = Path(name)
    try:
        with closing(connect(name)) as connection:
            create(connection)
        if os.geteuid() == 0:
            folder = path.parent.stat()
            os.chown(fresh, folder.st_uid, folder.st_gid)
        _publish(fresh, path)
    finally:
        for leftover in (fresh, Path(f"{name}-journal")):
            leftover.unlink(missing_ok=True)


def _publish(fresh: Path, path: Path) -> None:
    # A link and not a rename: another process may have made one meanwhile, and use it.
    try:
        path.hardlink_to(fresh)
    except FileExistsError:
        pass
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        fresh.rename(path)


def _remove_unfinished(folder: Path) -> None:
    """Remove what processes left that were killed while they made a new file."""
    for file in folder.glob(f"{_UNFINISHED}*"):
        with suppress(OSError):
            if time.time() - file.stat().st_mtime > _UNFINISHED_AGE:
                file.unlink()


def _refuse_left_log(path: Path) -> None:
    """SQLite would replay a log that was left behind into a file that it does not belong to."""
    log = Path(f"{path}-wal")
    if log.exists() and log.stat().st_size and not path.exists():
        raise StoreError(
            f"{path} is gone, and its log {log} is still there: put the file back, or move the log away too"
        )


def _set_up(connection: sqlite3.Connection) -> None:
    deadline = time.monotonic() + BUSY
    while True:
        try:
            connection.execute("pragma journal_mode = wal").fetchall()
            break
        except sqlite3.OperationalError as error:
            # The one request that does not wait for others by itself: two that make the file at once meet here.
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
    # A turn that was said to have ended has ended, also after a power cut.
    connection.execute("pragma synchronous = full")
    connection.execute("pragma foreign_keys = on")


def sentence(path: Path, error: sqlite3.Error) -> str:
    """What an error of SQLite means to the person who must act."""
    means = {
        sqlite3.SQLITE_FULL: "the disk is full: make room; what was to be written is lost, what was written is not",
        sqlite3.SQLITE_READONLY: "it may not be written: look at its owner, its mode, and how its disk is mounted",
        sqlite3.SQLITE_PERM: "it may not be opened: look at its owner and its mode",
        sqlite3.SQLITE_AUTH: "it may not be opened: look at its owner and its mode",
        sqlite3.SQLITE_CANTOPEN: "it cannot be opened: look at the owner and the mode of it and of its folder",
        sqlite3.SQLITE_CORRUPT: DAMAGED,
        sqlite3.SQLITE_NOTADB: "it is damaged, or no database: move it out of the way, or put back a copy",
        sqlite3.SQLITE_BUSY: "another program holds it, for seconds on end: is somebody looking into it by hand?",
        sqlite3.SQLITE_IOERR: "its disk failed, or is full: look at the kernel's log, and make room",
    }
    # Without a code it is sqlite3's own complaint; the low byte is the kind, the rest the circumstances.
    code: int = getattr(error, "sqlite_errorcode", 0) & 0xFF
    return f"{path}: {means[code]} ({error})" if code in means else f"{path}: {error}"
