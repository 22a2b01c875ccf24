"""corral history and corral reports: what they show, beside a service that writes and after one that was killed."""

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from corral.cli import app
from corral.process import Report, SignalCount, Survivor
from corral.service.store.store import Store
from tests.test_store import runs
from tests.test_store_shared import starts

LEFT = Report(
    "survivors",
    None,
    1.25,
    (SignalCount("TERM", "daniel", 3), SignalCount("KILL", "daniel", 1)),
    (Survivor(45, 7, "daniel", "D", "codex\x1b[2J", "it waits for its disk"),),
)
EMPTY = Report("proven_empty", "no_children", 0.01)


def corral(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(one) for one in arguments])


def told(*arguments: object) -> dict[str, Any]:
    result = corral(*arguments, "--json")
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


async def lived(folder: Path) -> tuple[str, str]:
    """A store in which two people have spoken: their conversations."""
    store = await Store.open(folder)
    made = []
    for person, report in (("anna", EMPTY), ("ben", LEFT)):
        row = await store.new_conversation(person, "codex", "/srv/work", model="m1")
        await store.set_title(row.id, f"a word of {person}\x1b]0;title\x07")
        backend = await runs(store, row.id, person, "daniel", "codex", 4711, "m1", "job")
        turn = await store.turn_began(row.id, person)
        await store.add_usage(turn, 12345, 10000, 200, 0.5)
        await store.turn_ended(
            turn, "failed" if person == "ben" else "completed", "it broke" if person == "ben" else ""
        )
        await store.backend_ended(backend, report, [{"name": "signals", "seconds": 0.2}], "/new")
        made.append(row.id)
    await store.turn_began(made[0], "anna")
    await runs(store, made[0], "anna", "daniel", "codex", 4712, "", "job-2")
    await store.aclose()
    return made[0], made[1]


@pytest.mark.parametrize("command", ["history", "reports"])
def test_there_is_nothing_yet(tmp_path: Path, command: str) -> None:
    for folder in (tmp_path, tmp_path / "missing"):
        result = corral(command, "--state-dir", folder)
        assert result.exit_code == 0
        assert "yet" in result.stdout
        assert not any(told(command, "--state-dir", folder).values())
        assert not list(tmp_path.iterdir()), "reading makes nothing"


async def test_history_shows_conversations_with_their_turns(tmp_path: Path) -> None:
    anna, ben = await lived(tmp_path)
    result = corral("history", "--state-dir", tmp_path)
    lines = result.stdout.splitlines()
    assert lines[0] == f"{anna}  anna  codex  m1  /srv/work  a word of anna"
    assert "completed" in lines[1]
    assert "12,345 in (10,000 cached), 200 out, $0.50" in lines[1]
    assert "cut" in lines[2], "its program has left"
    assert lines[3].startswith(ben)
    assert "failed" in lines[4]
    assert lines[4].endswith("it broke")
    assert "\x1b" not in result.stdout


async def test_history_is_data_for_programs(tmp_path: Path) -> None:
    anna, ben = await lived(tmp_path)
    both = told("history", "--state-dir", tmp_path)["conversations"]
    assert [one["id"] for one in both] == [anna, ben]
    assert [turn["state"] for turn in both[0]["turns"]] == ["completed", "cut"]
    turn = both[1]["turns"][0]
    assert (turn["input_tokens"], turn["cached_input_tokens"], turn["output_tokens"]) == (12345, 10000, 200)
    assert (turn["cost"], turn["reason"], turn["model"]) == (0.5, "it broke", "m1")
    assert 0 <= turn["seconds"] < 60
    assert [one["id"] for one in told("history", "--state-dir", tmp_path, "--person", "ben")["conversations"]] == [ben]
    assert [one["id"] for one in told("history", "--state-dir", tmp_path, "--limit", 1)["conversations"]] == [anna]


@pytest.mark.parametrize("command", ["history", "reports"])
async def test_a_name_that_nobody_has_is_no_person_without_records(tmp_path: Path, command: str) -> None:
    state = tmp_path / "state"
    await lived(state)
    result = corral(command, "--state-dir", state, "--person", "typo")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "corral: unknown person 'typo': choose anna, ben\n"
    assert corral(command, "--state-dir", state, "--person", "typo", "--json").exit_code == 1
    config = tmp_path / "corral.toml"
    config.touch(0o600)
    config.write_text(f'[service]\nstate_dir = "{state}"\n[[people]]\nname = "carl"\n')
    silent = corral(command, "--config", config, "--person", "carl")
    assert (silent.exit_code, "yet" in silent.stdout) == (0, True)
    assert "choose anna, ben, carl" in corral(command, "--config", config, "--person", "typo").stderr


