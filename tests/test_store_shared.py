"""Several processes with one store: who holds what, and what a kill at any moment leaves."""

import asyncio
import multiprocessing
import random
import sqlite3
import tempfile
import time
from collections import Counter
from contextlib import closing
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corral.service.store.store import Store
from tests.harness import store_driver
from tests.harness.waiting import wait_until

ROUNDS = 55  # of two processes each
LONGEST = 0.12  # seconds from the first word to the kill


def starts(*arguments: object) -> tuple[Any, Connection]:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.harness.store_driver"])
    reading, writing = context.Pipe(duplex=False)
    process = context.Process(target=store_driver.run, args=(str(arguments[0]), writing, *arguments[1:]))
    process.start()
    writing.close()
    return process, reading


def heard(pipe: Connection) -> list[tuple[str, ...]]:
    found = []
    try:
        while pipe.poll():
            found.append(pipe.recv())
    except EOFError:
        pass
    return found


async def shared_conversation(folder: Path) -> str:
    store = await Store.open(folder)
    conversation = (await store.new_conversation("ben", "codex", "")).id
    await store.aclose()
    return conversation


@pytest.mark.slow
def test_killed_at_random_moments_a_hundred_times_by_twos(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    shared = asyncio.run(shared_conversation(folder))
    moments = random.Random(7)
    words: list[tuple[str, ...]] = []
    for _ in range(ROUNDS):
        both = [starts(folder, shared) for _ in range(2)]
        wait_until(lambda both=both: all(pipe.poll() for _, pipe in both), 20, "both have opened the store")
        for process, _ in both:
            time.sleep(moments.uniform(0, LONGEST / 2))  # what is tried here are moments, which no condition names
            process.kill()
        for process, pipe in both:
            process.join(20)
            words += heard(pipe)
            pipe.close()
    said = Counter(word[0] for word in words)
    assert said["failed"] == said["both"] == 0, [word for word in words if word[0] in ("failed", "both")]
    assert said["ended"] > ROUNDS, said
    assert said["claimed"] > ROUNDS / 5, said
    asyncio.run(is_whole(folder, shared, words))


async def is_whole(folder: Path, shared: str, words: list[tuple[str, ...]]) -> None:
    began = {word[1] for word in words if word[0] == "began"}
    ended = {word[1] for word in words if word[0] == "ended"}
    conversations = {word[1] for word in words if word[0] == "conversation"}
    store = await Store.open(folder)
    cut = {turn.id for turn in await store.cut_turns()}
    assert await store.claim(shared), "the dead hold nothing"
    (usage,) = await store.usage("anna", 0)
    await store.aclose()
    with closing(sqlite3.connect(folder / "corral.db")) as connection:
        assert connection.execute("pragma integrity_check").fetchall() == [("ok",)]
        assert connection.execute("pragma foreign_key_check").fetchall() == []
        states = dict(connection.execute("select id, state from turns").fetchall())
        used = dict(connection.execute("select id, input_tokens from turns").fetchall())
        kept = {row[0] for row in connection.execute("select id from conversations").fetchall()}
    assert conversations <= kept, "none is lost"
    assert began <= set(states), "what was begun is known"
    assert {states[turn] for turn in ended} == {"completed"}, "what was said to have ended has ended"
    assert {turn for turn, state in states.items() if state != "completed"} == cut, "the rest was cut"
    assert {used[turn] for turn in ended} == {store_driver.USED[0]}, "and was counted once"
    assert usage.turns == len(states)
    assert usage.input_tokens == sum(used.values())


@pytest.mark.slow
def test_processes_that_make_the_store_at_the_same_time_all_get_it(tmp_path: Path) -> None:
    for attempt in range(5):
        folder = tmp_path / str(attempt)
        several = [starts(folder, "none") for _ in range(4)]
        try:
            for _, pipe in several:
                assert pipe.poll(20)
                assert pipe.recv() == ("open",)
        finally:
            for process, pipe in several:
                process.kill()
                process.join(20)
                pipe.close()


OPERATIONS = st.lists(
    st.tuples(st.sampled_from(["claim", "release", "die", "leave"]), st.integers(0, 2), st.integers(0, 1)),
    min_size=1,
    max_size=30,
)


@settings(max_examples=40, deadline=None)
@given(OPERATIONS)
@pytest.mark.slow
def test_a_conversation_has_one_holder_whatever_comes_and_goes(operations: list[tuple[str, int, int]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(held_as_the_model_says(Path(folder), operations))


async def held_as_the_model_says(folder: Path, operations: list[tuple[str, int, int]]) -> None:
    stores = [await Store.open(folder) for _ in range(3)]
    left: list[Store] = []
    conversations = [(await stores[0].new_conversation("anna", "codex", "")).id for _ in range(2)]
    holder: dict[str, Store] = {}
    for what, who, which in operations:
        store, conversation = stores[who], conversations[which]
        if what == "claim":
            may = holder.get(conversation, store) is store
            assert await store.claim(conversation) is may, (what, who, which)
            if may:
                holder[conversation] = store
        elif what == "release":
            await store.release(conversation)
            holder = {key: by for key, by in holder.items() if (key, by) != (conversation, store)}
        else:
            if what == "die":
                pass_for_dead(folder, store)
                left.append(store)
            else:
                await store.aclose()
            holder = {key: by for key, by in holder.items() if by is not store}
            stores[who] = await Store.open(folder)
    for store in (*stores, *left):
        await store.aclose()


def pass_for_dead(folder: Path, store: Store) -> None:
    with closing(sqlite3.connect(folder / "corral.db")) as connection, connection:
        connection.execute("update instances set start_time = start_time + 1 where id = ?", (store._instance,))


@pytest.mark.parametrize("boot", ["this", "another"])
async def test_a_process_of_another_boot_is_dead_whatever_has_its_pid(tmp_path: Path, boot: str) -> None:
    first, second = await Store.open(tmp_path), await Store.open(tmp_path)
    conversation = (await first.new_conversation("anna", "codex", "")).id
    assert await first.claim(conversation)
    if boot == "another":
        with closing(sqlite3.connect(tmp_path / "corral.db")) as connection, connection:
            connection.execute("update instances set boot_id = 'another' where id = ?", (first._instance,))
    assert await second.claim(conversation) is (boot == "another")
    await first.aclose()
    await second.aclose()
