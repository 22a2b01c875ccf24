"""The codex backend, against the real codex and the offline model; a stand-in for what codex cannot be made to do."""

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from corral.backends.codex import CodexBackend, find_codex
from corral.backends.codex import backend as codex_backend
from corral.backends.errors import BackendError, EngineNotFoundError, ResumeError, TurnRunningError
from corral.backends.events import (
    ApprovalRequested,
    BackendEnded,
    Decision,
    Notice,
    Text,
    ToolEnded,
    ToolStarted,
    TurnEnded,
    TurnEvent,
    TurnStarted,
    Usage,
    to_json,
)
from corral.offline import Fail, OfflineModel, Pause, Run, Say, Script, Turn, codex_overrides
from corral.process import StartError
from tests.harness.service import Service
from tests.harness.stage import Account
from tests.harness.waiting import until

FAKE = Path(__file__).with_name("fake_codex.py")
Start = Callable[..., Awaitable[CodexBackend]]


@pytest.fixture
async def start(codex_command: list[str], service: Service, tmp_path: Path) -> AsyncIterator[Start]:
    """Start the real codex on a model, with a home of its own; what a test did not end is ended after it."""
    started: list[CodexBackend] = []

    async def begin(model: OfflineModel, **options: Any) -> CodexBackend:
        # A home of its own: codex runs login shells, and what the developer's profile does in them takes its time.
        home = tmp_path / "home"
        (home / ".codex").mkdir(parents=True, exist_ok=True)
        env = {"HOME": str(home), "CODEX_HOME": str(home / ".codex"), "CORRAL_TEST_MARKER": service.folder.name}
        state_dir = tmp_path / "state"
        state_dir.mkdir(mode=0o700, exist_ok=True)
        settings = {"cwd": service.folder, "env": env, "state_dir": state_dir, "sandbox": "danger-full-access"}
        backend = await CodexBackend.start(
            codex_command, overrides=codex_overrides(model.base_url), **{**settings, **options}
        )
        started.append(backend)
        return backend

    yield begin
    for backend in started:
        await backend.end()


@asynccontextmanager
async def fake(mode: str, tmp_path: Path, **options: Any) -> AsyncIterator[CodexBackend]:
    async with await CodexBackend.start(
        [sys.executable, str(FAKE), mode], cwd=tmp_path, state_dir=tmp_path, **{"goodbye": 1.0, **options}
    ) as backend:
        yield backend


async def collect(events: AsyncIterator[TurnEvent], timeout: float = 30.0) -> list[TurnEvent]:
    """All events of a turn; it must have one end, and nothing behind it."""
    async with asyncio.timeout(timeout):
        got = [event async for event in events]
    assert [isinstance(event, TurnEnded) for event in got].count(True) == 1, got
    assert isinstance(got[-1], TurnEnded), got
    return got


def text(events: list[TurnEvent]) -> str:
    return "".join(event.delta for event in events if isinstance(event, Text))


def of(kind: type[Any], events: list[TurnEvent]) -> list[Any]:
    return [event for event in events if isinstance(event, kind)]


async def reach(events: AsyncIterator[TurnEvent], kind: type[Any]) -> Any:
    """The next event of a kind."""
    async with asyncio.timeout(30):
        async for event in events:
            if isinstance(event, kind):
                return event
    raise AssertionError(f"the turn ended without {kind.__name__}")


