"""The store where something is in its way: it says so in a sentence, and what was written stays."""

import asyncio
import os
import random
import sqlite3
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest

from corral.process.bare.host import host_table
from corral.service import instances
from corral.service.store import database, schema
from corral.service.store.store import Store, StoreError
from tests.harness import namespace


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture
async def store(folder: Path) -> AsyncIterator[Store]:
    one = await Store.open(folder)
    yield one
    await one.aclose()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    namespace.tmpfs(disk, "0700", "512k")
    yield disk
    namespace.unmount(disk)


def connected(folder: Path) -> "closing[sqlite3.Connection]":
    return closing(sqlite3.connect(folder / "corral.db", isolation_level=None))


async def spoken(store: Store) -> str:
    row = await store.new_conversation("anna", "codex", "")
    await store.turn_ended(await store.turn_began(row.id, "anna"), "completed")
    return row.id


async def many(store: Store) -> None:
    for _ in range(1000):
        await spoken(store)


# Versions.


async def test_an_older_database_is_brought_up_to_date_with_what_is_in_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await Store.open(folder)
    conversation = await spoken(store)
    await store.aclose()
    added = ("alter table conversations add column pinned integer not null default 1", "create table labels (name)")
    monkeypatch.setattr(schema, "LADDER", (*schema.LADDER, added[:1], added[1:]))
    store = await Store.open(folder)
    assert await store.conversation(conversation) is not None
    await store.aclose()
    with connected(folder) as connection:
        assert connection.execute("pragma user_version").fetchall() == [(len(schema.LADDER),)]
        assert connection.execute("select pinned from conversations").fetchall() == [(1,)]
        assert connection.execute("select count(*) from labels").fetchall() == [(0,)]


