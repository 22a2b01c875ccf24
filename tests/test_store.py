"""What the store keeps, and gives back."""

import os
import sqlite3
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from corral.process import Report, SignalCount, Survivor
from corral.service.store.rows import Pruned
from corral.service.store.store import Store, UsageRow

REPORT = Report(
    "survivors",
    None,
    1.25,
    (SignalCount("TERM", "daniel", 3),),
    (Survivor(45, 7, "daniel", "D", "codex", "it waits for its disk"),),
    "request",
)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    one = await Store.open(tmp_path / "state")
    yield one
    await one.aclose()


@pytest.fixture
async def other(store: Store, tmp_path: Path) -> AsyncIterator[Store]:
    """A second one on the same folder, as a terminal chat has it beside the service."""
    one = await Store.open(tmp_path / "state", what="chat")
    yield one
    await one.aclose()


async def runs(
    store: Store, conversation: str, person: str, account: str, engine: str, pid: int, model: str, job_id: str
) -> str:
    """A backend that runs; the id of its record."""
    backend = await store.new_backend(conversation, person, account, engine, job_id)
    await store.backend_started(backend, account, pid, model)
    return backend


async def spoken(store: Store, person: str = "anna") -> str:
    """A conversation with a turn."""
    row = await store.new_conversation(person, "codex", "")
    await store.turn_ended(await store.turn_began(row.id, person), "completed")
    return row.id


def database(tmp_path: Path) -> sqlite3.Connection:
    return sqlite3.connect(tmp_path / "state" / "corral.db")


def has_died(tmp_path: Path, what: str) -> None:
    """Make the instance of that kind one whose process is no more: its pid is another's now."""
    with database(tmp_path) as connection:
        connection.execute("update instances set start_time = start_time + 1 where what = ?", (what,))
    connection.close()


async def test_the_file_and_its_folder_are_its_owners_alone(store: Store, tmp_path: Path) -> None:
    await spoken(store)
    folder = tmp_path / "state"
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {file.name: file.stat().st_mode & 0o777 for file in folder.iterdir()} == {
        "corral.db": 0o600,
        "corral.db-wal": 0o600,
        "corral.db-shm": 0o600,
        f"instance-{store._instance}.lock": 0o600,
    }


async def test_a_file_that_others_could_read_is_closed_to_them(tmp_path: Path) -> None:
    await (await Store.open(tmp_path)).aclose()
    tmp_path.joinpath("corral.db").chmod(0o644)
    await (await Store.open(tmp_path)).aclose()
    assert tmp_path.joinpath("corral.db").stat().st_mode & 0o777 == 0o600


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a file that is another's")
async def test_what_root_makes_in_a_services_folder_is_the_services(tmp_path: Path) -> None:
    os.chown(tmp_path, 5, 5)
    store = await Store.open(tmp_path)
    owners = {(file.stat().st_uid, file.stat().st_gid) for file in tmp_path.iterdir()}
    await store.aclose()
    assert owners == {(5, 5)}


async def test_a_conversation_is_kept_with_what_was_chosen_for_it(store: Store, tmp_path: Path) -> None:
    row = await store.new_conversation("anna", "codex", "/srv/work", model="m1")
    await store.set_thread(row.id, "thread-1")
    await store.set_choices(row.id, model="m2", effort="high")
    await store.aclose()
    again = await Store.open(tmp_path / "state")
    kept = await again.conversation(row.id)
    await again.aclose()
    assert kept is not None
    assert (kept.person, kept.engine, kept.workspace) == ("anna", "codex", "/srv/work")
    assert (kept.model, kept.effort, kept.thread, kept.title) == ("m2", "high", "thread-1", "")


