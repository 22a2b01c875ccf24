"""The states of a backend (corral.backends.life).

Fresh → Launching → Opening → Idle ⇄ InTurn → Stopping → Idle
           ↓           ↓       └────────┴───────┴──→ Ending → Ended
         Failed      Ending
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from corral.backends.events import BackendEnded
    from corral.backends.turn import Turn


@dataclass(frozen=True, slots=True)
class Fresh:
    """It was not started."""


@dataclass(frozen=True, slots=True)
class Launching:
    """Its command is being started; there is nothing to end yet."""

    over: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(frozen=True, slots=True)
class Failed:
    """Its command could not be started: nothing runs."""


@dataclass(frozen=True, slots=True)
class Opening:
    """The engine runs, and opens its conversation."""


@dataclass(frozen=True, slots=True)
class Idle:
    """No turn of the person's runs."""


@dataclass(frozen=True, slots=True)
class InTurn:
    """A turn runs; it is over a moment before the state changes."""

    turn: Turn
    done: asyncio.Event
    """Set when the next turn may begin."""


@dataclass(frozen=True, slots=True)
class Stopping:
    """A turn is being stopped, and what it left running is ended. The turn may be over already."""

    turn: Turn
    done: asyncio.Event


@dataclass(frozen=True, slots=True)
class Ending:
    """The engine is being ended, with all that it started."""

    turn: Turn | None
    """The turn that it ran when the ending began."""


@dataclass(frozen=True, slots=True)
class Ended:
    """All is over."""

    result: BackendEnded


State: TypeAlias = Fresh | Launching | Failed | Opening | Idle | InTurn | Stopping | Ending | Ended