async def test_a_turn_of_a_dead_program_is_cut_also_before_the_next_start_has_marked_it(tmp_path: Path) -> None:
    store = await Store.open(tmp_path)
    row = await store.new_conversation("anna", "codex", "")
    await store.turn_began(row.id, "anna")
    states = []
    for _ in range(2):
        (conversation,) = told("history", "--state-dir", tmp_path)["conversations"]
        states += [(turn["state"], turn["seconds"]) for turn in conversation["turns"]]
        with closing(sqlite3.connect(tmp_path / "corral.db")) as connection, connection:
            connection.execute("update instances set start_time = start_time + 1")  # its pid is another's now
    await store.aclose()
    assert states == [("running", None), ("cut", None)]


async def test_of_a_turn_that_was_cut_nobody_knows_how_long_it_took(tmp_path: Path) -> None:
    await lived(tmp_path)
    store = await Store.open(tmp_path)
    await store.cut_turns()
    await store.aclose()
    (conversation,) = told("history", "--state-dir", tmp_path, "--person", "anna")["conversations"]
    cut = conversation["turns"][1]
    assert (cut["state"], cut["seconds"]) == ("cut", None)


async def test_history_shows_the_last_turns_of_a_long_conversation(tmp_path: Path) -> None:
    store = await Store.open(tmp_path)
    row = await store.new_conversation("anna", "codex", "")
    for _ in range(25):
        await store.turn_ended(await store.turn_began(row.id, "anna"), "completed")
    await store.aclose()
    lines = corral("history", "--state-dir", tmp_path).stdout.splitlines()
    assert lines[1] == "  … 15 earlier turns"
    assert len(lines) == 12
    assert len(told("history", "--state-dir", tmp_path)["conversations"][0]["turns"]) == 25


async def test_reports_show_how_agents_ended_and_whose_end_is_unknown(tmp_path: Path) -> None:
    await lived(tmp_path)
    lines = corral("reports", "--state-dir", tmp_path).stdout.splitlines()
    assert "ben  codex as daniel  survivors (no proof)  1.250 s  TERM to 3, KILL to 1  /new" in lines[0]
    assert lines[1] == "    pid 45 (daniel, D) codex: it waits for its disk"
    assert "anna  codex as daniel  proven_empty (no_children)  0.010 s  no signal was needed  /new" in lines[2]
    assert lines[3].endswith("codex as daniel, pid 4712: started, and nobody knows how it ended")


async def test_reports_are_data_for_programs(tmp_path: Path) -> None:
    await lived(tmp_path)
    found = told("reports", "--state-dir", tmp_path)
    assert [one["report"] for one in found["reports"]] == [LEFT.to_json(), EMPTY.to_json()]
    assert found["reports"][0]["steps"] == [{"name": "signals", "seconds": 0.2}]
    assert [one["job_id"] for one in found["unknown"]] == ["job-2"]
    left = told("reports", "--state-dir", tmp_path, "--survivors")["reports"]
    assert [one["person"] for one in left] == ["ben"]
    anna = told("reports", "--state-dir", tmp_path, "--person", "anna", "--survivors")
    assert anna["reports"] == []


async def test_a_backend_of_a_living_service_is_not_unknown(tmp_path: Path) -> None:
    store = await Store.open(tmp_path)
    row = await store.new_conversation("anna", "codex", "")
    await runs(store, row.id, "anna", "daniel", "codex", 4711, "", "job")
    assert told("reports", "--state-dir", tmp_path) == {"reports": [], "unknown": []}
    await store.aclose()
    assert len(told("reports", "--state-dir", tmp_path)["unknown"]) == 1


def test_history_is_read_while_another_process_writes_and_after_it_was_killed(tmp_path: Path) -> None:
    process, pipe = starts(tmp_path, "none")
    try:
        while pipe.recv()[0] != "ended":
            pass
        counts = [len(told("history", "--state-dir", tmp_path)["conversations"][0]["turns"]) for _ in range(5)]
        assert counts == sorted(counts)
        assert counts[0] >= 1
    finally:
        process.kill()
        process.join(20)
        pipe.close()
    turns = told("history", "--state-dir", tmp_path)["conversations"][0]["turns"]
    assert len(turns) >= counts[-1]


async def test_a_store_that_cannot_be_read_is_an_error_with_a_sentence(tmp_path: Path) -> None:
    await (await Store.open(tmp_path)).aclose()
    with closing(sqlite3.connect(tmp_path / "corral.db")) as connection:
        connection.execute("pragma user_version = 99")
    newer = corral("history", "--state-dir", tmp_path)
    assert newer.exit_code == 1
    assert "was written by a newer Corral" in newer.stderr
    (tmp_path / "corral.db").write_bytes(b"nonsense" * 1000)
    damaged = corral("reports", "--state-dir", tmp_path)
    assert damaged.exit_code == 1
    assert "it is damaged" in damaged.stderr
    (tmp_path / "corral.db").write_bytes(b"")
    empty = corral("history", "--state-dir", tmp_path)
    assert (empty.exit_code, empty.stdout) == (1, "")
    assert "corral.db is empty, which no store is" in empty.stderr
