"""What goes over the socket.

The first line of a client is a `Hello` or an `EndPerson`; the service answers a Hello with a `welcome` and an EndPerson
with a `done`. It closes the connection of an account that it does not serve without an answer. Then the client sends
calls of its seat, and the service events: those of `corral chat --json`, and `idle` and `closed`. Each file has a
connection of its own (`corral.remote.transfers`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from itertools import islice
from typing import Any, TypeAlias

import msgspec

from corral.backends import events
from corral.backends.events import Event, Step
from corral.printable import shortened, valid
from corral.process import Report
from corral.service.front import CommandHelp, Missed, Reply, Shown, Welcome, to_json

MOST_BYTES = 16 * 2**20  # of a line of the service's
MOST_TEXT = 2**20  # characters of a piece of text; JSON makes six bytes of some
LEAST_TEXT = 64  # characters; an event that is too long even with its texts cut to this is not sent
MOST_CALL_BYTES = 4 * 2**20  # of a line of a client's
VERSION = 1


class Hello(msgspec.Struct, tag="hello", tag_field="call", omit_defaults=True):
    """Open a seat: for whom, and at which conversation."""

    version: int = VERSION
    person: str | None = None
    resume: str | None = None
    engine: str | None = None
    model: str | None = None


class EndPerson(msgspec.Struct, tag="end_person", tag_field="call"):
    """End all backends of a person."""

    person: str


class PutFile(msgspec.Struct, tag="put_file", tag_field="call"):
    """Seat.put_file, on a connection of its own; pieces follow (corral.remote.transfers)."""

    seat: str
    """The seat's, as the welcome has it."""
    name: str


class GetFile(msgspec.Struct, tag="get_file", tag_field="call"):
    """Seat.get_file, on a connection of its own."""

    seat: str
    path: str
    most: int


class Send(msgspec.Struct, tag="send", tag_field="call", omit_defaults=True):
    """Seat.send."""

    text: str


class Command(msgspec.Struct, tag="command", tag_field="call"):
    """Seat.command."""

    line: str


class AnswerCall(msgspec.Struct, tag="answer", tag_field="call", omit_defaults=True):
    """Seat.answer."""

    approval_id: str
    decision: events.Decision
    answers: dict[str, list[str]] = {}


class Decline(msgspec.Struct, tag="decline", tag_field="call"):
    """Seat.decline."""

    approval_id: str


class Plain(msgspec.Struct, tag="do", tag_field="call"):
    """A call without arguments, by its name."""

    name: str


First: TypeAlias = Hello | EndPerson | PutFile | GetFile
Call: TypeAlias = Send | Command | AnswerCall | Decline | Plain

PLAIN = ("interrupt", "finish", "leave", "hurry", "detach")

first_decoder = msgspec.json.Decoder(First)
call_decoder = msgspec.json.Decoder(Call)

_EVENTS: dict[str, type[Event | Missed]] = {
    kind.event: kind
    for kind in (
        events.BackendStarted,
        events.TurnStarted,
        events.Text,
        events.Reasoning,
        events.ToolStarted,
        events.ToolOutput,
        events.ToolEnded,
        events.ApprovalRequested,
        events.ApprovalClosed,
        events.Limit,
        events.Usage,
        events.Notice,
        events.TurnEnded,
        events.BackendEnded,
        Missed,
    )
}


def encode(message: object) -> bytes:
    """A message as a line, whatever an engine or a person put into it."""
    try:
        return msgspec.json.encode(message) + b"\n"
    except (UnicodeEncodeError, OverflowError, TypeError, ValueError):
        return json.dumps(_encodable(msgspec.to_builtins(message, enc_hook=str))).encode() + b"\n"


def line(message: dict[str, Any]) -> bytes:
    """A message of the service's as a line that a client can read: of one that is too long its texts are cut."""
    whole = encode(message)
    most, fitting = MOST_TEXT, whole
    while len(fitting) > MOST_BYTES and most >= LEAST_TEXT:
        fitting = encode(_cut(message, most))
        most //= 16
    if len(fitting) <= MOST_BYTES:
        return fitting
    return encode({"event": events.Notice.event, "message": f"too long to be shown: {message.get('event')}"})


def event_lines(event: Shown) -> Iterator[bytes]:
    """An event as lines that a client can read.

    Text that came while the client read nothing is one piece, however long: it is sent in several. Of other events the
    texts are cut.
    """
    data = to_json(event)
    delta = data.get("delta", "")
    if len(delta) <= MOST_TEXT:
        yield line(data)
        return
    for start in range(0, len(delta), MOST_TEXT):
        yield line({**data, "delta": delta[start : start + MOST_TEXT]})


def _cut(value: Any, most: int) -> Any:
    """The same with at most `most` characters in each text, and `most` values in each list and table."""
    match value:
        case str():
            return shortened(value, most)
        case dict():
            return {key: _cut(one, most) for key, one in islice(value.items(), most)}
        case list() | tuple():
            return [_cut(one, most) for one in value[:most]]
    return value


def _encodable(value: Any) -> Any:
    """The same without what JSON cannot hold: lone surrogates, infinite numbers."""
    match value:
        case str():
            return valid(value)
        case float() if not math.isfinite(value):
            return None
        case dict():
            return {valid(str(key)): _encodable(one) for key, one in value.items()}
        case list() | tuple():
            return [_encodable(one) for one in value]
    return value


def welcome_json(welcome: Welcome, seat: str) -> dict[str, Any]:
    """The service's answer to a Hello. `seat`: names the seat for connections that carry its files."""
    return {"event": "welcome", "seat": seat, **msgspec.to_builtins(welcome)}


def welcome_from(data: dict[str, Any]) -> Welcome:
    """The Welcome that it stands for. Raises KeyError, msgspec.ValidationError if it is not one."""
    return Welcome(
        data["person"],
        data["engine"],
        tuple(msgspec.convert(one, CommandHelp) for one in data["commands"]),
        str(data["workspace"]),
    )


def event_from(data: dict[str, Any]) -> Shown:
    """The event that an object stands for; a notice for one of a newer service, which this client does not know.

    Raises KeyError, TypeError or ValueError (msgspec.ValidationError) if it is not an event.
    """
    name = data["event"]
    if name == events.BackendEnded.event:
        steps = tuple(Step(step["name"], step["seconds"]) for step in data.get("steps", ()))
        return events.BackendEnded(Report.from_json(data["report"]), steps)
    fields = {key: value for key, value in data.items() if key != "event"}
    if name == Reply.event and "about" in data:
        return msgspec.convert(fields, Reply)
    kind = _EVENTS.get(name)
    return msgspec.convert(fields, kind) if kind is not None else events.Notice(f"({name})")
