"""A queue of one turn's events, from the turn to its reader."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING

from corral.backends.events import Reasoning, Text, ToolOutput, stream_of

if TYPE_CHECKING:
    from corral.backends.events import TurnEvent

# A reader that lags this far behind gets its text in larger pieces, so that a flood of words takes no more memory than
# the words; the wire must be read on meanwhile, or an interrupt would not get through.
LAG = 1000
AT_ONCE = 256  # events that are taken without a pause
MAX_LAG_OUTPUT = 1 << 20  # characters of one tool's output that wait for a reader; what comes beyond is left out


class TurnFeed:
    """Events in by `add`, out by `get`, in their order; the turn decides which."""

    def __init__(self) -> None:
        self._events: deque[TurnEvent] = deque()
        self._arrived = asyncio.Event()
        self._parts: list[str] = []
        """Text that belongs behind the last event's own."""
        self._waiting = 0
        self._taken = 0
        """How many were taken since the queue was empty."""

    def add(self, event: TurnEvent) -> None:
        """Add an event."""
        if len(self._events) < LAG or not self._merge(event):
            if self._parts:
                self._flush()
            self._events.append(event)
        self._arrived.set()

    async def get(self) -> TurnEvent:
        """The next event, when there is one; the turn's own limits bound how long that takes."""
        if not self._events:
            self._taken = 0
        while not self._events:
            self._arrived.clear()
            await self._arrived.wait()
        self._taken += 1
        if not self._taken % AT_ONCE:
            await asyncio.sleep(0)  # a backlog would keep all others waiting
        if self._parts and len(self._events) == 1:
            self._flush()
        return self._events.popleft()

    def holds(self, event: TurnEvent) -> bool:
        """Whether the event waits for the reader."""
        return any(one is event for one in self._events)

    def _merge(self, event: TurnEvent) -> bool:
        """Whether the event is more of the last one's text, and was added to that."""
        if not isinstance(event, Text | Reasoning | ToolOutput) or stream_of(event) != stream_of(self._events[-1]):
            return False
        if isinstance(event, Text | Reasoning) or self._waiting < MAX_LAG_OUTPUT:
            self._parts.append(event.delta)
            self._waiting += len(event.delta)
        return True

    def _flush(self) -> None:
        """Join the parts that were added to the last event: once, for each time would be quadratic in its length."""
        last = self._events[-1]
        assert isinstance(last, Text | Reasoning | ToolOutput), "only those are merged"
        self._events[-1] = replace(last, delta="".join([last.delta, *self._parts]))
        self._parts = []
        self._waiting = 0
