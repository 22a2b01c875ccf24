"""Long work in the event loop, in slices: other tasks run in between."""

from __future__ import annotations

import asyncio
import time

SLICE = 0.005  # seconds


class Pace:
    """One task's. `rest` costs next to nothing while the slice lasts."""

    __slots__ = ("_until",)

    def __init__(self) -> None:
        self._until = time.monotonic() + SLICE

    @property
    def over(self) -> bool:
        """Whether the slice is used up."""
        return time.monotonic() > self._until

    async def rest(self) -> None:
        """Let the other tasks run, if the slice is used up."""
        if time.monotonic() > self._until:
            await asyncio.sleep(0)
            self._until = time.monotonic() + SLICE
