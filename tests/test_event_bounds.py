"""What is kept of what an engine writes is bounded, whichever field of whichever event it fills."""

import tracemalloc

import pytest

from corral.backends.backend import Limits
from corral.backends.backend_process import BackendProcess
from corral.backends.bounds import FIELD_LENGTH, ID_LENGTH, NOTICE_LENGTH, bounded, bounded_approval
from corral.backends.events import (
    ApprovalRequested,
    EngineEvent,
    Notice,
    Question,
    Text,
    ToolEnded,
    ToolStarted,
    TurnEnded,
    TurnStarted,
)
from corral.backends.turn import MOST_EARLY, Turn
from tests.harness.backends import check, read_all, scripted

HUGE = "x" * 10_000_000


@pytest.mark.parametrize(
    ("event", "most"),
    [
        (Notice(HUGE), NOTICE_LENGTH),
        (ToolStarted("t", "command", HUGE), FIELD_LENGTH),
        (ToolEnded("t", HUGE, HUGE, "failed", 1, HUGE), 3 * FIELD_LENGTH),
        (ApprovalRequested("a", "command", HUGE, HUGE), 2 * FIELD_LENGTH),
        (ApprovalRequested("a", "question", "", questions=(Question("q", HUGE, (HUGE, HUGE)),)), 3 * NOTICE_LENGTH),
    ],
)
def test_texts_are_cut_and_say_how_much(event: EngineEvent | ApprovalRequested, most: int) -> None:
    kept = bounded_approval(event) if isinstance(event, ApprovalRequested) else bounded(event)
    assert type(kept) is type(event)
    assert len(repr(kept)) < most + 1000
    assert "characters cut]" in repr(kept)


@pytest.mark.parametrize(
    "event",
    [
        ToolStarted(HUGE, "command", "ls"),
        ToolEnded(HUGE, "command", "ls", "completed"),
        ApprovalRequested(HUGE, "command", "ls"),
        ApprovalRequested("a", "question", "", questions=(Question(HUGE, "?"),)),
        ApprovalRequested("a", "question", "", questions=(Question("q", "?"),) * 1000),
    ],
)
def test_an_event_with_an_endless_id_is_dropped(event: EngineEvent | ApprovalRequested) -> None:
    assert (bounded_approval(event) if isinstance(event, ApprovalRequested) else bounded(event)) is None


def test_what_is_not_too_long_is_left_as_it_is() -> None:
    events: list[EngineEvent] = [Notice("a"), Text(HUGE, "m"), ToolStarted("t" * ID_LENGTH, "command", "ls")]
    for event in events:
        assert bounded(event) is event


async def test_what_comes_before_the_start_of_a_turn_is_bounded_in_bytes() -> None:
    turn = Turn(Limits())
    for number in range(10_000):
        turn.put(Notice(f"{number} {'x' * 1000}"))
    turn.begin("1")
    turn.put(Notice("the last"))
    turn.end(TurnEnded("completed"))
    events = await read_all(turn)
    check(events)
    early = sum(len(event.message) for event in events if isinstance(event, Notice))
    assert MOST_EARLY // 2 < early <= MOST_EARLY
    assert events[1] == Notice(f"0 {'x' * 1000}")
    assert events[-2] == Notice("the last")


async def test_the_end_of_a_turn_has_a_reason_of_bounded_length() -> None:
    for way in ("fail", "stop"):
        turn = Turn(Limits())
        turn.begin("1")
        if way == "stop":
            turn.stop(TurnEnded("interrupted", HUGE))
        turn.fail(HUGE)
        assert isinstance(await turn.feed.get(), TurnStarted)
        end = await turn.feed.get()
        assert isinstance(end, TurnEnded)
        assert len(end.reason) < NOTICE_LENGTH + 100


async def test_notices_outside_a_turn_take_little_memory() -> None:
    backend = BackendProcess(scripted("codex", "talk"))
    tracemalloc.start()
    try:
        for number in range(40):
            backend.host.notice(f"{number} {HUGE}")
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 2_000_000
