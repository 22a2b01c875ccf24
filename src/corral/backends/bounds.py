"""How much of an event is kept of what an engine wrote: it may send lines of 64 MiB, and many of them."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import TypeVar

from corral.backends.events import ApprovalRequested, Notice, Question, Reasoning, Text, ToolOutput, TurnEvent
from corral.printable import shortened

NOTICE_LENGTH = 4096  # characters of a notice, and of the reason of a turn's end
FIELD_LENGTH = 256 * 1024  # characters of any other text; a person reads all that they allow up to this
ID_LENGTH = 1024  # characters; an event with a longer id is dropped
MOST_QUESTIONS = 100

T = TypeVar("T", TurnEvent, Question)


def bounded(event: TurnEvent) -> TurnEvent | None:
    """The event with its texts cut to their bounds; None if it cannot be kept. Text that streams is left whole."""
    match event:
        case Text() | Reasoning():
            return event if len(event.message_id) <= ID_LENGTH else replace(event, message_id="")
        case ToolOutput():
            return event if len(event.tool_id) <= ID_LENGTH else None
        case Notice():
            return _cut(event, NOTICE_LENGTH)
        case ApprovalRequested(questions=questions) if questions:
            if len(questions) > MOST_QUESTIONS or any(len(one.question_id) > ID_LENGTH for one in questions):
                return None
            event = replace(event, questions=tuple(map(_question, questions)))
    ids = [getattr(event, name, "") for name in ("tool_id", "approval_id")]
    return _cut(event, FIELD_LENGTH) if max(map(len, ids)) <= ID_LENGTH else None


def _question(question: Question) -> Question:
    options = tuple(shortened(one, NOTICE_LENGTH) for one in question.options[:MOST_QUESTIONS])
    return _cut(replace(question, options=options), NOTICE_LENGTH)


def _cut(event: T, most: int) -> T:
    texts = {one.name: value for one in fields(event) if isinstance(value := getattr(event, one.name), str)}
    long = {name: shortened(text, most) for name, text in texts.items() if len(text) > most}
    return replace(event, **long) if long else event  # type: ignore[arg-type]  # they are fields of it
