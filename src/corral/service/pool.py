"""The pool: how many backends there may be, and how many of them start or end at once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from corral.backends.base import Backend, BackendEnded

T = TypeVar("T")

STARTS_AT_ONCE = 4
ENDS_AT_ONCE = 4
# An ending may have to wait for what does not want to go: the next ones do not wait for it.
START_PATIENCE = 2.0  # seconds
END_PATIENCE = 0.25  # seconds
HURRIED_PATIENCE = 0.02  # seconds


class PoolFullError(Exception):
    """There are as many backends as there may be; the message says whose, and what to do."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """How many backends there may be."""

    backends: int
    """In all."""
    per_person: int
    """Of the person who asks."""


@dataclass(eq=False, slots=True)
class Slot:
    """One backend's place, from before its start until it is gone."""

    person: str
    since: float = field(default_factory=time.monotonic)
    ending: bool = False
    freed: asyncio.Event = field(default_factory=asyncio.Event)


class Pace:
    """Lets `most` pieces of work begin at once. The next may begin when one is done, or has gone on for `patience`.

    A hundred endings that begin in one moment would each wait for the others' share of the processors, and the event
    loop with them.
    """

    def __init__(self, most: int, patience: float) -> None:
        self.patience = patience
        """Seconds."""
        self._room = asyncio.Semaphore(most)

    @asynccontextmanager
    async def place(self) -> AsyncIterator[None]:
        """Hold a place while the body runs, for `patience` seconds at the most."""
        await self._room.acquire()
        held = True

        def let_go() -> None:
            nonlocal held
            if held:
                held = False
                self._room.release()

        timer = asyncio.get_running_loop().call_later(self.patience, let_go)
        try:
            yield
        finally:
            timer.cancel()
            let_go()


class Pool:
    """Gives out the slots, and starts and ends backends at a pace that leaves the event loop to everybody."""

    def __init__(self) -> None:
        self._slots: dict[Slot, None] = {}
        self._starts = Pace(STARTS_AT_ONCE, START_PATIENCE)
        self._ends = Pace(ENDS_AT_ONCE, END_PATIENCE)

    @property
    def count(self) -> int:
        """How many backends there are, those that start or end included."""
        return len(self._slots)

    def hurry(self) -> None:
        """From now on endings hardly wait for each other: being done counts for more than being smooth."""
        self._ends.patience = HURRIED_PATIENCE

    async def open(
        self, person: str, bounds: Bounds, start: Callable[[], Awaitable[T]], patience: float
    ) -> tuple[T, Slot]:
        """Start a backend in a slot of its own; what `start` returned, and the slot.

        Where only what is ending just now is in the way, wait for that, `patience` seconds at the most. Raises
        PoolFullError, and whatever `start` raises; the slot is free again then.
        """
        slot = await self._take(person, bounds, patience)
        try:
            async with self._starts.place():
                return await start(), slot
        except BaseException:
            self._free(slot)
            raise

    async def end(self, backend: Backend, slot: Slot) -> BackendEnded:
        """End a backend, and free its slot when it is gone."""
        slot.ending = True
        try:
            if backend.gone:  # its ending is under way: there is nothing to pace
                return await backend.end()
            async with self._ends.place():
                return await backend.end()
        finally:
            self._free(slot)

    async def _take(self, person: str, bounds: Bounds, patience: float) -> Slot:
        deadline = time.monotonic() + patience
        while why := self._full(person, bounds):
            ending = [slot for slot in self._slots if slot.ending]
            if not ending or time.monotonic() >= deadline:
                raise PoolFullError(why)
            await _any_freed(ending, deadline - time.monotonic())
        slot = Slot(person)
        self._slots[slot] = None
        return slot

    def _full(self, person: str, bounds: Bounds) -> str:
        own = sum(slot.person == person for slot in self._slots)
        if own >= bounds.per_person:
            agents = "agent runs" if own == 1 else "agents run"
            return (
                f"{own} {agents} for you already, which is all you may have: end one first (/stop in its conversation)"
            )
        if len(self._slots) >= bounds.backends:
            return (
                f"all {bounds.backends} agents that this service may run are taken; yours are {own}."
                " Try again in a while, or ask the operator ([pool] backends)"
            )
        return ""

    def _free(self, slot: Slot) -> None:
        self._slots.pop(slot, None)
        slot.freed.set()


async def _any_freed(slots: list[Slot], timeout: float) -> None:
    waiting = [asyncio.ensure_future(slot.freed.wait()) for slot in slots]
    try:
        await asyncio.wait(waiting, timeout=max(timeout, 0), return_when=asyncio.FIRST_COMPLETED)
    finally:
        for one in waiting:
            one.cancel()
