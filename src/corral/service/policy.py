"""The terms on which one person's conversations are held, as the configuration has them at this moment."""

from __future__ import annotations

from dataclasses import dataclass

from corral.backends.backend import Limits
from corral.service.pool import Bounds


@dataclass(frozen=True, slots=True)
class Policy:
    """Read anew whenever they are needed, so that a reload takes effect without touching what runs."""

    limits: Limits
    bounds: Bounds
    queue: int
    """How many messages may wait in a conversation."""
    idle: float
    """Seconds after which a backend that nobody talks to is ended."""
    age: float
    """Seconds after which a backend is replaced, between turns."""
    background: bool
    """Whether work that the agent left in the background is ended for idleness too."""
    ladder: float
    """Seconds that the ending of one backend may take."""
    effort: str | None = None
    """Of reasoning, where the conversation has none of its own."""