async def test_an_upgrade_that_fails_leaves_the_old_state(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = await Store.open(folder)
    conversation = await spoken(store)
    await store.aclose()
    with monkeypatch.context() as patched:
        patched.setattr(schema, "LADDER", (*schema.LADDER, ("create table labels (name)", "drop table no_such_table")))
        with pytest.raises(StoreError, match="no such table: no_such_table"):
            await Store.open(folder)
    store = await Store.open(folder)
    assert await store.conversation(conversation) is not None
    await store.aclose()
    with connected(folder) as connection:
        assert connection.execute("select name from sqlite_master where name = 'labels'").fetchall() == []


async def test_a_newer_database_is_refused_and_left_alone(folder: Path) -> None:
    await (await Store.open(folder)).aclose()
    with connected(folder) as connection:
        connection.execute("pragma user_version = 99")
    before = (folder / "corral.db").read_bytes()
    with pytest.raises(StoreError, match=r"corral\.db was written by a newer Corral \(its version is 99,"):
        await Store.open(folder)
    assert (folder / "corral.db").read_bytes() == before


async def test_another_programs_database_is_refused(folder: Path) -> None:
    folder.mkdir()
    with connected(folder) as connection:
        connection.execute("create table theirs (name)")
    with pytest.raises(StoreError, match="not one of Corral's"):
        await Store.open(folder)


def test_a_database_that_another_process_is_just_making_is_no_other_programs(folder: Path) -> None:
    folder.mkdir()
    with connected(folder) as connection, connected(folder) as other:
        connection.execute("pragma journal_mode = wal")
        other.execute("pragma busy_timeout = 0")
        met = []

        def between(statement: str) -> None:
            if "sqlite_master" in statement:
                with suppress(sqlite3.OperationalError):  # it is refused the lock, and would wait for it
                    schema.migrate(other)
                met.append(statement)

        connection.set_trace_callback(between)
        schema.migrate(connection)
        connection.set_trace_callback(None)
        assert met
        assert schema.version_of(connection) == len(schema.LADDER)


# Disks.


@pytest.mark.parametrize("content", [b"no database at all\n" * 500, b"\0" * 8192], ids=["text", "zeros"])
async def test_a_file_that_is_no_database_is_refused(folder: Path, content: bytes) -> None:
    folder.mkdir()
    (folder / "corral.db").write_bytes(content)
    with pytest.raises(StoreError, match="move it out of the way"):
        await Store.open(folder)
    assert (folder / "corral.db").read_bytes() == content


async def test_a_damaged_database_is_an_error_and_not_the_end(folder: Path) -> None:
    store = await Store.open(folder)
    for _ in range(200):
        await spoken(store)
    await store.aclose()
    file = folder / "corral.db"
    size = file.stat().st_size
    with file.open("r+b") as damaged:
        damaged.seek(4096)
        damaged.write(random.Random(1).randbytes(size - 4096))
    with pytest.raises(StoreError, match="it is damaged: move it out of the way"):
        await Store.open(folder)


async def damaged_page(folder: Path) -> None:
    """A store whose turns lie on a page that was overwritten with zeros; all other pages are whole."""
    store = await Store.open(folder)
    for _ in range(200):
        await spoken(store)
    await store.aclose()
    with connected(folder) as connection:
        (root,) = connection.execute("select rootpage from sqlite_master where name = 'turns'").fetchone()
        (size,) = connection.execute("pragma page_size").fetchone()
    with (folder / "corral.db").open("r+b") as damaged:
        damaged.seek((root - 1) * size)
        damaged.write(bytes(size))


async def test_one_damaged_page_is_found_when_the_store_is_opened(folder: Path) -> None:
    await damaged_page(folder)
    with pytest.raises(StoreError, match="it is damaged: move it out of the way together with its -wal"):
        await Store.open(folder)


async def test_looking_for_damage_is_bounded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    await damaged_page(folder)
    monkeypatch.setattr(database, "_CHECK_STEPS", 1)
    with connected(folder) as connection:
        assert database.damage(connection, seconds=-1) == ""
        connection.execute("select count(*) from conversations").fetchone()  # it can be used afterwards


async def test_an_empty_file_is_no_new_store(folder: Path) -> None:
    await (await Store.open(folder)).aclose()
    (folder / "corral.db").write_bytes(b"")
    with pytest.raises(StoreError, match=r"corral\.db is empty, which no store is: put back a copy"):
        await Store.open(folder)
    assert (folder / "corral.db").read_bytes() == b""


async def test_a_log_whose_file_is_gone_is_not_played_into_a_new_one(folder: Path) -> None:
    store = await Store.open(folder)
    await spoken(store)
    log = (folder / "corral.db-wal").read_bytes()
    await store.aclose()
    (folder / "corral.db").unlink()
    (folder / "corral.db-wal").write_bytes(log)
    with pytest.raises(StoreError, match=r"corral\.db is gone, and its log .*corral\.db-wal is still there"):
        await Store.open(folder)
    assert not (folder / "corral.db").exists()


async def test_what_a_killed_process_left_of_a_new_file_is_removed_later(folder: Path) -> None:
    folder.mkdir()
    (old := folder / ".corral-store-old").touch()
    os.utime(old, (0, 0))
    (young := folder / ".corral-store-young").touch()
    await (await Store.open(folder)).aclose()
    assert [old.exists(), young.exists()] == [False, True]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
@pytest.mark.parametrize("kind", ["hard link", "pipe"])
async def test_what_is_no_file_of_its_own_is_refused_and_stays_whose_it_was(folder: Path, kind: str) -> None:
    folder.mkdir()
    theirs = folder.parent / "theirs"
    theirs.touch(0o640)
    os.chown(folder, 5, 5)
    if kind == "pipe":
        os.mkfifo(folder / "corral.db")
    else:
        os.link(theirs, folder / "corral.db")
    before = theirs.stat()
    with pytest.raises(StoreError, match="move it out of the way"):
        await Store.open(folder)
    after = theirs.stat()
    assert (after.st_uid, after.st_mode) == (before.st_uid, before.st_mode)


@pytest.mark.cross_account
async def test_a_full_disk_is_an_error_until_there_is_room(small_disk: Path) -> None:
    store = await Store.open(small_disk)
    kept = await spoken(store)
    turn = await store.turn_began(kept, "anna")
    ballast = small_disk / "ballast"
    with pytest.raises(OSError, match="No space"):
        ballast.write_bytes(b"x" * 2**20)
    with pytest.raises(StoreError, match=r"corral\.db: the disk is full: make room"):
        await many(store)
    assert await store.conversation(kept) is not None, "what is there can be read"
    ballast.unlink()
    await spoken(store)
    assert await store.turn_ended(turn, "completed")
    await store.aclose()
    with connected(small_disk) as connection:
        assert connection.execute("pragma integrity_check").fetchall() == [("ok",)]


@pytest.mark.cross_account
async def test_what_closes_its_store_on_a_full_disk_holds_nothing_for_those_in_other_pid_namespaces(
    small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await Store.open(small_disk)
    conversation = await spoken(store)
    assert await store.claim(conversation)
    ballast = small_disk / "ballast"
    with pytest.raises(OSError, match="No space"):
        ballast.write_bytes(b"x" * 2**20)
    with pytest.raises(StoreError, match="the disk is full"):
        await many(store)
    await store.aclose()
    with connected(small_disk) as connection:
        assert connection.execute("select count(*) from instances where closed is null").fetchall() == [(1,)]
    ballast.unlink()
    scope = f"{host_table().boot_id()} another namespace"
    monkeypatch.setattr(instances, "_scope", lambda _: scope)
    other = await Store.open(small_disk)
    assert await other.claim(conversation), "the lock that tells of a living one is released"
    await other.cut_turns()
    await other.cut_turns()
    assert len(list(small_disk.glob("instance-*.lock"))) == 1, "the lock of the other store alone"
    await other.aclose()
    assert not list(small_disk.glob("instance-*.lock"))


@pytest.mark.cross_account
async def test_a_store_cannot_be_opened_on_a_full_disk_and_says_why(small_disk: Path) -> None:
    with pytest.raises(OSError, match="No space"):
        (small_disk / "ballast").write_bytes(b"x" * 2**20)
    with pytest.raises(StoreError, match="full"):
        await Store.open(small_disk)


@pytest.mark.cross_account
async def test_a_read_only_disk_is_an_error(folder: Path) -> None:
    await (await Store.open(folder)).aclose()
    namespace.bind(folder, folder)
    try:
        with pytest.raises(StoreError, match="Read-only file system"):
            await Store.open(folder)
    finally:
        namespace.unmount(folder)


async def test_a_folder_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="Not a directory"):
        await Store.open(tmp_path / "file" / "state")


# Others in the way.


async def patience(store: Store) -> int:
    """How long a transaction waits for others', in milliseconds."""
    row = await store._database.read(lambda connection: connection.execute("pragma busy_timeout").fetchone())
    return int(row[0])


async def test_a_lock_that_somebody_keeps_is_an_error_after_a_while(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "BUSY", 0.2)
    store = await Store.open(folder)
    kept = await spoken(store)
    with connected(folder) as somebody:
        somebody.execute("begin immediate")
        with pytest.raises(StoreError, match="another program holds it"):
            await store.turn_began(kept, "anna")
        assert await store.conversation(kept) is not None, "reading waits for nobody"
        assert await patience(store) == 500, "one turn waits long, and not each"
    assert await store.turn_ended(await store.turn_began(kept, "anna"), "completed")
    assert await patience(store) == 200
    await store.aclose()


async def test_a_disk_that_hangs_holds_nobody_up_and_what_was_refused_is_not_done_later(
    store: Store, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = await spoken(store)
    hangs = threading.Event()
    monkeypatch.setattr(database, "ANSWER", 0.1)
    monkeypatch.setattr(database, "FAREWELL", 0.1)
    with pytest.raises(StoreError, match="does its disk hang"):
        await store._database.write(lambda connection: hangs.wait(10))
    monkeypatch.setattr(database, "ANSWER", 10)
    with pytest.raises(StoreError, match=r"has not answered for 0\.5 s"):
        await store.set_title(kept, "too late")
    hangs.set()
    monkeypatch.setattr(database, "AGAIN", 10)
    row = await store.conversation(kept)
    assert row is not None
    assert row.title == ""


async def test_closing_does_not_wait_for_a_disk_that_hangs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = await Store.open(folder)
    hangs = threading.Event()
    monkeypatch.setattr(database, "FAREWELL", 0.1)
    held = asyncio.create_task(store._database.read(lambda connection: hangs.wait(10)))
    await asyncio.sleep(0)
    await store.aclose()
    hangs.set()
    await held
    await asyncio.to_thread(store._database._thread.join, 10)
    assert not store._database._thread.is_alive()


# Cancelled callers, and closed stores.


async def test_a_write_whose_caller_was_cancelled_is_whole(store: Store, folder: Path) -> None:
    kept = await spoken(store)
    turn = await store.turn_began(kept, "anna")
    with connected(folder) as somebody:
        somebody.execute("begin immediate")
        ending = asyncio.create_task(store.turn_ended(turn, "completed"))
        beginning = asyncio.create_task(store.turn_began(kept, "anna"))
        await asyncio.sleep(0)
        ending.cancel()
        beginning.cancel()
        assert [type(one) for one in await asyncio.gather(ending, beginning, return_exceptions=True)] == [
            asyncio.CancelledError
        ] * 2
    assert not await store.turn_ended(turn, "failed"), "it had ended"
    with connected(folder) as somebody:
        states = somebody.execute("select state from turns order by state").fetchall()
    assert states == [("completed",), ("completed",), ("interrupted",)], "nobody had the id of the third"


async def test_callers_that_are_cancelled_at_any_moment_leave_no_half_of_anything(store: Store, folder: Path) -> None:
    moments = random.Random(2)
    conversation = (await store.new_conversation("anna", "codex", "")).id

    async def turn() -> None:
        key = await store.turn_began(conversation, "anna")
        try:
            await store.add_usage(key, 1, 1, 1)
            await store.approval_asked(key, "1", "command", "ls")
        finally:
            await store.turn_ended(key, "completed")

    for _ in range(60):
        tasks = [asyncio.create_task(turn()) for _ in range(5)]
        for task in tasks:
            for _ in range(moments.randrange(12)):
                await asyncio.sleep(0)
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    await store.claim(conversation)
    with connected(folder) as somebody:
        assert somebody.execute("select count(*) from turns where state = 'running'").fetchall() == [(0,)]
        assert somebody.execute("pragma integrity_check").fetchall() == [("ok",)]
        somebody.execute("begin immediate")  # nothing is open
        somebody.execute("rollback")


async def test_a_store_whose_opening_was_cancelled_leaves_nothing_open(folder: Path) -> None:
    for ticks in range(6):
        opening = asyncio.create_task(Store.open(folder))
        for _ in range(ticks):
            await asyncio.sleep(0)
        opening.cancel()
        await asyncio.gather(opening, return_exceptions=True)
    for thread in threading.enumerate():
        if thread.name.startswith("store"):
            await asyncio.to_thread(thread.join, 10)
            assert not thread.is_alive()
    await (await Store.open(folder)).aclose()


async def test_a_closed_store_answers_with_an_error_and_closes_again(folder: Path) -> None:
    store = await Store.open(folder)
    kept = await spoken(store)
    written = asyncio.create_task(store.set_title(kept, "asked before it closed"))
    await asyncio.sleep(0)
    await asyncio.gather(store.aclose(), store.aclose())
    await store.aclose()
    await written
    with pytest.raises(StoreError, match="is closed"):
        await store.conversation(kept)
    with pytest.raises(StoreError, match="is closed"):
        await store.turn_began(kept, "anna")
    assert {file.name for file in folder.iterdir()} == {"corral.db"}, "the last one out leaves one whole file"
    again = await Store.open(folder)
    row = await again.conversation(kept)
    await again.aclose()
    assert row is not None
    assert row.title == "asked before it closed"
