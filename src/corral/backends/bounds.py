"""How much of an event is kept of what an engine wrote: it may send lines of 64 MiB, and many of them."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from typing import TypeVar

from corral.backends.events import (
    ApprovalRequested,
    EngineEvent,
    Notice,
    Question,
    Reasoning,
    Text,
    ToolEnded,
    ToolOutput,
    ToolStarted,
    Usage,
)
from corral.printable import shortened

NOTICE_LENGTH = 4096  # characters of a notice, and of the reason of a turn's end
FIELD_LENGTH = 256 * 1024  # characters of any other text; a person reads all that they allow up to this
OUTPUT_TAIL = 4000  # characters of the end of a tool's output that its ToolEnded carries
ID_LENGTH = 1024  # characters; an event with a longer id is dropped
MOST_QUESTIONS = 100

T = TypeVar("T", ToolStarted, ToolEnded, ApprovalRequested, Notice, Question)


def bounded(event: EngineEvent) -> EngineEvent | None:
    """The event with its texts cut to their bounds; None if it cannot be kept. Text that streams is left whole."""
    match event:
        case Text() | Reasoning():
            return event if len(event.message_id) <= ID_LENGTH else replace(event, message_id="")
        case ToolOutput():
            return event if len(event.tool_id) <= ID_LENGTH else None
        case Notice():
            return _cut(event, NOTICE_LENGTH)
        case Usage():
            return event
        case ToolStarted():
            return _cut(event, FIELD_LENGTH) if len(event.tool_id) <= ID_LENGTH else None
        case ToolEnded():
            return _cut(event, FIELD_LENGTH) if len(event.tool_id) <= ID_LENGTH else None


def bounded_approval(approval: ApprovalRequested) -> ApprovalRequested | None:
    """The same of an approval."""
    ids = [approval.approval_id, *(question.question_id for question in approval.questions)]
    if len(approval.questions) > MOST_QUESTIONS or max(map(len, ids)) > ID_LENGTH:
        return None
    return _cut(replace(approval, questions=tuple(map(_question, approval.questions))), FIELD_LENGTH)


def text_bytes(value: object) -> int:
    """The bytes of all texts in an event, also of those in its lists, tables and questions."""
    if isinstance(value, str):
        return sys.getsizeof(value)
    if isinstance(value, Mapping):
        return sum(text_bytes(key) + text_bytes(one) for key, one in value.items())
    if isinstance(value, tuple | list):
        return sum(map(text_bytes, value))
    if is_dataclass(value):
        return sum(text_bytes(getattr(value, one.name)) for one in fields(value))
    return 0


def _question(question: Question) -> Question:
    options = tuple(shortened(one, NOTICE_LENGTH) for one in question.options[:MOST_QUESTIONS])
    return _cut(replace(question, options=options), NOTICE_LENGTH)


def _cut(event: T, most: int) -> T:
    texts = {one.name: value for one in fields(event) if isinstance(value := getattr(event, one.name), str)}
    long = {name: shortened(text, most) for name, text in texts.items() if len(text) > most}
    return replace(event, **long) if long else event  # type: ignore[arg-type]  # they are fields of it
