"""What is codex's own on the wire, with a stand-in for what the real one cannot be made to do."""

import json
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from corral.backends.backend import Answer, Choices, Input
from corral.backends.backend_process import BackendProcess
from corral.backends.codex import Codex, find_codex
from corral.backends.codex.turn_reader import LOST_FOLDER
from corral.backends.errors import EngineNotFoundError
from corral.backends.events import ApprovalRequested, Notice, Text, TurnEnded, TurnEvent, Usage
from corral.backends.launch import Launch
from corral.process import StartError
from tests.harness.backends import check, collect, of, reach, rest, running, scripted, text

FAKE = Path(__file__).with_name("fake_codex.py")


@dataclass(frozen=True, slots=True)
class Fake(Codex):
    def argv(self, _: Any) -> list[str]:
        return list(self.command)


@asynccontextmanager
async def fake(mode: str, tmp_path: Path) -> AsyncIterator[BackendProcess]:
    async with running(Fake((sys.executable, str(FAKE), mode)), tmp_path) as backend:
        yield backend


async def answer_all(backend: BackendProcess, answers: Mapping[str, Answer]) -> tuple[list[TurnEvent], dict[str, Any]]:
    """Hold a turn in which codex asks everything at once; approvals are answered by their kind."""
    events = []
    async for event in backend.send(Input("go")):
        events.append(event)
        if isinstance(event, ApprovalRequested):
            assert backend.answer(event.approval_id, answers.get(event.kind, Answer("decline")))
    check(events)
    return events, json.loads(text(events))


async def test_a_request_that_codex_was_too_busy_for_is_sent_again(tmp_path: Path) -> None:
    async with fake("overloaded", tmp_path) as backend:
        assert (await collect(backend, "go"))[-1] == TurnEnded("completed")


async def test_every_request_of_codex_is_answered_and_no_means_no(tmp_path: Path) -> None:
    async with fake("asks", tmp_path) as backend:
        events, answers = await answer_all(backend, {})
    assert answers["future/request"]["code"] == -32601
    assert answers["item/tool/requestUserInput"] == {"answers": {}}
    for name in ("", "/url", "/own", "/tool"):
        assert answers[f"mcpServer/elicitation/request{name}"] == {"action": "decline", "content": None}
    assert answers["item/tool/call"]["success"] is False
    assert answers["item/permissions/requestApproval"] == {"permissions": {}}
    assert answers["item/fileChange/requestApproval"] == {"decision": "decline"}
    assert answers["item/commandExecution/requestApproval"] == {"decision": "decline"}
    assert "denied" in answers["execCommandApproval"]["decision"]
    assert answers["currentTime/read"]["currentTimeAt"] > 1_700_000_000
    asked = {event.kind: event for event in of(ApprovalRequested, events)}
    assert set(asked) == {"permissions", "file_change", "command", "question", "link", "mcp"}
    assert asked["file_change"].what == "change a.txt", "codex names the files only when the change begins"
    assert asked["link"].what == "https://a.b"
    assert asked["mcp"].what == "Use it?"


async def test_what_a_person_allows_and_answers_reaches_codex_as_it_wants_it(tmp_path: Path) -> None:
    session = Answer("accept_for_session")
    said = Answer("accept", {"q": ["Blue"], "age": ["36"], "sure": ["yes"]})
    given = dict.fromkeys(("permissions", "file_change", "command", "mcp"), session)
    async with fake("asks", tmp_path) as backend:
        _, answers = await answer_all(backend, {**given, "question": said, "link": Answer("accept")})
    granted = {"permissions": {"network": {"enabled": True}}, "scope": "session"}
    assert answers["item/permissions/requestApproval"] == granted
    assert answers["item/fileChange/requestApproval"] == {"decision": "acceptForSession"}
    assert answers["item/commandExecution/requestApproval"] == {"decision": "acceptForSession"}
    assert answers["item/tool/requestUserInput"] == {"answers": {"q": {"answers": ["Blue"]}}}
    assert answers["mcpServer/elicitation/request"] == {"action": "accept", "content": {"age": 36, "sure": True}}
    assert answers["mcpServer/elicitation/request/url"] == {"action": "accept", "content": None}
    assert answers["mcpServer/elicitation/request/tool"]["_meta"] == {"persist": "session"}


async def test_an_answer_that_the_form_does_not_take_is_a_no(tmp_path: Path) -> None:
    async with fake("asks", tmp_path) as backend:
        _, answers = await answer_all(backend, {"question": Answer("accept", {"age": ["old"]})})
    assert answers["mcpServer/elicitation/request"] == {"action": "decline", "content": None}


async def test_text_that_was_not_streamed_comes_with_the_item(tmp_path: Path) -> None:
    async with fake("chatty", tmp_path) as backend:
        events = await collect(backend, "go")
        again = await collect(backend, "go")
    assert [event.delta for event in of(Text, events)] == ["never streamed", "part", "ly"]
    for turn in (events, again):
        assert [usage.output_tokens for usage in of(Usage, turn)] == [5], "what 0.125 says twice counts once"
    notices = [notice.message for notice in of(Notice, events)]
    assert "codex: busy; it tries again" in notices
    limit = "codex: over 90 % of the account's limit of 5 hours is used; it begins anew at 2027-01-15 08:00 UTC"
    assert limit in notices
    assert [notice.message for notice in of(Notice, again)] == ["codex: busy; it tries again"], "warned once"


async def test_commands_that_cannot_be_started_are_told_once_in_a_turn(tmp_path: Path) -> None:
    async with running(scripted("codex", "no_folder"), tmp_path) as backend:
        events = await collect(backend, "go")
    assert [event for event in events if isinstance(event, Notice | Text)] == [
        Text("1", "m"),
        Notice(LOST_FOLDER),
        Text("2", "m"),
        Text("3", "m"),
    ]


async def test_an_interrupt_that_gets_no_answer_is_asked_again(tmp_path: Path) -> None:
    async with fake("silent", tmp_path) as backend:
        events = backend.send(Input("go"))
        await reach(events, Text)
        assert await backend.interrupt()
        assert (await rest(events))[-1].status == "interrupted"
        assert not backend.gone


async def test_an_effort_that_codex_does_not_know_is_refused_before_the_turn(tmp_path: Path) -> None:
    async with fake("plain", tmp_path) as backend:
        end = (await collect(backend, "go", choices=Choices(effort="banana")))[-1]
        assert end == TurnEnded("failed", "unknown effort 'banana': codex has high, low")
        assert (await collect(backend, "go", choices=Choices(effort="high")))[-1] == TurnEnded("completed")


async def test_a_command_that_does_not_exist_is_a_start_error(tmp_path: Path) -> None:
    with pytest.raises(StartError) as caught:
        await BackendProcess(Codex([str(tmp_path / "nothing")]), Launch(workspace=tmp_path, state_dir=tmp_path)).start()
    assert caught.value.kind == "not_found"


def test_a_missing_codex_is_told_with_its_cure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "codex_cli_bin", None)
    with pytest.raises(EngineNotFoundError, match=r"npm install -g @openai/codex.*\[codex\]"):
        find_codex(str(tmp_path))
    program = tmp_path / "codex"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    assert find_codex(str(tmp_path)) == [str(program)]
