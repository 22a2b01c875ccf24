"""What test_backend_contract.py promises, on the real engines and the offline model, and what only they can show."""

import base64
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from corral.backends.backend import Answer, Choices, Input, Limits
from corral.backends.backend_process import BackendProcess
from corral.backends.errors import ResumeError
from corral.backends.events import ApprovalRequested, Reasoning, Text, ToolEnded, ToolStarted, TurnEnded, Usage
from corral.backends.launch import Launch
from corral.offline import Fail, OfflineModel, Pause, Run, Say, Script, Think, Turn
from tests.harness import truth
from tests.harness.backends import collect, of, reach, rest, text
from tests.harness.engines import Engine
from tests.harness.service import Service
from tests.harness.stage import Account
from tests.harness.waiting import until

pytestmark = pytest.mark.slow

Start = Callable[..., Awaitable[BackendProcess]]
PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
UNKNOWN = "01890000-0000-7000-8000-000000000000"
# claude refuses a bare `sleep`, and both may run it.
WORK = "/usr/bin/python3 -c 'import time; time.sleep(300)'"


def by_message(**turns: Turn) -> Script:
    """A script that goes by the words of a message and not by its number: a turn that was cut counts differently."""
    return Script(then=lambda message: turns.get(message, Turn(Say("what?"))))


@pytest.fixture
async def start(engine: Engine, service: Service, tmp_path: Path) -> AsyncIterator[Start]:
    """Start the engine on a model under this account, with a home of its own; what a test did not end is ended."""
    started: list[BackendProcess] = []
    home = tmp_path / "home"
    (tmp_path / "state").mkdir(mode=0o700)

    async def begin(
        model: OfflineModel,
        conversation: str | None = None,
        *,
        asks: bool = False,
        limits: Limits | None = None,
        **launch: Any,
    ) -> BackendProcess:
        engine.point(home, model.base_url, allow=not asks)
        env = {"HOME": str(home), "CORRAL_TEST_MARKER": service.folder.name}
        settings = {"workspace": service.folder, "env": env, "state_dir": tmp_path / "state", "grace": 1.0, **launch}
        backend = BackendProcess(engine.asking() if asks else engine.kind(), Launch(**settings), limits)
        started.append(backend)
        await backend.start(conversation)
        return backend

    yield begin
    for backend in started:
        ended = await backend.end()
        assert ended.report.verdict == "proven_empty", ended
    service.wait_empty()


async def test_a_turn_streams_thinks_runs_a_command_and_answers_again(start: Start) -> None:
    script = Script([Turn(Think("Where is it?"), Say("Let me look."), Run("echo out-of-the-shell"), Say("All done."))])
    async with OfflineModel(script) as model:
        backend = await start(model)
        events = await collect(backend, "please")
        assert model.requests[0].message == "please"
        assert "out-of-the-shell" in model.requests[-1].results[0]
    messages: dict[str, str] = {}
    for event in of(Text, events):
        messages[event.message_id] = messages.get(event.message_id, "") + event.delta
    assert list(messages.values()) == ["Let me look.", "All done."]
    assert len(of(Text, events)) > 3, "the text must come in pieces"
    assert "".join(event.delta for event in of(Reasoning, events)) == "Where is it?"
    [began], [ended] = of(ToolStarted, events), of(ToolEnded, events)
    assert began.kind == ended.kind == "command"
    assert "echo out-of-the-shell" in began.title
    assert (ended.status, ended.exit_code, ended.output.strip()) == ("completed", 0, "out-of-the-shell")
    assert sum(usage.output_tokens for usage in of(Usage, events)) > 0
    assert all(usage.conversation_tokens > 0 for usage in of(Usage, events))
    assert events[-1] == TurnEnded("completed")


async def test_a_command_that_fails_says_its_status(start: Start) -> None:
    async with OfflineModel(Script([Turn(Run("echo no; exit 3"), Say("well"))])) as model:
        [tool] = of(ToolEnded, await collect(await start(model), "go"))
        assert (tool.status, tool.exit_code) == ("failed", 3)


async def test_another_backend_goes_on_with_a_conversation(start: Start) -> None:
    script = Script([Turn(Say("one")), Turn(Say("two"))])
    async with OfflineModel(script) as model:
        backend = await start(model)
        assert not backend.conversation, "before its first turn there is nothing to go on with"
        assert text(await collect(backend, "a")) == "one"
        await backend.end()
        again = await start(model, backend.conversation)
        assert again.started.resumed
        assert text(await collect(again, "b")) == "two"
        assert again.conversation == backend.conversation


async def test_an_unknown_conversation_is_not_gone_on_with(start: Start) -> None:
    async with OfflineModel() as model:
        with pytest.raises(ResumeError, match=UNKNOWN):
            await start(model, UNKNOWN)


