"""What is claude's own, on the real claude and the offline model."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from corral.backends.backend import Answer, Choices, Input
from corral.backends.backend_process import BackendProcess
from corral.backends.claude import Claude, find_claude
from corral.backends.errors import BackendError, EngineNotFoundError, ResumeError
from corral.backends.events import ApprovalRequested, Notice, Text, ToolEnded, ToolStarted, TurnEnded, Usage
from corral.backends.launch import Launch
from corral.offline import Call, OfflineModel, Pause, Run, Say, Script, Turn
from tests.harness.backends import collect, of, reach, rest, running, scripted, text
from tests.harness.engines import Engine
from tests.harness.service import Service
from tests.harness.waiting import until

pytestmark = [pytest.mark.claude, pytest.mark.slow]

Start = Callable[..., Awaitable[BackendProcess]]
WORK = "/usr/bin/python3 -c 'import time; time.sleep(300)'"


@pytest.fixture
async def start(claude_command: list[str], service: Service, tmp_path: Path) -> AsyncIterator[Start]:
    """Start claude on a model with a home of its own; what a test did not end is ended."""
    started: list[BackendProcess] = []
    engine = Engine("claude", claude_command[0], "npm")
    (tmp_path / "state").mkdir(mode=0o700)

    async def begin(model: OfflineModel, *, allow: bool = True, **settings: Any) -> BackendProcess:
        engine.point(tmp_path / "home", model.base_url, allow=allow)
        env = {"HOME": str(tmp_path / "home"), "CORRAL_TEST_MARKER": service.folder.name}
        launch = Launch(workspace=service.folder, env=env, state_dir=tmp_path / "state", grace=1.0)
        backend = BackendProcess(Claude(claude_command, **settings), launch)
        started.append(backend)
        await backend.start()
        return backend

    yield begin
    for backend in started:
        assert (await backend.end()).report.verdict == "proven_empty"
    service.wait_empty()


async def test_a_question_of_the_agent_is_answered_with_the_person_s_words(start: Start) -> None:
    options = [{"label": "Red", "description": "warm"}, {"label": "Blue", "description": "cold"}]
    asked = {"question": "Which colour?", "header": "Colour", "multiSelect": False, "options": options}
    script = Script([Turn(Call("AskUserQuestion", {"questions": [asked]}), Say("Noted."))])
    async with OfflineModel(script) as model:
        backend = await start(model)
        events = await collect(backend, "go", [Answer("accept", {"Which colour?": ["Blue"]})])
        [approval] = of(ApprovalRequested, events)
        assert approval.kind == "question"
        [question] = approval.questions
        assert (question.text, question.options) == ("Which colour?", ("Red", "Blue"))
        assert "Blue" in model.requests[-1].results[0]
        assert text(events) == "Noted."


async def test_leave_for_the_session_is_not_written_into_the_project(start: Start, service: Service) -> None:
    made = service.folder / "made"
    touch = Run(f"touch {made}")
    async with OfflineModel(Script([Turn(touch, Say("one")), Turn(touch, Say("two"))])) as model:
        backend = await start(model, allow=False)
        await collect(backend, "go", [Answer("accept_for_session")])
        assert of(ApprovalRequested, await collect(backend, "again")) == []
        assert not (service.folder / ".claude").exists()


async def test_cancel_declines_and_stops_the_turn(start: Start, service: Service) -> None:
    async with OfflineModel(Script([Turn(Run(f"touch {service.folder}/x"), Say("never")), Turn(Say("ok"))])) as model:
        backend = await start(model, allow=False)
        events = await collect(backend, "go", [Answer("cancel")])
        assert events[-1].status == "interrupted"
        assert of(ToolEnded, events)[0].status == "declined"
        assert not (service.folder / "x").exists()


async def test_a_background_task_of_the_turn_is_stopped_with_it(start: Start, service: Service) -> None:
    task = Call("Bash", {"command": WORK, "run_in_background": True})
    async with OfflineModel(Script([Turn(task, Say("hm"), Pause(60)), Turn(Say("ok"))])) as model:
        backend = await start(model)
        events = backend.send(Input("go"))
        await reach(events, Text)
        await until(lambda: _workers(service), what="the task ran")
        assert await backend.interrupt()
        assert not _workers(service)
        assert (await rest(events))[-1].status == "interrupted"
        assert text(await collect(backend, "and now?")) == "ok"


async def test_a_background_task_does_not_keep_claude_alive_beyond_its_end(start: Start, service: Service) -> None:
    task = Call("Bash", {"command": WORK, "run_in_background": True})
    async with OfflineModel(Script([Turn(task, Say("it runs"))])) as model:
        backend = await start(model)
        await collect(backend, "go")
        assert _workers(service), "between turns it goes on"
        ended = await backend.end()
        assert ended.report.cause == "exit", "claude ended by itself, at the end of its input"
        assert not ended.report.signals


async def test_a_turn_that_claude_makes_of_itself_is_no_turn_of_the_person_s(start: Start, service: Service) -> None:
    gate = service.folder / "gate"
    wait = f"/usr/bin/python3 -c 'import os, time\nwhile not os.path.exists(\"{gate}\"): time.sleep(0.05)'"
    task = Call("Bash", {"command": wait, "run_in_background": True})

    def then(message: str) -> Turn:
        return {"go": Turn(task, Say("it runs")), "next": Turn(Say("here"))}.get(message, Turn(Say("it is over")))

    async with OfflineModel(Script(then=then)) as model:
        backend = await start(model)
        assert text(await collect(backend, "go")) == "it runs"
        asked = len(model.requests)
        gate.touch()
        await until(lambda: len(model.requests) > asked, what="claude went on by itself")
        assert not backend.busy
        events = await collect(backend, "next")
        assert text(events) == "here"
        assert events[-1] == TurnEnded("completed")


async def test_a_turn_that_claude_makes_of_itself_can_be_stopped(start: Start, service: Service) -> None:
    gate = service.folder / "gate"
    wait = f"/usr/bin/python3 -c 'import os, time\nwhile not os.path.exists(\"{gate}\"): time.sleep(0.05)'"
    task = Call("Bash", {"command": wait, "run_in_background": True})

    asked: list[str] = []

    def then(message: str) -> Turn:
        asked.append(message)
        if message == "next":
            return Turn(Say("here"))
        # The third request is claude's own: its place in the script is that of the second.
        return Turn(task, Run(WORK) if asked.count("go") > 2 else Say("it runs"))

    async with OfflineModel(Script(then=then)) as model:
        backend = await start(model)
        await collect(backend, "go")
        gate.touch()
        await until(
            lambda: _workers(service),
            what="claude ran a command by itself",
            picture=lambda: f"{[(s.message, s.results) for s in model.requests]}",
        )
        assert await backend.interrupt()
        await until(lambda: not _workers(service), what="it was gone")
        assert text(await collect(backend, "next")) == "here"


async def test_a_conversation_is_no_option_of_claude_s(claude_command: list[str], tmp_path: Path) -> None:
    backend = BackendProcess(
        Claude(claude_command), Launch(workspace=tmp_path, state_dir=tmp_path, env={"HOME": str(tmp_path)})
    )
    with pytest.raises(ResumeError):
        await backend.start("--version")


async def test_a_message_that_comes_too_late_to_be_folded_in_is_answered_in_the_same_turn(start: Start) -> None:
    turns = [Turn(Say("a long story, and it goes on", pause=0.2)), Turn(Say("and this"))]
    async with OfflineModel(Script(turns)) as model:
        backend = await start(model)
        events = backend.send(Input("go"))
        await reach(events, Text)
        assert await backend.steer(Input("and that?"))
        got = await rest(events)
        assert "and this" in text(got)
        assert got[-1] == TurnEnded("completed")
        assert not backend.busy


async def test_a_stop_takes_the_messages_back_that_wait(start: Start) -> None:
    turns = [Turn(Say("a long story, and it goes on and on and on", pause=0.5)), Turn(Say("ok"))]
    async with OfflineModel(Script(turns)) as model:
        backend = await start(model)
        events = backend.send(Input("go"))
        await reach(events, Text)
        assert await backend.steer(Input("and that?"))
        assert await backend.interrupt()
        assert (await rest(events))[-1].status == "interrupted"
        assert text(await collect(backend, "next")) == "ok"
        assert not [seen for seen in model.requests if seen.message == "and that?"]


async def test_what_was_used_adds_up_also_over_a_resumption(
    start: Start, claude_command: list[str], tmp_path: Path
) -> None:
    async with OfflineModel() as model:
        backend = await start(model)
        [first] = of(Usage, await collect(backend, "one"))
        [second] = of(Usage, await collect(backend, "two"))
        await backend.end()
        again = BackendProcess(backend.kind, backend.launch)
        async with again:
            pass
        other = BackendProcess(backend.kind, backend.launch)
        await other.start(backend.conversation)
        try:
            [third] = of(Usage, await collect(other, "three"))
        finally:
            await other.end()
    for usage in (first, second, third):
        assert usage.cost is not None
        assert usage.context_window
    assert 0 < third.cost < first.cost + second.cost, "not what the conversation cost so far"


async def test_a_command_of_claude_s_own_says_its_result(start: Start) -> None:
    async with OfflineModel() as model:
        backend = await start(model)
        events = await collect(backend, "/cost")
        assert text(events)
        assert events[-1] == TurnEnded("completed")


async def test_an_effort_that_claude_does_not_know_is_refused_before_the_turn(start: Start) -> None:
    async with OfflineModel() as model:
        backend = await start(model)
        end = (await collect(backend, "go", choices=Choices(effort="banana")))[-1]
        assert end.status == "failed"
        assert "unknown effort 'banana': claude has high, low" in end.reason
        assert not model.requests
        assert (await collect(backend, "go"))[-1] == TurnEnded("completed")


async def test_an_overloaded_model_is_told_of_while_claude_tries_again(start: Start) -> None:
    from corral.offline import Fail

    script = Script([Turn(Fail("Overloaded", status=529, times=1), Say("at last"))])
    async with OfflineModel(script) as model:
        events = await collect(await start(model), "go")
        assert any("tries again, 1 of" in notice.message for notice in of(Notice, events))
        assert text(events) == "at last"


async def test_a_setting_that_claude_refuses_is_told_with_claude_s_words(start: Start) -> None:
    async with OfflineModel() as model:
        with pytest.raises(BackendError, match="permission-mode"):
            await start(model, permission_mode="nonsense")


async def test_two_backends_share_nothing(start: Start) -> None:
    async with OfflineModel() as model:
        one, two = await asyncio.gather(start(model), start(model))
        first, second = await asyncio.gather(collect(one, "a"), collect(two, "b"))
        assert (text(first), text(second)) == ("You said: a", "You said: b")
        assert one.conversation != two.conversation


async def test_leave_asked_for_in_a_turn_of_claude_s_own_is_not_given(tmp_path: Path) -> None:
    async with running(scripted("claude", "asks_before"), tmp_path) as backend:
        events = await collect(backend, "go")
        assert of(ApprovalRequested, events) == []
        assert text(events) == "hello"


def test_a_missing_claude_is_told_with_its_cure(tmp_path: Path) -> None:
    with pytest.raises(EngineNotFoundError, match="npm install -g @anthropic-ai/claude-code"):
        find_claude(str(tmp_path))
    program = tmp_path / "claude"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    assert find_claude(str(tmp_path)) == [str(program)]


async def test_tools_are_named_for_a_person(start: Start, service: Service) -> None:
    (service.folder / "notes.txt").write_text("hello\n")
    read = Call("Read", {"file_path": str(service.folder / "notes.txt")})
    async with OfflineModel(Script([Turn(read, Say("I see"))])) as model:
        [tool] = of(ToolStarted, await collect(await start(model), "go"))
        assert (tool.kind, tool.title) == ("tool", f"Read {service.folder}/notes.txt")


def _workers(service: Service) -> list[str]:
    return [
        one.command for one in service.judge.alive() if one.name.startswith("python") and "sleep(300" in one.command
    ]
