"""What a shell offers behind Tab: people of the config, conversations of the store, live jobs.

Only what this account may read is offered, and nothing is said of what it may not: a completion that fails offers
nothing. Each has a second to read, since a config or a store can lie on a disk that does not answer.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterable
from functools import partial, wraps
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import FrameType

Offered = list[tuple[str, str]]
"""Values, each with what a shell may show beside it."""

WITHIN = 1.0  # seconds, of reading; loading Corral's own modules is not counted
MOST = 50


class _LateError(Exception):
    """It took too long."""


def _bounded(look: Callable[[], Iterable[tuple[str, str]]], modules: tuple[str, ...]) -> Callable[[str], Offered]:
    """The look, as typer calls it: those that begin with what was typed. `modules` are loaded before the clock runs."""

    def give_up(_number: int, _frame: FrameType | None) -> None:
        raise _LateError

    @wraps(look)
    def complete(incomplete: str) -> Offered:
        try:
            for module in modules:
                import_module(module)
        except Exception:  # noqa: BLE001 - as below
            return []
        before = signal.signal(signal.SIGALRM, give_up)
        signal.setitimer(signal.ITIMER_REAL, WITHIN)
        try:
            return [(value, help_) for value, help_ in look() if value.startswith(incomplete)][:MOST]
        except Exception:  # noqa: BLE001 - a message would land in the middle of the line that is being typed
            return []
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)

    complete.__annotations__ = {"incomplete": str}
    del complete.__wrapped__
    return complete


def _reading(*modules: str) -> Callable[[Callable[[], Iterable[tuple[str, str]]]], Callable[[str], Offered]]:
    return partial(_bounded, modules=modules)


@_reading("corral.backends.registry")
def engines() -> Iterable[tuple[str, str]]:
    """The engines."""
    from corral.backends import registry

    return [(entry.name, entry.title) for entry in registry.entries()]


@_reading("corral.config")
def people() -> Iterable[tuple[str, str]]:
    """The people of the config that is found."""
    from corral.config import load

    return [(person.name, f"as {person.os_user}" if person.os_user else "") for person in load(None).people]


@_reading("corral.config", "corral.service.store.records")
def conversations() -> Iterable[tuple[str, str]]:
    """The conversations of the store, the last used first."""
    from corral.config import ConfigError, load
    from corral.config.models import Service
    from corral.service.store import records

    try:
        folder = load(None).service.state_dir
    except ConfigError:
        folder = Service().state_dir  # no config, or one of the service's that this account may not read
    return [(one.conversation.id, one.conversation.title) for one in records.history(folder, limit=MOST)]


@_reading()
def accounts() -> Iterable[tuple[str, str]]:
    """The accounts of people: those that are somebody's own."""
    import pwd

    return [(entry.pw_name, entry.pw_gecos.split(",")[0]) for entry in pwd.getpwall() if 1000 <= entry.pw_uid < 60000]
