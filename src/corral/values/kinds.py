"""The kinds of values that settings hold: how each is read, what it says of itself, and how it is written."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias, Union, get_args, get_origin

from pydantic import BeforeValidator

from corral.values import quantities
from corral.values.written import bare, quoted, shown

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")

Approval: TypeAlias = Literal["ask", "never"]


@dataclass(frozen=True, slots=True)
class Kind:
    """What a value must be, in words that follow `must be`, and how it is written in TOML."""

    words: str
    write: Callable[[Any], str] = quoted
    choices: tuple[str, ...] = ()
    """All values that there are, where they can be listed."""


def kind_of(field: FieldInfo) -> Kind:
    """The kind of a key's value."""
    return _kind(field.annotation, field.metadata)


def _kind(annotation: Any, metadata: Sequence[Any] = ()) -> Kind:
    for kind in metadata:
        if isinstance(kind, Kind):
            return kind
    inner = get_args(annotation)
    match get_origin(annotation):
        case origin if origin is Annotated:
            return _kind(inner[0], inner[1:])
        case origin if origin is Literal:
            return Kind(" or ".join(quoted(choice) for choice in inner), choices=inner)
        case origin if origin in (Union, UnionType):
            return _kind(next(choice for choice in inner if choice is not type(None)))
        case origin if origin is dict:
            name, value = _kind(inner[0]), _kind(inner[1])
            return Kind(f"a table, each key {name.words} and each value {value.words}", _write_table)
        case origin if origin is tuple:
            return Kind(f"a list, each of {_kind(inner[0]).words}", _write_list)
    raise TypeError(f"{annotation} is none of the kinds of values that a config has")


def _write_list(values: Any) -> str:
    return f"[{', '.join(quoted(value) for value in values)}]"


def _write_table(table: Any) -> str:
    return f"{{ {', '.join(f'{bare(key)} = {quoted(value)}' for key, value in table.items())} }}" if table else "{}"


def _text(value: object) -> object:
    if not isinstance(value, str) or not value.strip() or not value.isprintable():
        raise ValueError(f"{shown(value)} is not allowed: it must be a text in quotes, of one line and not empty")
    return value


def _value_of_variable(value: object) -> object:
    # Not shown: it may be a secret that does not belong here.
    if not isinstance(value, str) or "\0" in value:
        raise ValueError("its value is not allowed: it must be a text in quotes, without NUL")
    return value


def _name(value: object) -> object:
    if not isinstance(value, str) or not NAME.fullmatch(value):
        raise ValueError(
            f"{shown(value)} is not allowed: a name is 1 to 64 letters (a-z, A-Z), digits, dots, underscores and "
            "hyphens, and begins with a letter or a digit"
        )
    return value


def variable_name(value: object) -> object:
    """The name of a variable, as it is. Raises ValueError, with a sentence."""
    if not isinstance(value, str) or not _VARIABLE.fullmatch(value):
        raise ValueError(
            f"{shown(value)} is not the name of a variable: it must be letters, digits and underscores, and not begin "
            "with a digit"
        )
    return value


def _absolute(value: object) -> object:
    if not _is_visible(value) or not Path(str(value)).is_absolute():
        raise ValueError(f"{shown(value)} is not allowed: it must be an absolute path, which begins with /")
    return value


def _is_visible(value: object) -> bool:
    return isinstance(value, str | Path) and str(value).isprintable()


def _workspace(value: object) -> object:
    text = str(value) if _is_visible(value) else ""
    if not (text == "~" or text.startswith(("~/", "/"))):
        raise ValueError(
            f"{shown(value)} is not allowed: it must be an absolute path, or begin with ~/ for the home of the account"
        )
    return value


def _command(value: object) -> object:
    texts = list(value) if isinstance(value, list | tuple) else None
    if texts is None or not all(isinstance(text, str) and text and "\0" not in text for text in texts):
        raise ValueError(f'{shown(value)} is not allowed: it must be a list of texts, for example ["/usr/bin/agent"]')
    if not texts:
        raise ValueError("it must not be empty: it is the program, with its first arguments")
    program = texts[0]
    if "/" in program and not Path(program).is_absolute():
        raise ValueError(
            f"{shown(program)} is not allowed: name a program that PATH has, or an absolute path; the folder that a "
            "relative one counts from is another one at every start"
        )
    return value


def _whole_number(least: int) -> Callable[[object], object]:
    def check(value: object) -> object:
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value < 2**53:
            raise ValueError(f"{shown(value)} is not allowed: it must be a whole number, at least {least}")
        return value

    return check


def _yes_or_no(value: object) -> object:
    if value is True or value is False:
        return value
    raise ValueError(f"{shown(value)} is not allowed: it must be true or false, without quotes")


Text: TypeAlias = Annotated[str, BeforeValidator(_text), Kind("a text")]
Name: TypeAlias = Annotated[str, BeforeValidator(_name), Kind("a name: letters, digits, `.`, `_`, `-`")]
Seconds: TypeAlias = Annotated[
    float,
    BeforeValidator(quantities.seconds),
    Kind("a time", lambda value: quoted(quantities.as_time(value))),
]
Bytes: TypeAlias = Annotated[
    int,
    BeforeValidator(quantities.size),
    Kind("a size", lambda value: quoted(quantities.as_size(value))),
]
Count: TypeAlias = Annotated[int, BeforeValidator(_whole_number(1)), Kind("a whole number, at least 1", str)]
CountOrNone: TypeAlias = Annotated[int, BeforeValidator(_whole_number(0)), Kind("a whole number, at least 0", str)]
YesOrNo: TypeAlias = Annotated[
    bool, BeforeValidator(_yes_or_no), Kind("true or false", lambda value: str(value).lower())
]
AbsolutePath: TypeAlias = Annotated[Path, BeforeValidator(_absolute), Kind("an absolute path")]
Workspace: TypeAlias = Annotated[str, BeforeValidator(_workspace), Kind("an absolute path, or one below `~`")]
Command: TypeAlias = Annotated[tuple[str, ...], BeforeValidator(_command), Kind("a list of texts", _write_list)]
Variable: TypeAlias = Annotated[str, BeforeValidator(variable_name), Kind("the name of a variable")]
ValueOfVariable: TypeAlias = Annotated[str, BeforeValidator(_value_of_variable), Kind("a text")]
