"""Ending everything within one bound, and saying how that went."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any

import structlog

from corral.tasks import Tasks

log = structlog.get_logger(__name__)

LAST_RESERVE = 0.25
"""Of the time for a shutdown: what is left for KILL when the patience is over."""


@dataclass(slots=True)
class Summary:
    """How a shutdown went."""

    seconds: float = 0.0
    ended: int = 0
    verdicts: Counter[str] = field(default_factory=Counter)
    unfinished: int = 0
    """Backends whose endings were not over in time: their reapers end them, whether or not this process lives."""

    def log(self) -> None:
        """Write it into the service's log."""
        log.info(
            "service stopped",
            ended=self.ended,
            **self.verdicts,
            unfinished=self.unfinished or None,
            seconds=round(self.seconds, 2),
        )


class Deadline:
    """The time that a shutdown may take as a whole."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._began = time.monotonic()

    @property
    def spent(self) -> float:
        """Seconds since it began."""
        return time.monotonic() - self._began

    @property
    def left(self) -> float:
        """Seconds until it is over; negative behind it."""
        return self.seconds - self.spent


async def end_all(
    endings: Sequence[Callable[[], Coroutine[Any, Any, object]]], deadline: Deadline, hurry: Callable[[], object]
) -> int:
    """Begin all endings at once, and wait for them; how many were not over by the deadline, and were given up.

    `hurry` takes the patience away from those that still run when only the last reserve of the time is left.
    """
    tasks = Tasks(_log)
    closing = [tasks.own(ending()) for ending in endings]
    if closing:
        _, slow = await asyncio.wait(closing, timeout=deadline.seconds * (1 - LAST_RESERVE))
        if slow:
            hurry()
            await asyncio.wait(closing, timeout=deadline.left)
    unfinished = 0
    for one in closing:
        if not one.done() or one.cancelled() or one.exception() is not None:
            one.cancel()
            unfinished += 1
    return unfinished


def _log(error: BaseException | None) -> None:
    if error is not None:
        log.error("an ending failed", exc_info=error)
