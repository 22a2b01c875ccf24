"""The kinds of values that only a config has: the name of an engine, and a variable of the service's environment."""

from __future__ import annotations

from typing import Annotated, TypeAlias

from pydantic import BeforeValidator

from corral.backends import registry
from corral.backends.environment import is_service_secret
from corral.values.kinds import Kind, variable_name
from corral.values.written import quoted, shown


def _engine_name(value: object) -> object:
    if value not in registry.names():
        raise ValueError(f"unknown engine {shown(value)}: choose {' or '.join(registry.names())}")
    return value


def _kept_variable(value: object) -> object:
    if is_service_secret(str(variable_name(value))):
        raise ValueError(f"{value} belongs to the service and is never handed to an agent: take it out")
    return value


EngineName: TypeAlias = Annotated[
    str,
    BeforeValidator(_engine_name),
    Kind(" or ".join(map(quoted, registry.names())), choices=registry.names()),
]
KeptVariable: TypeAlias = Annotated[str, BeforeValidator(_kept_variable), Kind("the name of a variable")]
