"""What is kept of what an engine writes is bounded, whichever field of whichever event it fills."""

import tracemalloc

import pytest

from corral.backends.backend import Limits
from corral.backends.backend_process import BackendProcess
from corral.backends.bounds import FIELD_LENGTH, ID_LENGTH, NOTICE_LENGTH, bounded
from corral.backends.events import (
    ApprovalClosed,
    ApprovalRequested,
    Notice,
    Question,
    Text,
    ToolEnded,
    ToolStarted,
    TurnEnded,
    TurnEvent,
    TurnStarted,
)
from corral.backends.turn import Turn
from tests.harness.backends import scripted

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
def test_texts_are_cut_and_say_how_much(event: TurnEvent, most: int) -> None:
    kept = bounded(event)
    assert type(kept) is type(event)
    assert len(repr(kept)) < most + 1000
    assert "characters cut]" in repr(kept)


@pytest.mark.parametrize(
    "event",
    [
        ToolStarted(HUGE, "command", "ls"),
        ToolEnded(HUGE, "command", "ls", "completed"),
        ApprovalRequested(HUGE, "command", "ls"),
        ApprovalClosed(HUGE, "accept"),
        ApprovalRequested("a", "question", "", questions=(Question(HUGE, "?"),)),
        ApprovalRequested("a", "question", "", questions=(Question("q", "?"),) * 1000),
    ],
)
def test_an_event_with_an_endless_id_is_dropped(event: TurnEvent) -> None:
    assert bounded(event) is None


def test_what_is_not_too_long_is_left_as_it_is() -> None:
    for event in (Notice("a"), Text(HUGE, "m"), ToolStarted("t" * ID_LENGTH, "command", "ls"), TurnStarted("1")):
        assert bounded(event) is event


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
            backend.notice(f"{number} {HUGE}")
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 2_000_000
