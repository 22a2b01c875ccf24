"""The tables of a config file, as the models have them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from corral.config.models import Config


def fields(model: type[BaseModel]) -> dict[str, FieldInfo]:
    """The keys of a table that the file may have, in their order."""
    # Where the file lies is not for the file to say.
    return {key: field for key, field in model.model_fields.items() if (model, key) != (Config, "path")}


def keys(model: type[BaseModel]) -> tuple[str, ...]:
    """Their names."""
    return tuple(fields(model))


def table_of(field: FieldInfo) -> type[BaseModel] | None:
    """The model of a key that is a table, or a list of tables; None for a value."""
    for candidate in (field.annotation, *get_args(field.annotation)):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
    return None


def tables(model: type[BaseModel] = Config, name: str = "") -> Iterator[tuple[str, type[BaseModel]]]:
    """Every table with its heading, `[service]` or `[[people]]`, parents first; the file itself has none."""
    yield _heading(name), model
    for key, field in fields(model).items():
        if (below := table_of(field)) is not None:
            yield from tables(below, f"{name}.{key}" if name else key)


def model_below(loc: tuple[int | str, ...]) -> type[BaseModel]:
    """The innermost table on the way to a place."""
    model: type[BaseModel] = Config
    for part in loc:
        field = fields(model).get(str(part))
        model = (table_of(field) if field is not None else None) or model
    return model


def _heading(name: str) -> str:
    if not name:
        return ""
    return f"[[{name}]]" if name == "people" else f"[{name}]"
