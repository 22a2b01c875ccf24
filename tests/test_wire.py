"""What goes over the socket: whatever an event holds, it is a line that a client can read."""

import json
from typing import Any

import pytest

from corral.backends.events import (
    ApprovalRequested,
    BackendEnded,
    Notice,
    Question,
    Text,
    ToolEnded,
    ToolStarted,
    TurnEnded,
    Usage,
)
from corral.process import Report, Survivor
from corral.remote import wire
from corral.service.front import Missed, Reply, Shown

LARGE = "x" * (wire.MOST_BYTES + 1000)
WIDE = "\x01" * (wire.MOST_BYTES // 3)  # six bytes each in JSON


@pytest.mark.parametrize(
    "event",
    [
        ToolEnded("t", "command", "ls", "completed", 0, LARGE),
        ToolStarted("t", "command", WIDE),
        Notice(LARGE),
        TurnEnded("failed", LARGE),
        ApprovalRequested("1", "question", "?", questions=(Question("q", WIDE, options=(LARGE,)),)),
        Reply("m", "ps", {"tree": [{"command": LARGE}, {"command": "short"}]}),
        Text("a word", LARGE),
        BackendEnded(Report("survivors", None, 1.0, survivors=(Survivor(1, 2, "me", "D", LARGE, WIDE),))),
    ],
    ids=lambda event: type(event).__name__,
)
def test_no_event_is_longer_than_a_client_may_read(event: Shown) -> None:
    for line in wire.event_lines(event):
        assert len(line) <= wire.MOST_BYTES
        assert type(wire.event_from(json.loads(line))) is type(event)
        assert b"characters cut]" in line


def test_what_is_cut_says_how_much() -> None:
    (line,) = wire.event_lines(Notice(LARGE))
    said = json.loads(line)["message"]
    assert said.endswith(f"… [{len(LARGE) - wire.MOST_TEXT:,} characters cut]")


def test_text_that_streams_is_sent_whole_in_pieces() -> None:
    said = "\x01" * (4 * wire.MOST_TEXT)
    lines = list(wire.event_lines(Text(said, "m")))
    assert max(map(len, lines)) <= wire.MOST_BYTES
    assert "".join(json.loads(line)["delta"] for line in lines) == said


def test_an_event_that_cannot_be_cut_is_named_in_its_place() -> None:
    (line,) = wire.event_lines(Reply("m", "ps", {LARGE: "no name can be cut: another one could be the same then"}))
    assert wire.event_from(json.loads(line)) == Notice("too long to be shown: notice")


@pytest.mark.parametrize(
    ("event", "field", "value"),
    [
        (Notice("\ud83d\ude00 \ud83d end"), "message", "\U0001f600 \ufffd end"),
        (Text("\udcff", "m"), "delta", "\ufffd"),
        (Usage(2**70, 0, 0, 0), "input_tokens", 2**70),
        (Usage(0, 0, 0, 0, cost=float("inf")), "cost", None),
        (Reply("\ud800", "x", {"\udfff": float("nan"), "b": {1: object}}), "message", "\ufffd"),
        (Missed(7), "characters", 7),
    ],
)
def test_the_encoder_takes_whatever_it_is_given(event: Shown, field: str, value: Any) -> None:
    (line,) = wire.event_lines(event)
    data = json.loads(line)
    assert data[field] == value
    assert getattr(wire.event_from(data), field) == value


def test_a_message_of_a_client_may_hold_the_half_of_a_letter() -> None:
    line = wire.encode(wire.Send("a file \udcff"))
    assert wire.call_decoder.decode(line) == wire.Send("a file \ufffd")
