"""What every engine's backend must hold (corral.backends.events), first against peers that misbehave in every way.

The same promises on the real binaries: test_real_backends.py.
"""

import asyncio
import os
import signal
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, aclosing
from pathlib import Path
from typing import Any

import pytest

from corral.backends import engine_process, holding
from corral.backends.backend import Answer, Input, Limits
from corral.backends.backend_process import BackendProcess
from corral.backends.errors import BackendError, InputError, LookError, TurnRunningError
from corral.backends.events import (
    ApprovalClosed,
    ApprovalRequested,
    Notice,
    Reasoning,
    Text,
    ToolEnded,
    ToolStarted,
    TurnEnded,
    TurnEvent,
    Usage,
)
from corral.backends.launch import Launch
from corral.backends.numbers import MOST_DOLLARS, MOST_TOKENS
from corral.backends.states import Opening
from corral.process import StartError
from tests.harness.backends import check, collect, of, reach, rest, running, scripted, text
from tests.harness.waiting import until

Scene = Callable[..., AbstractAsyncContextManager[BackendProcess]]


@pytest.fixture(params=["codex", "claude"])
def scene(request: pytest.FixtureRequest, tmp_path: Path) -> Scene:
    """Starts a backend of each engine with a peer that plays a scene."""

    def play(name: str, limits: Limits | None = None, **launch: Any) -> AbstractAsyncContextManager[BackendProcess]:
        return running(scripted(request.param, name), tmp_path, limits, **launch)

    return play


async def test_a_turn_streams_thoughts_and_words_and_completes(scene: Scene) -> None:
    async with scene("talk") as backend:
        events = await collect(backend, "go")
        assert "".join(event.delta for event in of(Reasoning, events)) == "hm"
        assert [event.delta for event in of(Text, events)] == ["hel", "lo"]
        assert events[-1] == TurnEnded("completed")
        assert text(await collect(backend, "again")) == "hello", "the backend holds one turn after the other"


async def test_a_tool_begins_and_ends(scene: Scene) -> None:
    async with scene("tool") as backend:
        events = await collect(backend, "go")
        assert of(ToolStarted, events) == [ToolStarted("t", "command", "make it")]
        [ended] = of(ToolEnded, events)
        assert (ended.status, ended.exit_code, ended.output) == ("completed", 0, "made")


@pytest.mark.parametrize("decision", ["accept", "decline"])
async def test_an_approval_waits_for_its_answer_and_is_closed(scene: Scene, decision: Any) -> None:
    async with scene("ask") as backend:
        events = await collect(backend, "go", [Answer(decision)])
        [asked], [closed] = of(ApprovalRequested, events), of(ApprovalClosed, events)
        assert (asked.kind, asked.what) == ("command", "make it")
        assert closed == ApprovalClosed(asked.approval_id, decision)
        assert text(events) == decision
        assert backend.approvals == ()
        assert not backend.answer(asked.approval_id, Answer("accept")), "it waits no more"


async def test_a_decision_that_was_not_offered_never_allows_more(scene: Scene) -> None:
    async with scene("ask") as backend:
        events = backend.send(Input("go"))
        asked = await reach(events, ApprovalRequested)
        wanted = "accept_for_session" if "accept_for_session" not in asked.decisions else "accept"
        assert backend.answer(asked.approval_id, Answer(wanted))
        assert not backend.answer(asked.approval_id, Answer("decline")), "the first answer counts"
        assert text(await rest(events)) == "accept"


async def test_an_approval_that_nobody_answers_is_declined(scene: Scene) -> None:
    async with scene("ask") as backend:
        events = backend.send(Input("go"), limits=Limits(approval=0.2))
        asked = await reach(events, ApprovalRequested)
        got = await rest(events)
        assert text(got) == "decline"
        assert ApprovalClosed(asked.approval_id, "decline") in got
        assert any("nobody answered" in notice.message for notice in of(Notice, got))


