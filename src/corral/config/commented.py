"""A config as a file: every key with its meaning, those that were left alone as a comment with their default."""

from __future__ import annotations

import textwrap

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from corral.config.models import Config, Person
from corral.config.tables import fields, table_of, tables
from corral.values.kinds import kind_of

_WIDTH = 100
_HEAD = """\
Corral's config: who may talk with an agent, as whom the agent runs, and within which bounds.

A key behind a # is not set: the line shows its default, or an example where it says so. Times are written "10m",
"1h30m", "90s" or "500ms", sizes "4G" or "512M". An unknown key is an error. Nobody but the service's account and root
may be able to write this file, since it decides who runs as whom.
"""


def commented(config: Config) -> str:
    """The text of a file that `load` reads as this config: what was set stands, all else is commented out."""
    parts = ["\n#\n".join(_comment(paragraph) for paragraph in _HEAD.split("\n\n"))]
    for heading, model in tables():
        if not heading or all(table_of(field) for field in fields(model).values()):
            continue
        if model is Person:
            parts += [_table(heading, model, person, whole=index == 0) for index, person in enumerate(config.people)]
        else:
            parts.append(_table(heading, model, _at(config, heading), whole=True))
    return "\n\n".join(parts) + "\n"


def example_of(field: FieldInfo) -> str | None:
    """How a value without a default could be written; None where there is a default."""
    return kind_of(field).write(field.examples[0]) if field.examples else None


def default_of(field: FieldInfo) -> str | None:
    """The default as it is written; None where there is none, or where the host decides."""
    return None if field.examples or field.is_required() else kind_of(field).write(field.default)


def meaning(described: str | None) -> str:
    """A docstring as one line."""
    return " ".join((described or "").split())


def _table(heading: str, model: type[BaseModel], values: BaseModel, *, whole: bool) -> str:
    lines = [_comment(meaning(model.__doc__))] if whole else []
    lines.append(heading)
    for key, field in fields(model).items():
        if whole:
            lines.append(_comment(f"{meaning(field.description)}{_choices(field)}"))
        if _is_set(values, key):
            lines.append(f"{key} = {kind_of(field).write(getattr(values, key))}")
        elif whole:
            lines.append(_not_set(key, field))
    return "\n".join(lines)


def _is_set(values: BaseModel, key: str) -> bool:
    # TOML has no word for None: leaving the key out says it.
    return key in values.model_fields_set and getattr(values, key) is not None


def _choices(field: FieldInfo) -> str:
    kind = kind_of(field)
    return f" It is {kind.words}." if kind.choices else ""


def _not_set(key: str, field: FieldInfo) -> str:
    if (example := example_of(field)) is not None:
        return f"#{key} = {example}  # an example"
    return f"#{key} = {default_of(field)}"


def _at(config: BaseModel, heading: str) -> BaseModel:
    values = config
    for key in heading.strip("[]").split("."):
        values = getattr(values, key)
    return values


def _comment(text: str) -> str:
    lines = textwrap.wrap(text, _WIDTH, break_long_words=False, break_on_hyphens=False)
    return "\n".join(f"# {line}" for line in lines)