async def test_ids_are_short_sort_by_age_and_are_found_as_they_are_typed(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, rows = time.time(), []
    for second in range(20):
        monkeypatch.setattr(time, "time", lambda second=second: now + second)
        rows.append((await store.new_conversation("anna", "codex", "")).id)
    assert rows == sorted(rows)
    assert {len(key) for key in rows} == {10}
    for key in rows:
        typed = key.replace("0", "O").replace("1", "l").upper()
        found = await store.conversation(f" {typed} ")
        assert found is not None
        assert found.id == key
    assert await store.conversation("no such") is None


async def test_the_title_is_the_first_line_of_the_first_message_and_stays(store: Store) -> None:
    row = await store.new_conversation("anna", "codex", "")
    await store.set_title(row.id, "\n  fix the tests\nthe password is 1234")
    await store.set_title(row.id, "something else")
    kept = await store.conversation(row.id)
    assert kept is not None
    assert kept.title == "fix the tests"
    long = await store.new_conversation("anna", "codex", "")
    await store.set_title(long.id, "x" * 200)
    kept = await store.conversation(long.id)
    assert kept is not None
    assert kept.title == "x" * 80


async def test_text_that_is_no_unicode_is_kept_as_far_as_it_is(store: Store) -> None:
    row = await store.new_conversation("anna", "codex", "/srv/\udcff")
    await store.set_title(row.id, "half \ud83d a pair")
    kept = await store.conversation(row.id)
    assert kept is not None
    assert (kept.title, kept.workspace) == ("half ? a pair", "/srv/?")
    assert row.workspace == "/srv/?"
    assert await store.conversation("\ud800") is None


async def test_earlier_conversations_are_the_persons_the_last_used_first_and_none_without_words(store: Store) -> None:
    first, second = await spoken(store), await spoken(store)
    await store.new_conversation("anna", "codex", "")
    named = await store.new_conversation("anna", "codex", "")
    await store.set_thread(named.id, "t")
    await spoken(store, "ben")
    await store.turn_ended(await store.turn_began(first, "anna"), "completed")
    rows = [row.id for row in await store.conversations("anna")]
    assert rows[0] == first
    assert set(rows) == {first, second, named.id}
    assert [row.id for row in await store.conversations("anna", limit=1)] == [first]


async def test_a_channel_goes_on_with_its_conversation(store: Store) -> None:
    first, second = await spoken(store), await spoken(store)
    assert await store.channel("anna", "telegram") is None
    for conversation in (first, second, None, first):
        await store.set_channel("anna", "telegram", conversation)
        assert await store.channel("anna", "telegram") == conversation
    assert await store.channel("ben", "telegram") is None


async def test_a_turn_ends_once(store: Store) -> None:
    conversation = await spoken(store)
    turn = await store.turn_began(conversation, "anna")
    assert await store.turn_ended(turn, "failed", "the engine died")
    assert not await store.turn_ended(turn, "completed")
    assert not await store.turn_ended("no such turn", "completed")
    (usage,) = await store.usage("anna", 0)
    assert usage.turns == 2


async def test_usage_is_summed_by_engine_and_by_the_model_that_answered(store: Store) -> None:
    plain = await store.new_conversation("anna", "codex", "")
    await runs(store, plain.id, "anna", "daniel", "codex", 4711, "m-default", "job-1")
    chosen = await store.new_conversation("ben", "claude", "", model="m-chosen")
    for row in (plain, plain, chosen):
        turn = await store.turn_began(row.id, row.person)
        await store.add_usage(turn, 10, 4, 2)
        await store.set_choices(row.id, model="m-later" if row is chosen else None)
        await store.add_usage(turn, 1, 1, 1, 0.5)
        await store.turn_ended(turn, "completed")
    anna = UsageRow("codex", "m-default", 2, 22, 10, 6, 1.0)
    ben = UsageRow("claude", "m-chosen", 1, 11, 5, 3, 0.5)
    assert await store.usage("anna", 0) == [anna]
    assert await store.usage(None, 0) == [ben, anna]
    assert await store.usage(None, time.time() + 1) == []


async def test_turns_of_a_dead_process_are_cut_once_and_told_once(store: Store, other: Store, tmp_path: Path) -> None:
    conversation = await spoken(store)
    mine = await store.turn_began(conversation, "anna")
    theirs = await other.turn_began(conversation, "anna")
    assert await store.cut_turns() == []
    has_died(tmp_path, "chat")
    (cut,) = await store.cut_turns()
    assert (cut.id, cut.conversation, cut.person, cut.state) == (theirs, conversation, "anna", "cut")
    assert await store.cut_turns() == [cut], "until the person was told"
    await store.told([cut.id])
    assert await store.cut_turns() == []
    assert not await store.turn_ended(theirs, "completed")
    assert await store.turn_ended(mine, "completed")


async def test_who_leaves_the_store_holds_nothing_and_runs_nothing(store: Store, other: Store) -> None:
    conversation = await spoken(other)
    assert await other.claim(conversation)
    await other.turn_began(conversation, "anna")
    await runs(other, conversation, "anna", "daniel", "codex", 4711, "", "job-1")
    assert not await store.claim(conversation)
    await other.aclose()
    assert await store.claim(conversation)
    assert len(await store.cut_turns()) == 1
    assert [row.job_id for row in await store.lost_backends()] == ["job-1"]


async def test_a_report_is_kept_whole_and_the_first_one_stays(store: Store) -> None:
    conversation = await spoken(store)
    backend = await runs(store, conversation, "anna", "daniel", "codex", 4711, "m", "job-1")
    assert await store.last_report("anna") is None
    steps = [{"name": "goodbye", "seconds": 0.1}]
    await store.backend_ended(backend, REPORT, steps, "/new")
    await store.report_found(backend, REPORT._replace(verdict="proven_empty"))
    row = await store.last_report("anna")
    assert row is not None
    assert (row.report, row.verdict, row.why, row.steps) == (REPORT, "survivors", "/new", tuple(steps))
    assert (row.conversation, row.account, row.pid, row.model) == (conversation, "daniel", 4711, "m")


async def test_a_lost_backends_report_is_found_later(store: Store, other: Store, tmp_path: Path) -> None:
    conversation = await spoken(store)
    await runs(store, conversation, "anna", "daniel", "codex", 1, "", "mine")
    lost = await runs(other, conversation, "anna", "daniel", "codex", 2, "", "theirs")
    assert await store.lost_backends() == []
    has_died(tmp_path, "chat")
    assert [(row.id, row.job_id) for row in await store.lost_backends()] == [(lost, "theirs")]
    await store.report_found(lost, REPORT)
    assert await store.lost_backends() == []
    row = await store.last_report("anna")
    assert row is not None
    assert row.why == "the service died"


async def test_an_approval_is_closed_once_and_its_question_is_kept_short(store: Store, tmp_path: Path) -> None:
    turn = await store.turn_began(await spoken(store), "anna")
    await store.approval_asked(turn, "1", "command", "rm -rf " + "x" * 9000)
    await store.approval_closed(turn, "1", "decline", "anna")
    await store.approval_closed(turn, "1", "accept", "somebody")
    await store.approval_asked(turn, "2", "command", "ls")
    connection = database(tmp_path)
    rows = connection.execute(
        "select length(what), decision, decided_by, closed is null from approvals order by approval"
    ).fetchall()
    connection.close()
    assert rows == [(2000, "decline", "anna", 0), (2, None, "", 1)]


async def test_what_is_over_goes_with_age_and_what_is_held_stays(store: Store, other: Store, tmp_path: Path) -> None:
    old, held, recent = await spoken(store), await spoken(store), await spoken(store)
    for conversation in (old, held):
        turn = await store.turn_began(conversation, "anna")
        await store.approval_asked(turn, "1", "command", "ls")
        await store.turn_ended(turn, "completed")
        backend = await runs(store, conversation, "anna", "daniel", "codex", 1, "", "job")
        await store.backend_ended(backend, REPORT, [], "")
        await store.set_channel("anna", conversation, conversation)
    running = await store.turn_began(held, "anna")
    assert await other.claim(held)
    assert await store.prune(time.time() - 60) == Pruned()
    with database(tmp_path) as connection:
        connection.execute("insert into instances values ('gone', 1, 1, 'another boot', 'chat', 0, null)")
    connection.close()
    moment = time.time()
    await store.turn_ended(await store.turn_began(recent, "anna"), "completed")
    assert await store.prune(moment) == Pruned(turns=5, approvals=2, backends=2, conversations=1, instances=1)
    assert await store.conversation(old) is None
    assert await store.channel("anna", old) is None
    assert await store.channel("anna", held) == held
    assert await store.turn_ended(running, "completed")
    assert {row.id for row in await store.conversations("anna")} == {held, recent}
    await other.aclose()
    assert (await store.prune(time.time() + 1)).conversations == 2