@pytest.mark.codex
async def test_a_turn_streams_text_runs_a_command_and_answers_again(start: Start, service: Service) -> None:
    script = Script([Turn(Say("Let me look."), Run("echo out-of-the-shell"), Say("All done."))])
    async with OfflineModel(script) as model:
        backend = await start(model)
        events = await collect(backend.turn("please"))
        report = await backend.end()
        assert model.requests[0].message == "please"
        assert "out-of-the-shell" in model.requests[-1].results[0]
    assert len(of(TurnStarted, events)) == 1
    messages = {event.message_id: "" for event in of(Text, events)}
    for event in of(Text, events):
        messages[event.message_id] += event.delta
    assert list(messages.values()) == ["Let me look.", "All done."]
    assert len(of(Text, events)) > 3, "the text must come in pieces"
    [began], [ended] = of(ToolStarted, events), of(ToolEnded, events)
    assert began.kind == "command"
    assert "echo out-of-the-shell" in began.title
    assert (ended.tool_id, ended.status, ended.exit_code, ended.output) == (
        began.tool_id,
        "completed",
        0,
        "out-of-the-shell\n",
    )
    assert (
        sum(usage.input_tokens + usage.output_tokens for usage in of(Usage, events))
        == of(Usage, events)[-1].thread_tokens
    )
    assert events[-1] == TurnEnded("completed")
    assert report.verdict == "proven_empty"
    service.wait_empty()


@pytest.mark.codex
async def test_turns_follow_each_other_and_the_conversation_is_resumed(start: Start) -> None:
    script = Script([Turn(Say("one")), Turn(Say("two")), Turn(Say("three"))])
    async with OfflineModel(script) as model:
        async with await start(model) as backend:
            assert text(await collect(backend.turn("a"))) == "one"
            assert text(await collect(backend.turn("b"))) == "two"
        async with await start(model, resume=backend.thread_id) as again:
            assert again.started.resumed
            assert again.thread_id == backend.thread_id
            assert text(await collect(again.turn("c"))) == "three"


@pytest.mark.codex
async def test_an_unknown_conversation_is_not_resumed_and_leaves_nothing(start: Start, service: Service) -> None:
    async with OfflineModel() as model:
        with pytest.raises(ResumeError, match="01890000-0000-7000-8000-000000000000"):
            await start(model, resume="01890000-0000-7000-8000-000000000000")
    service.wait_empty()


@pytest.mark.codex
async def test_interrupt_ends_the_turn_and_the_command_and_keeps_the_conversation(
    start: Start, service: Service
) -> None:
    pids = service.folder / "pid"
    script = Script(
        [Turn(Say("Working."), Run(f"echo $$ > {pids}; sleep 300 & sleep 301"), Say("never")), Turn(Say("ok"))]
    )
    async with OfflineModel(script) as model, await start(model) as backend:
        events = backend.turn("go")
        await reach(events, ToolStarted)
        await until(lambda: pids.exists() and pids.read_text().strip(), what="the command ran")
        sleeping = [seen for seen in service.judge.alive() if "sleep 30" in seen.command]
        assert sleeping
        assert await backend.interrupt()
        rest = await collect(events)
        assert rest[-1] == TurnEnded("interrupted", "stopped on request")
        await until(
            lambda: not [seen for seen in service.judge.alive() if "sleep 30" in seen.command],
            what="the command was gone while codex lives",
        )
        assert text(await collect(backend.turn("and now?"))) == "ok"
        assert not await backend.interrupt(), "no turn runs"


@pytest.mark.codex
async def test_a_second_turn_is_refused_while_one_runs(start: Start) -> None:
    async with (
        OfflineModel(Script([Turn(Say("hm"), Pause(60)), Turn(Say("two"))])) as model,
        await start(model) as backend,
    ):
        events = backend.turn("one")
        await reach(events, Text)
        with pytest.raises(TurnRunningError):
            await collect(backend.turn("two"))
        await backend.interrupt()
        assert (await collect(events))[-1].event == "turn_ended"


@pytest.mark.codex
@pytest.mark.parametrize("closes", [True, False])
async def test_a_caller_who_stops_reading_does_not_leave_the_backend_stuck(start: Start, closes: bool) -> None:
    async with (
        OfflineModel(Script([Turn(Say("hm"), Pause(60)), Turn(Say("two"))])) as model,
        await start(model) as backend,
    ):
        if closes:
            async with aclosing(backend.turn("one")) as events:
                await reach(events, Text)
        else:
            async for _ in backend.turn("one"):
                break
        assert text(await collect(backend.turn("next"), timeout=10)) == "two"


