"""The front ends that follow one conversation."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from corral.service.front import Front, Shown


class Audience:
    """Shows every event to all of them. It goes on for as long as the slowest takes; a front end bounds that itself."""

    def __init__(self) -> None:
        self.fronts: list[Front] = []

    def __len__(self) -> int:
        return len(self.fronts)

    def join(self, front: Front) -> None:
        """Begin to follow."""
        if front not in self.fronts:
            self.fronts.append(front)

    def quit(self, front: Front) -> None:
        """Follow no more."""
        if front in self.fronts:
            self.fronts.remove(front)

    def show(self, event: Shown) -> None:
        """Show it to all."""
        for front in list(self.fronts):
            front.show(event)

    async def ready(self) -> None:
        """Wait until all can be shown more."""
        match list(self.fronts):
            case []:
                return
            case [front]:
                await front.ready()
            case fronts:
                await asyncio.gather(*(front.ready() for front in fronts))

    def idle(self) -> None:
        """Tell all that nothing is to be done."""
        for front in list(self.fronts):
            front.idle()

    def closed(self, reason: str) -> None:
        """Tell all that it is over."""
        for front in list(self.fronts):
            front.closed(reason)
        self.fronts.clear()
