"""What pydantic found wrong, as sentences that name the key, what is wrong with it, and what is allowed."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, TypeAdapter, ValidationError

from corral.config.models import Config
from corral.config.tables import keys, model_below, tables
from corral.values.kinds import NAME, kind_of
from corral.values.written import bare, shown

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails


def sentences(error: ValidationError, document: Mapping[str, Any]) -> Iterator[str]:
    """Each fault as `KEY: what is wrong`."""
    for details in error.errors(include_url=False):
        yield f"{key_of(details['loc'], document)}: {_what_is_wrong(details)}"


def fault_in(kind: Any, value: object) -> str:
    """What is wrong with one value of a kind (`kinds.Name`); empty if nothing is."""
    try:
        TypeAdapter(kind).validate_python(value)
    except ValidationError as error:
        return "; ".join(_what_is_wrong(details) for details in error.errors(include_url=False))
    return ""


def key_of(loc: tuple[int | str, ...], document: Mapping[str, Any]) -> str:
    """A place as a reader finds it: `people.daniel.engine`, or `people[2].engine` for the second, who has no name."""
    if len(loc) > 1 and loc[0] == "people" and isinstance(loc[1], int):
        first, rest = person_key(document, loc[1]), loc[2:]
    else:
        first, rest = "", loc
    # pydantic puts "[key]" behind a key that is wrong itself; the place in a short list is told by the value.
    names = [part for part in rest if isinstance(part, str) and part != "[key]"]
    dotted = ".".join(bare(name) for name in names)
    return ".".join(filter(None, (first, dotted)))


def person_key(document: Mapping[str, Any], index: int) -> str:
    """One of the people: by name where that can be told, else by number, counted from 1."""
    people = document.get("people")
    person = people[index] if isinstance(people, list) and index < len(people) else None
    name = person.get("name") if isinstance(person, dict) else None
    return f"people.{name}" if isinstance(name, str) and NAME.fullmatch(name) else f"people[{index + 1}]"


def unknown(key: str, model: type[BaseModel]) -> str:
    """What is wrong with a key that its table does not have."""
    allowed = keys(model)
    elsewhere = [table for table, other in tables() if key in keys(other) and table]
    if near := difflib.get_close_matches(key, allowed, n=1):
        hint = f"did you mean {near[0]}? "
    elif elsewhere:
        hint = f"it belongs below {' or '.join(elsewhere)}. "
    else:
        hint = ""
    text = f"there is no such key{'; ' if hint else '. '}{hint}"
    return f"{text}The keys here are: {', '.join(allowed)}"


def _what_is_wrong(details: ErrorDetails) -> str:
    loc, given = details["loc"], details["input"]
    match details["type"]:
        case "value_error":
            return str(details["ctx"]["error"])
        case "extra_forbidden":
            return unknown(str(loc[-1]), model_below(loc[:-1]))
        case "missing":
            return "it is missing: every [[people]] needs one"
        case "literal_error":
            field = model_below(loc[:-1]).model_fields[str(loc[-1])]
            return f"{shown(given)} is not allowed: it must be {kind_of(field).words}"
        case "model_type" | "model_attributes_type" | "dict_type":
            return f"{shown(given)} is not allowed: it must be a table{_as_written(loc)}"
        case "tuple_type" if loc == ("people",):
            return f"{shown(given)} is not allowed: write each person as a table of its own, below [[people]]"
        case "tuple_type":
            return f'{shown(given)} is not allowed: it must be a list of texts, in brackets: ["A", "B"]'
        case _:  # pragma: no cover - a kind of fault that none of today's models can have
            return f"{shown(given)} is not allowed: {details['msg']}"


def _as_written(loc: tuple[int | str, ...]) -> str:
    if model_below(loc) is Config or not all(isinstance(part, str) for part in loc):
        return ""
    return f", below [{'.'.join(str(part) for part in loc)}]"