@pytest.mark.codex
async def test_a_cancelled_caller_does_not_leave_the_backend_stuck(start: Start) -> None:
    async with OfflineModel(Script([Turn(Pause(60)), Turn(Say("two"))])) as model, await start(model) as backend:
        reading = asyncio.create_task(collect(backend.turn("one")))
        await model.seen(lambda seen: seen.message == "one")
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        assert text(await collect(backend.turn("next"), timeout=10)) == "two"


@pytest.mark.codex
@pytest.mark.parametrize(("decision", "made"), [("decline", False), ("accept", True)])
async def test_an_approval_is_asked_for_and_its_answer_counts(
    start: Start, service: Service, decision: Decision, made: bool
) -> None:
    made_file = service.folder / "made"
    asked: list[ApprovalRequested] = []

    async def approve(approval: ApprovalRequested) -> Decision:
        asked.append(approval)
        return decision

    script = Script([Turn(Run(f"touch {made_file}", escalate=True), Say("So be it."))])
    async with OfflineModel(script) as model, await start(model, sandbox="read-only", approve=approve) as backend:
        events = await collect(backend.turn("go"))
    assert of(ApprovalRequested, events) == asked
    assert len(asked) == 1
    assert f"touch {made_file}" in asked[0].what
    assert of(ToolEnded, events)[0].status == ("completed" if made else "declined")
    assert made_file.exists() == made
    assert text(events) == "So be it."
    assert events[-1].status == "completed"


@pytest.mark.codex
async def test_approvals_are_declined_when_nobody_decides_or_the_policy_fails(start: Start, service: Service) -> None:
    async def fail(approval: ApprovalRequested) -> Decision:
        raise ValueError("a bug in a policy")

    async def never(approval: ApprovalRequested) -> Decision:
        await asyncio.Event().wait()
        return "accept"

    made_file = service.folder / "made"
    script = Script([Turn(Run(f"touch {made_file}", escalate=True), Say("fine"))])
    async with OfflineModel(script) as model:
        for options in ({}, {"approve": fail}, {"approve": never, "approval_timeout": 0.2}):
            async with await start(model, sandbox="read-only", **options) as backend:
                events = await collect(backend.turn("go"))
                assert of(ToolEnded, events)[0].status == "declined", options
                assert events[-1].status == "completed"
                assert backend.approvals_open == 0
    assert not made_file.exists()


@pytest.mark.codex
async def test_an_interrupt_while_an_approval_is_open_ends_both(start: Start) -> None:
    gone: list[str] = []

    async def never(approval: ApprovalRequested) -> Decision:
        try:
            await asyncio.Event().wait()
        finally:
            gone.append(approval.what)
        return "accept"

    script = Script([Turn(Run("touch x", escalate=True)), Turn(Say("on we go"))])
    async with OfflineModel(script) as model, await start(model, sandbox="read-only", approve=never) as backend:
        events = backend.turn("go")
        await reach(events, ApprovalRequested)
        assert await backend.interrupt()
        assert (await collect(events))[-1].status == "interrupted"
        await until(lambda: gone, what="the approval was dropped")
        assert text(await collect(backend.turn("next"))) == "on we go"


@pytest.mark.codex
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
async def test_a_death_in_the_middle_of_a_turn_fails_the_turn(start: Start, service: Service, number: int) -> None:
    async with OfflineModel(Script([Turn(Say("hm"), Pause(60))])) as model:
        backend = await start(model)
        events = backend.turn("go")
        await reach(events, Text)
        os.kill(backend.job.pid, number)
        end = (await collect(events))[-1]
        assert end.status == "failed"
        assert "codex ended with status" in end.reason
        assert "in the middle of the turn" in end.reason
        later = await collect(backend.turn("still there?"))
        assert later[-1].status == "failed"
        assert "codex ended" in later[-1].reason
        assert (await backend.end()).verdict == "proven_empty"
    service.wait_empty()