async def test_the_answer_that_cancels_stops_the_turn(scene: Scene) -> None:
    async with scene("ask") as backend:
        events = await collect(backend, "go", [Answer("cancel")])
        assert events[-1] == TurnEnded("interrupted", "stopped by the answer to an approval")
        assert not backend.gone


@pytest.mark.slow
async def test_an_open_approval_is_not_silence_and_closing_it_restarts_the_clock(scene: Scene) -> None:
    async with scene("ask", Limits(silence=0.3)) as backend:
        events = backend.send(Input("go"))
        asked = await reach(events, ApprovalRequested)
        since = time.monotonic()
        await until(lambda: time.monotonic() > since + 0.6, what="twice the silence had passed")
        assert backend.busy
        assert backend.answer(asked.approval_id, Answer("accept"))
        assert (await rest(events))[-1].status == "completed"


async def test_an_interrupt_closes_the_approval_that_is_open(scene: Scene) -> None:
    async with scene("ask") as backend:
        events = backend.send(Input("go"))
        asked = await reach(events, ApprovalRequested)
        assert await backend.interrupt()
        got = await rest(events)
        assert ApprovalClosed(asked.approval_id, None) in got
        assert got[-1] == TurnEnded("interrupted", "stopped on request")
        assert backend.approvals == ()


async def test_a_failure_has_the_engine_s_reason(scene: Scene) -> None:
    async with scene("fail") as backend:
        end = (await collect(backend, "go"))[-1]
        assert end == TurnEnded("failed", "the model is ill")
        assert (await collect(backend, "again"))[-1].status == "failed", "the backend goes on"


async def test_an_interrupt_ends_the_turn_and_keeps_the_backend(scene: Scene) -> None:
    async with scene("work") as backend:
        events = backend.send(Input("go"))
        await reach(events, Text)
        assert await backend.interrupt("enough")
        assert (await rest(events))[-1] == TurnEnded("interrupted", "enough")
        assert not backend.gone
        assert not backend.busy
        assert not await backend.interrupt(), "no turn runs"


