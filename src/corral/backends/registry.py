"""The engines that Corral speaks with. A line here and a package beside it is all that another engine takes.

The entries are loaded when they are asked for: `corral run` and the reaper need none of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from corral.backends.entry import EngineEntry

MODULES: Mapping[str, str] = {
    "codex": "corral.backends.codex.entry",
    "claude": "corral.backends.claude.entry",
}
"""Each engine's name, and the module whose `ENTRY` describes it; in the order in which people are shown them."""

DEFAULT = next(iter(MODULES))
"""The engine of people and services that name none."""


def names() -> tuple[str, ...]:
    """The names of all engines."""
    return tuple(MODULES)


@cache
def entry(name: str) -> EngineEntry:
    """The entry of an engine. Raises KeyError for one that there is not."""
    found: EngineEntry = import_module(MODULES[name]).ENTRY
    return found


def entries() -> Iterator[EngineEntry]:
    """All of them."""
    return map(entry, names())