@pytest.mark.codex
async def test_a_model_that_refuses_fails_the_turn_with_its_reason(start: Start) -> None:
    script = Script([Turn(Fail("the model is on holiday")), Turn(Say("back"))])
    async with OfflineModel(script) as model, await start(model) as backend:
        end = (await collect(backend.turn("one")))[-1]
        assert end.status == "failed"
        assert "on holiday" in end.reason
        assert text(await collect(backend.turn("two"))) == "back"


@pytest.mark.codex
@pytest.mark.slow
async def test_lines_of_megabytes_come_through(start: Start) -> None:
    long = "x" * 3_000_000
    async with OfflineModel(Script([Turn(Say(long))])) as model, await start(model) as backend:
        assert text(await collect(backend.turn("go"))) == long


@pytest.mark.codex
async def test_ending_in_the_middle_of_a_command_leaves_nothing(start: Start, service: Service) -> None:
    ran = service.folder / "ran"
    command = f"setsid sh -c 'trap \"\" TERM HUP; touch {ran}; sleep 300' & sleep 301"
    async with OfflineModel(Script([Turn(Run(command))])) as model:
        backend = await start(model, grace=0.5)
        events = backend.turn("go")
        await reach(events, ToolStarted)
        await until(ran.exists, what="the command ran")
        first, second = await asyncio.gather(backend.end(), backend.end())
        assert first is second
        assert first.verdict == "proven_empty"
        assert (await collect(events))[-1] == TurnEnded("interrupted", "the backend was ended")
        assert to_json(BackendEnded(first))["report"]["verdict"] == "proven_empty"
    service.wait_empty()


@pytest.mark.codex
@pytest.mark.cross_account
async def test_a_whole_conversation_runs_as_another_account(start: Start, service: Service, person: Account) -> None:
    script = Script([Turn(Run("id -un; pwd"), Say("hello")), Turn(Run("setsid sleep 300 & sleep 301"))])
    async with OfflineModel(script) as model:
        backend = await start(model, user=person.name, cwd=None, env=None)
        assert backend.started.user == person.name
        events = await collect(backend.turn("who am I?"))
        assert of(ToolEnded, events)[0].output.split() == [person.name, str(person.home)]
        running = backend.turn("work")
        await reach(running, ToolStarted)
        await until(
            lambda: len([seen for seen in service.judge.alive() if "sleep 30" in seen.command]) >= 2,
            what="the commands ran as the person",
        )
        began = time.monotonic()
        report = await backend.end()
        assert time.monotonic() - began < 8
        assert report.verdict == "proven_empty"
        assert (await collect(running))[-1].status == "interrupted"
    service.wait_empty()


async def test_a_request_that_codex_was_too_busy_for_is_sent_again(tmp_path: Path) -> None:
    async with fake("overloaded", tmp_path) as backend:
        assert (await collect(backend.turn("go")))[-1] == TurnEnded("completed")


async def test_garbage_and_the_unknown_are_skipped(tmp_path: Path) -> None:
    async with fake("garbage", tmp_path) as backend:
        events = await collect(backend.turn("go"))
    assert text(events) == "survived"
    assert events[-1] == TurnEnded("completed")


async def test_every_request_of_codex_is_answered(tmp_path: Path) -> None:
    async with fake("asks", tmp_path) as backend:
        events = await collect(backend.turn("go"))
    answers = json.loads(text(events))
    assert answers["future/request"]["code"] == -32601
    assert answers["item/tool/requestUserInput"] == {"answers": {}}
    assert answers["mcpServer/elicitation/request"]["action"] == "decline"
    assert answers["item/tool/call"]["success"] is False
    assert answers["item/permissions/requestApproval"] == {"permissions": {}}
    assert answers["item/fileChange/requestApproval"] == {"decision": "decline"}
    assert answers["item/commandExecution/requestApproval"] == {"decision": "decline"}, "taken unoffered"
    assert "denied" in answers["execCommandApproval"]["decision"]
    assert {event.kind for event in of(ApprovalRequested, events)} == {"permissions", "file_change", "command"}
    assert any("Which one?" in notice.message for notice in of(Notice, events))