@pytest.mark.parametrize("damage", ["empty", "nul", "headless", "folder"])
async def test_a_conversation_whose_file_is_damaged_is_gone_on_with_or_is_as_one_removed(
    start: Start, tmp_path: Path, damage: str
) -> None:
    async with OfflineModel(Script([Turn(Say("one")), Turn(Say("two"))])) as model:
        backend = await start(model)
        await collect(backend, "a")
        await backend.end()
        [path] = (one for one in (tmp_path / "home").rglob("*.jsonl") if backend.conversation in one.name)
        whole = path.read_bytes()
        path.unlink()
        if damage == "folder":
            path.mkdir()
        else:
            headless = whole.partition(b"\n")[2]
            path.write_bytes({"empty": b"", "nul": b"\0" * len(whole), "headless": headless}[damage])
        try:
            again = await start(model, backend.conversation)
        except ResumeError:
            return  # as for a file that was removed
        assert text(await collect(again, "b")) == "two", "claude reads what is left of it"


async def test_the_conversation_outlives_a_kill_in_the_middle_of_a_turn(start: Start) -> None:
    script = by_message(a=Turn(Say("one")), b=Turn(Run(WORK)), c=Turn(Say("three")))
    async with OfflineModel(script) as model:
        backend = await start(model)
        await collect(backend, "a")
        events = backend.send(Input("b"))
        await reach(events, ToolStarted)
        os.kill(backend.job.pid, signal.SIGKILL)
        end = (await rest(events))[-1]
        assert end.status == "failed"
        assert "in the middle of the turn" in end.reason
        assert (await backend.wait()).report.verdict == "proven_empty"
        again = await start(model, backend.conversation)
        events_again = await collect(again, "c")
        assert events_again[-1] == TurnEnded("completed")
        messages = [seen.message for seen in model.requests]
        assert messages.count("c") >= 1
        assert not [message for message in messages[messages.index("c") :] if message == "b"], "b is not sent again"


async def test_an_interrupt_ends_the_turn_and_all_that_it_started_and_keeps_the_conversation(
    start: Start, service: Service
) -> None:
    ran = service.folder / "ran"
    far = "import os, time; os.setsid(); os.fork() and os._exit(0); time.sleep(302)"
    command = f"""/usr/bin/python3 -c '{far}' & (trap "" TERM; {WORK}) & touch {ran}; {WORK}"""
    async with OfflineModel(Script([Turn(Say("Working."), Run(command)), Turn(Say("ok"))])) as model:
        backend = await start(model)
        events = backend.send(Input("go"))
        await reach(events, ToolStarted)
        await until(
            lambda: len(_workers(service)) >= 3 and ran.exists(),
            what="the command ran",
            picture=lambda: truth.picture(service.judge.alive()),
        )
        assert await backend.interrupt()
        assert _workers(service) == [], "a daemon of its own session included, when interrupt returns"
        assert (await rest(events))[-1] == TurnEnded("interrupted", "stopped on request")
        assert not backend.gone
        assert text(await collect(backend, "and now?")) == "ok"


async def test_what_an_earlier_turn_left_running_outlives_the_next_turn_but_not_the_backend(
    start: Start, service: Service
) -> None:
    # Until it is in a session of its own, the oldest codex takes it along with the command that started it.
    apart = service.folder / "apart"
    served = f'setsid sh -c "touch {apart}; exec {WORK}" >/dev/null 2>&1 & until test -e {apart}; do :; done'
    script = Script([Turn(Run("echo here"), Say("seen")), Turn(Run(served), Say("it runs")), Turn(Say("still"))])
    async with OfflineModel(script) as model:
        backend = await start(model)
        assert text(await collect(backend, "look")) == "seen"
        assert await backend.background() == [], "neither what the engine has of its own nor a command that is over"
        await collect(backend, "start a server")
        await until(
            lambda: _workers(service), what="the server ran", picture=lambda: truth.picture(service.judge.alive())
        )
        assert text(await collect(backend, "and?")) == "still"
        assert len(_workers(service)) == 1
        assert [truth.look(process.pid).command for process in await backend.background()] == _workers(service)
        ended = await backend.end()
        assert ended.report.verdict == "proven_empty", ended
        assert _workers(service) == []
        assert [step.name for step in ended.steps] == ["goodbye", "end_of_input", "signals"]


@pytest.mark.parametrize("decision", ["accept", "decline"])
async def test_an_approval_is_asked_for_and_its_answer_counts(start: Start, service: Service, decision: Any) -> None:
    made = service.folder / "made"
    script = Script([Turn(Run(f"touch {made}", escalate=True), Say("So be it."))])
    async with OfflineModel(script) as model:
        backend = await start(model, asks=True)
        events = await collect(backend, "go", [Answer(decision)])
        [asked] = of(ApprovalRequested, events)
        assert asked.kind == "command"
        assert f"touch {made}" in asked.what
        assert of(ToolEnded, events)[0].status == ("completed" if decision == "accept" else "declined")
        assert made.exists() == (decision == "accept")
        assert text(events) == "So be it."
        assert events[-1].status == "completed"


