"""Forms of MCP servers (elicitations): their JSON Schema as questions, and a person's answers as their content."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from corral.backends.events import ApprovalRequested, Question

if TYPE_CHECKING:
    from corral.backends.engine import Host

TRUE, FALSE = "yes", "no"
WORDS_FOR_TRUE = {"yes", "y", "true", "1", "on"}
WORDS_FOR_FALSE = {"no", "n", "false", "0", "off"}


class FormError(Exception):
    """An answer that the form does not take; the message says which, and what is allowed."""


async def elicit(
    host: Host, key: str, *, server: str, message: str, schema: object = None, url: str = ""
) -> dict[str, Any]:
    """Have the person fill in a form, or open a link; the answer as MCP has it. An answer that does not fit is a no,
    and a notice says why.
    """
    reason = f"the MCP server {server} asks"
    declined = {"action": "decline", "content": None}
    if url:
        given = await host.ask(ApprovalRequested(key, "link", url, f"{reason}: {message}"))
        return {"action": "accept", "content": None} if given.decision == "accept" else declined
    given = await host.ask(ApprovalRequested(key, "question", message, reason, questions=questions(schema)))
    if given.decision != "accept":
        return declined
    try:
        return {"action": "accept", "content": content(schema, given.answers)}
    except FormError as error:
        host.notice(f"the answer to {server} was not sent: {error}")
        return declined


def questions(schema: object) -> tuple[Question, ...]:
    """One question for each property of the form; none for a schema that is not a form."""
    properties = schema.get("properties") if isinstance(schema, Mapping) else None
    if not isinstance(schema, Mapping) or not isinstance(properties, Mapping):
        return ()
    required = schema.get("required") or ()
    return tuple(
        _question(name, field, name in required) for name, field in properties.items() if isinstance(field, Mapping)
    )


def content(schema: object, answers: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """The answers as the form wants them. Raises FormError."""
    properties = schema.get("properties") if isinstance(schema, Mapping) else None
    fields = properties if isinstance(properties, Mapping) else {}
    result: dict[str, Any] = {}
    for question in questions(schema):
        given = [text for text in answers.get(question.question_id, ()) if text.strip()]
        if given:
            result[question.question_id] = _value(question, fields[question.question_id], given)
        elif question.required:
            raise FormError(f"{question.text} needs an answer")
    return result


def _question(name: str, field: Mapping[str, Any], required: bool) -> Question:
    parts = [str(field.get("title") or name), str(field.get("description") or "")]
    several = field.get("type") == "array"
    options = tuple(_options(field["items"] if several and isinstance(field.get("items"), Mapping) else field))
    return Question(
        name, ": ".join(part for part in parts if part), options, free=not options, several=several, required=required
    )


def _options(field: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a choice by what they are called; none where any answer will do."""
    if field.get("type") == "boolean":
        return {TRUE: TRUE, FALSE: FALSE}
    titled = field.get("oneOf") or field.get("anyOf")
    if isinstance(titled, list):
        return {str(one.get("title", one.get("const"))): one.get("const") for one in titled if isinstance(one, Mapping)}
    values = field.get("enum")
    if isinstance(values, list):
        names = field.get("enumNames")
        if not isinstance(names, list) or len(names) != len(values):
            names = values
        return {str(name): value for name, value in zip(names, values, strict=True)}
    return {}


def _value(question: Question, field: Mapping[str, Any], given: list[str]) -> Any:
    kind = field.get("type")
    if kind == "boolean":
        return _truth(question, given[0])
    if kind in ("number", "integer"):
        try:
            return _number(given[0], whole=kind == "integer")
        except ValueError:
            article = "a whole number" if kind == "integer" else "a number"
            raise FormError(f"{question.text}: {given[0]!r} is not {article}") from None
    if question.several:
        items = field.get("items")
        return [_choice(question, items if isinstance(items, Mapping) else {}, one) for one in given]
    return _choice(question, field, given[0])


def _number(text: str, *, whole: bool) -> float:
    if whole:
        return int(text)
    if not math.isfinite(number := float(text)):
        raise ValueError(f"{text} is not a number of JSON")
    return number


def _truth(question: Question, text: str) -> bool:
    word = text.strip().lower()
    if word in WORDS_FOR_TRUE or word in WORDS_FOR_FALSE:
        return word in WORDS_FOR_TRUE
    raise FormError(f"{question.text}: {text!r} is neither {TRUE} nor {FALSE}")


def _choice(question: Question, field: Mapping[str, Any], text: str) -> Any:
    options = _options(field)
    if not options:
        return text
    if text in options:
        return options[text]
    if text in options.values():
        return text
    raise FormError(f"{question.text}: {text!r} is none of {', '.join(options)}")