async def test_an_engine_that_does_not_stop_is_ended_and_the_conversation_is_kept(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(holding, "INTERRUPT_TIMEOUT", 0.3)
    async with scene("deaf") as backend:
        events = backend.send(Input("go"))
        await reach(events, Text)
        assert await backend.interrupt()
        assert (await rest(events))[-1].status == "interrupted"
        ended = await asyncio.wait_for(backend.wait(), 20)
        assert ended.report.verdict == "proven_empty"
        assert "did not confirm the stop" in backend.gone
        assert backend.conversation
        later = await collect(backend, "more")
        assert later[-1].status == "failed"
        assert backend.gone in later[-1].reason


async def test_two_callers_do_not_disturb_each_other(scene: Scene) -> None:
    async with scene("work") as backend:
        events = backend.send(Input("one"))
        await reach(events, Text)
        with pytest.raises(TurnRunningError):
            await anext(backend.send(Input("two")))
        first, second = await asyncio.gather(backend.interrupt("first"), backend.interrupt("second"))
        assert first or second
        assert (await rest(events))[-1].status == "interrupted"


async def test_of_two_messages_at_once_one_has_its_turn_and_the_other_is_refused(scene: Scene) -> None:
    async with scene("talk") as backend:
        results = await asyncio.gather(collect(backend, "one"), collect(backend, "two"), return_exceptions=True)
        [refused] = [result for result in results if isinstance(result, BaseException)]
        [events] = [result for result in results if not isinstance(result, BaseException)]
        assert isinstance(refused, TurnRunningError)
        assert text(events) == "hello"
        assert text(await collect(backend, "three")) == "hello"


async def test_an_interrupt_right_behind_a_message_stops_its_turn(scene: Scene) -> None:
    async with scene("work") as backend:
        reading = asyncio.create_task(collect(backend, "go"))
        stopped = [await backend.interrupt("at once") for _ in range(1000) if not reading.done()]
        assert any(stopped)
        assert (await reading)[-1] == TurnEnded("interrupted", "at once")
        assert not backend.gone


@pytest.mark.parametrize("rounds", range(8))
@pytest.mark.slow
async def test_a_message_and_an_end_at_once_are_one_turn_and_one_ending(scene: Scene, rounds: int) -> None:
    async with scene("work") as backend:
        reading = asyncio.create_task(collect(backend, "go"))
        for _ in range(rounds):
            await asyncio.sleep(0)
        await backend.end()
        assert (await reading)[-1].status in ("failed", "interrupted")


@pytest.mark.parametrize("how", ["close", "break", "cancel"])
async def test_a_reader_who_leaves_has_the_turn_interrupted_and_the_next_turn_works(scene: Scene, how: str) -> None:
    async with scene("work") as backend:
        if how == "close":
            async with aclosing(backend.send(Input("one"))) as events:
                await reach(events, Text)
        elif how == "break":
            async for _ in backend.send(Input("one")):
                break
        else:
            reading = asyncio.create_task(collect(backend, "one"))
            await until(lambda: backend.turn is not None and backend.turn.id, what="the turn began")
            reading.cancel()
            with pytest.raises(asyncio.CancelledError):
                await reading
        events = backend.send(Input("next"))
        assert (await reach(events, Text)).delta == "working"
        await backend.interrupt()
        assert (await rest(events))[-1].status == "interrupted"


@pytest.mark.parametrize(
    ("name", "limits", "words"),
    [
        ("silent", Limits(silence=0.3), "0.3 s of silence"),
        ("trickle", Limits(silence=0.3), "0.3 s of silence"),
        ("work", Limits(turn=0.4), "the turn's limit of 0.4 s"),
        ("long_tool", Limits(silence=0.1, tool=0.5), "0.5 s, a tool's limit, in 'a long one'"),
    ],
)
@pytest.mark.slow
async def test_a_turn_that_takes_too_long_is_stopped_and_its_end_names_the_timer(
    scene: Scene, name: str, limits: Limits, words: str
) -> None:
    async with scene(name, limits) as backend:
        end = (await collect(backend, "go"))[-1]
        assert end.status == "timed_out"
        assert words in end.reason
        assert not backend.gone, "the backend stays"


@pytest.mark.slow
async def test_a_message_that_is_never_taken_is_silence_too(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(holding, "INTERRUPT_TIMEOUT", 0.3)
    async with scene("untaken", Limits(silence=0.3)) as backend:
        assert (await collect(backend, "go"))[-1].status in ("timed_out", "interrupted")


async def test_codex_that_does_not_name_its_turn_fills_no_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(holding, "INTERRUPT_TIMEOUT", 0.3)
    async with running(scripted("codex", "unnamed"), tmp_path) as backend:
        events = await collect(backend, "go")
        assert of(Text, events) == []
        assert events[-1] == TurnEnded("failed", "codex wrote more than 1,048,576 bytes before it named the turn")
        await asyncio.wait_for(backend.wait(), 20)
        assert "did not confirm the stop" in backend.gone


async def test_garbage_is_skipped(scene: Scene) -> None:
    async with scene("garbage") as backend:
        events = await collect(backend, "go")
        assert text(events) == "survived"
        assert events[-1] == TurnEnded("completed")


@pytest.mark.slow
async def test_a_line_over_the_bound_fails_the_turn_and_the_stream_goes_on(scene: Scene) -> None:
    async with scene("too_long") as backend:
        events = await collect(backend, "go")
        assert text(events) == "before"
        assert events[-1].status == "failed"
        assert "68,000,000 bytes" in events[-1].reason
        assert text(await collect(backend, "again")) == "hello"


@pytest.mark.parametrize(
    ("name", "how"),
    [("exits", "ended with status 0"), ("dies", "ended with status -9"), ("closes", "ended its output")],
)
@pytest.mark.slow
async def test_a_death_in_the_middle_of_a_turn_fails_it_and_ends_the_backend(scene: Scene, name: str, how: str) -> None:
    async with scene(name) as backend:
        events = await collect(backend, "go")
        assert text(events) == "before", "what was said before counts"
        end = events[-1]
        assert end.status == "failed"
        assert f"{how} in the middle of the turn" in end.reason
        if name == "exits":
            assert "it said last: fatal: the disk is full" in end.reason
        ended = await asyncio.wait_for(backend.wait(), 20)
        assert ended.report.verdict == "proven_empty"
        later = (await collect(backend, "still there?"))[-1]
        assert later.status == "failed"
        assert how in later.reason


@pytest.mark.parametrize("engine", ["codex", "claude"])
async def test_a_turn_whose_processes_are_ended_from_elsewhere_is_not_completed(engine: str, tmp_path: Path) -> None:
    launch = Launch(workspace=tmp_path, state_dir=tmp_path, goodbye=0.5, grace=0.5)
    async with BackendProcess(scripted(engine, "loses_command"), launch) as backend:
        events = backend.send(Input("go"))
        await reach(events, Text)
        os.kill(backend.job.reaper_pid, signal.SIGKILL)
        end = (await rest(events))[-1]
        assert end.status == "failed"
        assert "their reaper was killed" in end.reason
        assert (await asyncio.wait_for(backend.wait(), 20)).report.empty
        assert "their reaper was killed" in backend.gone


async def test_a_command_that_is_not_an_engine_says_why_and_leaves_nothing(scene: Scene) -> None:
    with pytest.raises(BackendError, match="no such subcommand"):
        async with scene("unborn"):
            pass


@pytest.mark.slow
async def test_a_handshake_that_stops_half_way_is_given_up(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_process, "OPEN_TIMEOUT", 0.5)
    with pytest.raises(BackendError, match=r"was not ready in 0\.5 s"):
        async with scene("half"):
            pass


async def test_nothing_follows_the_end_and_what_is_open_is_closed_before_it(scene: Scene) -> None:
    async with scene("late") as backend:
        assert text(await collect(backend, "go")) == "in time"
        assert text(await collect(backend, "again")) == "in time", "the late ones are no part of the next turn"
    async with scene("open_tool") as backend:
        [tool] = of(ToolEnded, await collect(backend, "go"))
        assert tool.status == "interrupted"


async def test_a_reader_who_lags_gets_every_word_in_fewer_pieces(scene: Scene) -> None:
    async with scene("flood") as backend:
        events = backend.send(Input("go"))
        got: list[TurnEvent] = [await anext(events)]
        await until(lambda: not backend.busy, what="the turn was over before it was read")
        got += await rest(events)
        check(got)
        assert text(got).split() == [str(number) for number in range(20_000)]
        assert len(got) < 2000


async def test_error_output_is_drained_whatever_its_amount(scene: Scene) -> None:
    async with scene("noisy") as backend:
        assert text(await collect(backend, "go")) == "heard"


async def test_a_warning_is_told_once(scene: Scene) -> None:
    async with scene("warns") as backend:
        first, second = await collect(backend, "go"), await collect(backend, "again")
        assert len(of(Notice, first)) == 1
        assert "old model" in of(Notice, first)[0].message
        assert of(Notice, second) == []


async def test_a_workspace_that_went_away_before_a_turn_fails_it_and_ends_the_backend(
    scene: Scene, tmp_path: Path
) -> None:
    work = tmp_path / "work"
    work.mkdir()
    async with scene("talk", workspace=work) as backend:
        assert text(await collect(backend, "go")) == "hello"
        work.rmdir()
        events = await collect(backend, "go")
        assert of(Text, events) == []
        assert events[-1] == TurnEnded("failed", f"{work} is not a folder: make it, or choose another")
        await backend.wait()
        assert f"{work} is not a folder" in backend.gone


@pytest.mark.cross_account
@pytest.mark.parametrize("engine", ["codex", "claude"])
@pytest.mark.parametrize("place", ["/nonexistent/folder", "/etc/passwd"])
async def test_a_workspace_that_is_not_there_is_told_at_the_start_also_across_accounts(
    engine: str, place: str, tmp_path: Path
) -> None:
    launch = Launch("nobody", place, state_dir=tmp_path)
    with pytest.raises((BackendError, StartError), match=f"{place} is not a folder: make it, or choose another"):
        await BackendProcess(scripted(engine, "talk"), launch).start()


async def test_a_message_is_folded_into_the_turn_that_runs(scene: Scene) -> None:
    async with scene("steered") as backend:
        assert not await backend.steer(Input("nothing runs"))
        events = backend.send(Input("go"))
        await reach(events, Text)
        assert await backend.steer(Input("and hurry"))
        await backend.interrupt()
        assert (await rest(events))[-1].status == "interrupted"
        assert not await backend.steer(Input("it is over"))


async def test_input_that_cannot_be_sent_begins_no_turn(scene: Scene, tmp_path: Path) -> None:
    async with scene("talk") as backend:
        for wrong in (Input("  "), Input("look", images=(tmp_path / "none.png",)), Input("x" * 9_000_000)):
            with pytest.raises(InputError):
                await anext(backend.send(wrong))
        assert text(await collect(backend, "go")) == "hello"


async def test_ending_in_the_middle_of_a_turn_ends_the_turn_first_and_is_shared(scene: Scene) -> None:
    async with scene("work") as backend:
        events = backend.send(Input("go"))
        await reach(events, Text)
        waiting = asyncio.create_task(backend.wait())
        cut = asyncio.create_task(backend.end())
        await asyncio.sleep(0)
        cut.cancel()
        first, second = await asyncio.gather(backend.end(), backend.end())
        assert first is second is await waiting, "a caller who is cancelled does not cut it short"
        assert (await rest(events))[-1] == TurnEnded("interrupted", "the backend was ended")
        assert [step.name for step in first.steps] == ["goodbye", "end_of_input", "signals"]
        assert first.report.signals == (), "it ended by itself"


async def test_an_ending_does_not_look_at_the_processes(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    hangs = threading.Event()
    try:
        async with scene("work") as backend:
            events = backend.send(Input("go"))
            await reach(events, Text)
            monkeypatch.setattr(backend.job, "tree", lambda: hangs.wait(30))
            began = time.monotonic()
            ended = await backend.end()
            assert time.monotonic() - began < 5
            assert ended.report.verdict == "proven_empty"
            assert [step.name for step in ended.steps] == ["goodbye", "end_of_input", "signals"]
            assert (await rest(events))[-1].status == "interrupted"
    finally:
        hangs.set()


async def test_a_turn_begins_where_the_processes_cannot_be_looked_at(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    hangs = threading.Event()
    monkeypatch.setattr(engine_process, "LOOK_TIMEOUT", 0.2)
    try:
        async with scene("talk") as backend:
            monkeypatch.setattr(backend.job, "tree", lambda: hangs.wait(30))
            assert text(await collect(backend, "go")) == "hello"
            with pytest.raises(LookError, match="could not be looked at"):
                await backend.background()
    finally:
        hangs.set()


@pytest.mark.slow
async def test_an_engine_that_obeys_nothing_is_ended_by_signals_and_the_report_says_so(scene: Scene) -> None:
    async with scene("stubborn", goodbye=0.3, grace=0.2) as backend:
        events = backend.send(Input("go"))
        await reach(events, Text)
        ended = await backend.end()
        assert (await rest(events))[-1].status == "interrupted"
        assert [step.name for step in ended.steps] == ["goodbye", "end_of_input", "signals"]
        assert {sent.signal for sent in ended.report.signals} == {"TERM", "KILL"}


@pytest.mark.parametrize("name", ["bad_utf8", "deep", "odd_numbers"])
async def test_an_odd_line_costs_neither_the_turn_nor_the_backend(scene: Scene, name: str) -> None:
    async with scene(name, Limits(silence=5)) as backend:
        events = await collect(backend, "go")
        assert text(events).endswith("hello")
        assert events[-1] == TurnEnded("completed")


async def test_numbers_of_an_engine_are_brought_into_range(scene: Scene) -> None:
    async with scene("odd_numbers", Limits(silence=5)) as backend:
        events = await collect(backend, "go")
    [tool], [used] = of(ToolEnded, events), of(Usage, events)
    assert (tool.status, tool.exit_code) == ("failed", None)
    assert used.input_tokens == MOST_TOKENS
    assert 0 <= used.output_tokens <= MOST_TOKENS
    assert 0 <= (used.context_window or 0) <= MOST_TOKENS
    assert used.cost is None or used.cost <= MOST_DOLLARS
    told = [event.message for event in of(Notice, events)]
    assert any("it begins anew at 2286-11-20 17:46 UTC" in message for message in told), "what can be a time is one"
    assert not [message for message in told if len(message) > 200]


async def test_half_a_surrogate_pair_hides_no_end_of_a_turn(scene: Scene) -> None:
    async with scene("half_a_pair", Limits(silence=5)) as backend:
        events = await collect(backend, "go")
        assert text(events).startswith("half ")
        assert events[-1] == TurnEnded("completed")


async def test_a_letter_that_came_in_two_halves_is_one_letter_and_a_half_that_stays_alone_is_replaced(
    scene: Scene,
) -> None:
    async with scene("two_halves", Limits(silence=5)) as backend:
        events = await collect(backend, "go")
    joined = "".join(event.delta for event in of(Text, events))
    assert joined == "a\U0001f600b\ufffd\U0001f600\ufffd\U0001f600c\ufffd"
    assert "".join(event.delta for event in of(Reasoning, events)) == "\U0001f600"
    assert events[-1] == TurnEnded("completed")


async def test_what_matters_is_read_of_a_message_with_far_too_many_values(scene: Scene) -> None:
    async with scene("many_values", Limits(silence=20)) as backend:
        events = await collect(backend, "go")
    [tool] = of(ToolEnded, events)
    assert (tool.status, tool.exit_code) == ("failed", 3)
    assert events[-1].status == "failed"
    assert "the model is ill" in events[-1].reason
    assert len(events[-1].reason) < 1000


async def test_a_request_that_is_too_large_to_be_read_is_refused_and_not_put_in_part(scene: Scene) -> None:
    async with scene("large_request", Limits(silence=20)) as backend:
        events = await collect(backend, "go", [Answer("accept")])
    assert of(ApprovalRequested, events) == []
    assert "too large" in text(events)


async def test_a_turn_ends_whatever_else_its_last_line_holds(scene: Scene) -> None:
    async with scene("odd_end", Limits(silence=5)) as backend:
        assert (await collect(backend, "go"))[-1].status == "failed"


async def test_text_that_is_not_unicode_does_not_end_the_backend(scene: Scene, tmp_path: Path) -> None:
    async with scene("talk") as backend:
        assert text(await collect(backend, "half \ud83d")) == "hello"
        with pytest.raises(InputError, match="rename it"):
            await anext(backend.send(Input("x", files=(tmp_path / "caf\udce9.txt",))))
        assert not backend.gone


@pytest.mark.slow
async def test_a_turn_of_which_something_was_dropped_is_not_completed(scene: Scene) -> None:
    async with scene("too_long_done") as backend:
        assert (await collect(backend, "go"))[-1].status == "failed"


async def test_a_tool_that_ended_twice_began_once(scene: Scene) -> None:
    async with scene("twice") as backend:
        events = await collect(backend, "go")
        assert len(of(ToolStarted, events)) == len(of(ToolEnded, events)) == 1


@pytest.mark.slow
async def test_an_interrupt_whose_caller_is_cancelled_is_carried_out(scene: Scene) -> None:
    async with scene("stray") as backend:

        def strays() -> set[int]:
            return {one.pid for one in backend.tree() if one.sid == one.pid and one.depth > 1}

        events = backend.send(Input("one"))
        await reach(events, Text)
        first = strays()
        assert len(first) == 1
        interrupting = asyncio.create_task(backend.interrupt("enough"))
        got = await rest(events)
        interrupting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await interrupting
        assert got[-1] == TurnEnded("interrupted", "enough")
        events = backend.send(Input("two"))
        await reach(events, Text)
        assert len(strays()) == 1, "what the first left is gone, and the second turn's is not"
        assert not strays() & first
        await backend.interrupt()
        await rest(events)
        assert not strays()


async def test_no_answer_is_taken_after_the_end_of_the_turn(scene: Scene) -> None:
    async with scene("ask") as backend:
        events = backend.send(Input("go"))
        asked = await reach(events, ApprovalRequested)
        assert backend.turn is not None
        backend.turn.fail("for the test")
        assert not backend.answer(asked.approval_id, Answer("accept"))


async def test_a_backend_is_ended_to_a_verdict_though_every_task_is_cancelled(scene: Scene) -> None:
    """As asyncio.run does when it is interrupted."""
    before = asyncio.all_tasks()
    async with scene("work") as backend:
        events = backend.send(Input("go"))
        await reach(events, Text)
        for task in asyncio.all_tasks() - before:
            task.cancel()
        ended = await asyncio.wait_for(backend.end(), 20)
        assert ended.report.verdict == "proven_empty"
        assert (await rest(events))[-1].status in ("failed", "interrupted")


async def test_waiting_for_one_that_was_not_started_is_an_error() -> None:
    with pytest.raises(BackendError, match="not started"):
        await asyncio.wait_for(BackendProcess(scripted("codex", "talk")).wait(), 5)


async def test_a_backend_is_started_once(scene: Scene) -> None:
    async with scene("talk") as backend:
        with pytest.raises(BackendError, match="started before"):
            await backend.start()


async def test_a_backend_that_was_not_started_has_no_turn_and_no_end() -> None:
    backend = BackendProcess(scripted("codex", "talk"))
    with pytest.raises(BackendError, match="not started"):
        await backend.end()
    with pytest.raises(BackendError, match="not started"):
        await anext(backend.send(Input("go")))
    assert not backend.busy


@pytest.mark.parametrize("engine", ["codex", "claude"])
@pytest.mark.parametrize("how", ["end", "cancel"])
async def test_an_end_during_the_start_ends_what_is_started(engine: str, how: str, tmp_path: Path) -> None:
    backend = BackendProcess(scripted(engine, "half"), Launch(workspace=tmp_path, state_dir=tmp_path, goodbye=0.5))
    starting = asyncio.create_task(backend.start())
    await asyncio.sleep(0)
    if how == "end":
        assert (await backend.end()).report.verdict == "proven_empty"
        with pytest.raises(BackendError):
            await starting
    else:
        await until(lambda: isinstance(backend._life.state, Opening), what="the engine ran")
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting
        assert (await backend.end()).report.verdict == "proven_empty"


@pytest.fixture(autouse=True)
async def _no_task_is_left() -> AsyncIterator[None]:
    before = asyncio.all_tasks()
    yield
    before.add(asyncio.current_task())  # type: ignore[arg-type]
    await until(lambda: not asyncio.all_tasks() - before, what="the backend's tasks were gone")


async def test_what_the_agent_left_running_is_told_from_what_the_engine_keeps(scene: Scene) -> None:
    with pytest.raises(BackendError, match="not started"):
        await BackendProcess(scripted("codex", "talk")).background()
    async with scene("leaves") as backend:
        await until(lambda: len(backend.tree()) == 2, what="the engine had a helper in a session of its own")
        assert await backend.background() == []
        left = text(await collect(backend, "go"))
        assert [(process.pid, process.comm) for process in await backend.background()] == [(int(left), "sleep")]
        os.kill(int(left), signal.SIGKILL)
        await until(lambda: len(backend.tree()) == 3, what="it was gone, and the helpers were not")
        assert await backend.background() == []


async def test_what_the_start_had_to_say_is_heard_once_in_the_first_turn(scene: Scene) -> None:
    async with scene("talk", notices=("there is no folder",)) as backend:
        first = await collect(backend, "go")
        assert first[1] == Notice("there is no folder")
        assert len(of(Notice, first)) == 1
        assert of(Notice, await collect(backend, "again")) == []
