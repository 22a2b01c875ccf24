"""What callers ask of the task that owns a backend's state."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from corral.backends.errors import TurnRunningError
from corral.backends.events import TurnEnded

if TYPE_CHECKING:
    from corral.backends.attachments import Message
    from corral.backends.backend import Choices
    from corral.backends.turn import Turn

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Claim:
    """A request to hold a turn."""

    turn: Turn
    message: Message
    choices: Choices
    accepted: asyncio.Future[None]
    """TurnRunningError: another one came first."""


@dataclass(frozen=True, slots=True)
class Stop:
    """A request to stop what runs without a turn of the person's, or a turn that was only claimed."""

    reason: str
    stopped: asyncio.Future[bool]
    """Whether there was something to stop."""


Request: TypeAlias = Claim | Stop


class Inbox:
    """The requests that wait, in their order."""

    def __init__(self) -> None:
        self._requests: asyncio.Queue[Request] = asyncio.Queue()

    async def claim(self, turn: Turn, message: Message, choices: Choices) -> None:
        """Wait for the turn's place. Raises TurnRunningError."""
        claim = Claim(turn, message, choices, asyncio.get_running_loop().create_future())
        self._requests.put_nowait(claim)
        await claim.accepted

    async def stop(self, reason: str) -> bool:
        """Stop what runs; whether there was something."""
        stop = Stop(reason, asyncio.get_running_loop().create_future())
        self._requests.put_nowait(stop)
        return await stop.stopped

    async def get(self) -> Request:
        """The next request whose caller still waits."""
        while True:
            request = await self._requests.get()
            if not (request.accepted if isinstance(request, Claim) else request.stopped).done():
                return request

    def accept(self, claim: Claim) -> list[Stop]:
        """Accept a claim, and refuse those behind it; the requests that stop its turn are returned."""
        resolve(claim.accepted, None)
        stops = []
        for request in self._waiting():
            if isinstance(request, Stop):
                claim.turn.stop(TurnEnded("interrupted", request.reason))
                stops.append(request)
            elif not request.accepted.done():
                request.accepted.set_exception(TurnRunningError("a turn is running: another message came first"))
        return stops

    def refuse(self, why: str) -> None:
        """The backend is being ended: turns fail, and there is nothing to stop."""
        for request in self._waiting():
            if isinstance(request, Stop):
                resolve(request.stopped, False)
            else:
                request.turn.fail(why)
                resolve(request.accepted, None)

    def _waiting(self) -> list[Request]:
        return [self._requests.get_nowait() for _ in range(self._requests.qsize())]


def resolve(future: asyncio.Future[T], result: T) -> None:
    """Set the result, unless the caller that waited for it was cancelled."""
    if not future.done():
        future.set_result(result)