async def test_permission_is_granted_as_asked_for(tmp_path: Path) -> None:
    async def accept(approval: ApprovalRequested) -> Decision:
        return "accept_for_session"

    async with fake("asks", tmp_path, approve=accept) as backend:
        answers = json.loads(text(await collect(backend.turn("go"))))
    granted = {"permissions": {"network": {"enabled": True}}, "scope": "session"}
    assert answers["item/permissions/requestApproval"] == granted
    assert answers["item/fileChange/requestApproval"] == {"decision": "acceptForSession"}
    assert answers["item/commandExecution/requestApproval"] == {"decision": "accept"}, "for the session was not offered"


async def test_status_0_in_the_middle_of_a_turn_is_a_failure(tmp_path: Path) -> None:
    async with fake("exits", tmp_path) as backend:
        end = (await collect(backend.turn("go")))[-1]
    assert end.status == "failed"
    assert "status 0" in end.reason
    assert "the disk is full" in end.reason


async def test_text_that_was_not_streamed_comes_with_the_item_and_nothing_follows_the_end(tmp_path: Path) -> None:
    async with fake("chatty", tmp_path) as backend:
        events = await collect(backend.turn("go"))
        again = await collect(backend.turn("go"))
    assert [event.delta for event in of(Text, events)] == ["never streamed", "part", "ly"]
    assert events[-1] == TurnEnded("completed")
    assert {notice.message for notice in of(Notice, events)} == {"codex: busy; it tries again", "old model"}
    assert [notice.message for notice in of(Notice, again)] == ["codex: busy; it tries again"], "warned once"


async def test_a_codex_that_does_not_stop_ends_the_turn_and_takes_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(codex_backend, "INTERRUPT_TIMEOUT", 0.2)
    async with fake("deaf", tmp_path) as backend:
        events = backend.turn("go")
        await reach(events, Text)
        assert await backend.interrupt()
        assert (await collect(events))[-1].status == "interrupted"
        later = (await collect(backend.turn("more")))[-1]
        assert later.status == "failed"
        assert "did not confirm" in later.reason


@pytest.mark.parametrize(
    ("timers", "word"), [({"silence": 0.2}, "0.2 s of silence"), ({"limit": 0.3}, "limit of 0.3 s")]
)
async def test_a_turn_that_takes_too_long_is_stopped_and_says_by_which_timer(
    tmp_path: Path, timers: dict[str, float], word: str
) -> None:
    async with fake("silent", tmp_path) as backend:
        end = (await collect(backend.turn("go", **timers)))[-1]
        assert end.status == "timed_out"
        assert word in end.reason


async def test_an_open_approval_is_no_silence(tmp_path: Path) -> None:
    async def slow(approval: ApprovalRequested) -> Decision:
        await asyncio.sleep(0.5)
        return "decline"

    async with fake("asks", tmp_path, approve=slow) as backend:
        assert (await collect(backend.turn("go", silence=0.2)))[-1].status == "completed"


async def test_a_program_that_is_no_app_server_says_why(tmp_path: Path) -> None:
    with pytest.raises(BackendError, match="no such subcommand"):
        async with fake("mute", tmp_path):
            pass


async def test_a_command_that_does_not_exist_is_a_start_error(tmp_path: Path) -> None:
    with pytest.raises(StartError) as caught:
        await CodexBackend.start([str(tmp_path / "nothing")], cwd=tmp_path, state_dir=tmp_path)
    assert caught.value.kind == "not_found"


def test_a_missing_codex_is_told_with_its_cure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "codex_cli_bin", None)
    with pytest.raises(EngineNotFoundError, match="npm install -g @openai/codex"):
        find_codex(str(tmp_path))
    program = tmp_path / "codex"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    assert find_codex(str(tmp_path)) == [str(program)]