async def test_leave_for_the_session_is_asked_for_once(start: Start, service: Service, engine: Engine) -> None:
    made = service.folder / "made"
    command = Run(f"touch {made}", escalate=True)
    async with OfflineModel(Script([Turn(command, Say("one")), Turn(command, Say("two"))])) as model:
        backend = await start(model, asks=True)
        first = await collect(backend, "go", [Answer("accept_for_session")])
        if "accept_for_session" not in of(ApprovalRequested, first)[0].decisions:
            pytest.skip(f"this {engine.name} offers no leave for the session here")
        assert made.exists()
        second = await collect(backend, "again")
        assert of(ApprovalRequested, second) == []
        assert of(ToolEnded, second)[0].status == "completed"


async def test_a_message_is_folded_into_the_running_turn(start: Start, service: Service) -> None:
    gate = service.folder / "gate"
    wait = f"/usr/bin/python3 -c 'import os, time\nwhile not os.path.exists(\"{gate}\"): time.sleep(0.05)'"
    async with OfflineModel(Script([Turn(Run(wait), Say("done"))], then=lambda _: Turn(Say("done too")))) as model:
        backend = await start(model)
        events = backend.send(Input("go"))
        await reach(events, ToolStarted)
        assert await backend.steer(Input("and hurry up"))
        gate.touch()
        got = await rest(events)
        assert got[-1] == TurnEnded("completed")
        assert any("and hurry up" in str(seen.body) for seen in model.requests)
        assert not backend.busy


async def test_a_picture_and_a_file_reach_the_model(start: Start, tmp_path: Path) -> None:
    picture, notes = tmp_path / "pixel.png", tmp_path / "notes.txt"
    picture.write_bytes(PIXEL)
    async with OfflineModel() as model:
        backend = await start(model)
        events = await collect(backend, Input("look", images=(picture,), files=(notes,)))
        assert events[-1] == TurnEnded("completed")
        asked = str(model.requests[-1].body)
        assert base64.b64encode(PIXEL).decode()[:40] in asked
        assert str(notes) in asked


async def test_model_and_effort_can_be_chosen_for_a_turn(start: Start, engine: Engine) -> None:
    async with OfflineModel() as model:
        backend = await start(model)
        chosen = "gpt-5.4" if engine.name == "codex" else "claude-haiku-4-5"
        await collect(backend, "a", choices=Choices(effort="low"))
        effort = model.requests[-1].body
        assert "low" in str(effort.get("reasoning") or effort.get("output_config"))
        await collect(backend, "b", choices=Choices(model=chosen))
        assert model.requests[-1].body["model"] == chosen


async def test_a_model_that_refuses_fails_the_turn_with_its_reason(start: Start) -> None:
    async with OfflineModel(by_message(one=Turn(Fail("the model is on holiday")), two=Turn(Say("back")))) as model:
        backend = await start(model)
        end = (await collect(backend, "one"))[-1]
        assert end.status == "failed"
        assert "on holiday" in end.reason
        assert text(await collect(backend, "two")) == "back"


async def test_a_silent_model_times_out_and_the_backend_goes_on(start: Start) -> None:
    async with OfflineModel(Script([Turn(Say("hm"), Pause(60)), Turn(Say("back"))])) as model:
        backend = await start(model)
        end = (await collect(backend, "one", limits=Limits(silence=1.0)))[-1]
        assert end == TurnEnded("timed_out", "the turn reached 1 s of silence")
        assert not backend.gone
        assert text(await collect(backend, "two")) == "back"


async def test_lines_of_megabytes_come_through(start: Start) -> None:
    long = "x" * 3_000_000
    async with OfflineModel(Script([Turn(Say(long))])) as model:
        assert text(await collect(await start(model), "go")) == long


@pytest.mark.cross_account
async def test_a_whole_conversation_runs_as_another_account(
    start: Start, engine: Engine, service: Service, person: Account
) -> None:
    script = Script([Turn(Run("id -un; pwd"), Say("hello")), Turn(Run(f"setsid {WORK} & {WORK}"))])
    async with OfflineModel(script) as model:
        engine.point(person.home, model.base_url, person.uid)
        try:
            backend = await start(model, user=person.name, workspace=None, env={})
            assert backend.started.user == person.name
            events = await collect(backend, "who am I?")
            assert of(ToolEnded, events)[0].output.split() == [person.name, str(person.home)]
            running = backend.send(Input("work"))
            await reach(running, ToolStarted)
            await until(lambda: len(_workers(service)) >= 2, what="the commands ran as the person")
            ended = await backend.end()
            assert ended.report.verdict == "proven_empty", ended
            assert (await rest(running))[-1].status == "interrupted"
        finally:
            engine.forget(person.home)
    service.wait_empty()


def _workers(service: Service) -> list[str]:
    return [one.command for one in service.judge.alive() if one.name.startswith("python") and "sleep(30" in one.command]
