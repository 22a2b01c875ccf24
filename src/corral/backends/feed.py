"""One turn's events on their way from the engine to whoever reads them: exactly one end, and it is last."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

from corral.backends.events import Text, TurnEnded

if TYPE_CHECKING:
    from corral.backends.events import TurnEvent

# A reader that lags this far behind gets its text in larger pieces, so that a flood of words takes no more memory than
# the words; the wire must be read on meanwhile, or an interrupt would not get through.
LAG = 1000


class TurnFeed:
    """The queue of a turn. What comes after its end is dropped."""

    def __init__(self) -> None:
        self.over = False
        self._events: deque[TurnEvent] = deque()
        self._arrived = asyncio.Event()
        self._ended = asyncio.Event()

    def put(self, event: TurnEvent) -> None:
        """Add an event; the first TurnEnded closes the feed."""
        if self.over:
            return
        last = self._events[-1] if len(self._events) >= LAG else None
        if isinstance(event, Text) and isinstance(last, Text) and last.message_id == event.message_id:
            self._events[-1] = Text(last.delta + event.delta, event.message_id)
        else:
            self._events.append(event)
        self._arrived.set()
        if isinstance(event, TurnEnded):
            self.over = True
            self._ended.set()

    async def get(self, timeout: float) -> TurnEvent:
        """The next event; TimeoutError after `timeout` seconds without one."""
        async with asyncio.timeout(timeout):
            while not self._events:
                self._arrived.clear()
                await self._arrived.wait()
        return self._events.popleft()

    async def ended(self, timeout: float) -> bool:
        """Wait for the end, read or unread; False if it did not come in `timeout` seconds."""
        try:
            async with asyncio.timeout(timeout):
                await self._ended.wait()
        except TimeoutError:
            return False
        return True
