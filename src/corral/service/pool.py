"""The pool: how many backends there may be, and how many of them start or end at once."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from corral.process.bare.host import host_table
from corral.service.instances import lives

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from corral.backends.backend import Backend
    from corral.backends.events import BackendEnded
    from corral.process import Survivor

T = TypeVar("T")

STARTS_AT_ONCE = 4
ENDS_AT_ONCE = 4
# An ending may have to wait for what does not want to go: the next ones do not wait for it.
START_PATIENCE = 2.0  # seconds
END_PATIENCE = 0.25  # seconds
HURRIED_PATIENCE = 0.02  # seconds


class PoolFullError(Exception):
    """There are as many backends as there may be: in all, of a person, on a conversation; the message says which."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """How many backends there may be."""

    backends: int
    """In all."""
    per_person: int
    """Of the person who asks."""


@dataclass(eq=False, slots=True)
class Slot:
    """One backend's place, from before its start until nothing of it is left."""

    person: str
    conversation: str = ""
    since: float = field(default_factory=time.monotonic)
    ending: bool = False
    freed: asyncio.Event = field(default_factory=asyncio.Event)
    engine: int = 0
    """The pid of the engine, or of the sudo above it, once it was to end."""
    survivors: tuple[Survivor, ...] = ()
    """What its ending could not end, as long as that lives: the reaper holds it, and goes on trying."""


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
        self.verdicts: Counter[str] = Counter()
        """How many endings there were, by their verdict."""
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
        self,
        person: str,
        bounds: Bounds,
        start: Callable[[], Awaitable[T]],
        patience: float,
        *,
        conversation: str = "",
    ) -> tuple[T, Slot]:
        """Start a backend in a slot of its own; what `start` returned, and the slot.

        Where only what is ending just now is in the way, wait for that, `patience` seconds at the most. Raises
        PoolFullError, and whatever `start` raises; the slot is free again then.
        """
        slot = await self._take(person, bounds, patience, conversation)
        try:
            async with self._starts.place():
                return await start(), slot
        except BaseException:
            self._free(slot)
            raise

    async def end(self, backend: Backend, slot: Slot) -> BackendEnded:
        """End a backend, and free its slot; but not as long as something of it survives."""
        slot.ending = True
        try:
            if backend.gone:  # its ending is under way: there is nothing to pace
                ended = await backend.end()
            else:
                async with self._ends.place():
                    ended = await backend.end()
            self.verdicts[ended.report.verdict] += 1
            slot.engine, slot.survivors = backend.started.pid, ended.report.survivors
            return ended
        finally:
            slot.ending = False
            if slot.survivors:
                slot.freed.set()  # for those who wait for endings: there is none any more
            else:
                self._free(slot)

    async def _take(self, person: str, bounds: Bounds, patience: float, conversation: str) -> Slot:
        deadline = time.monotonic() + patience
        while why := self._held(conversation) or self._full(person, bounds):
            ending = [slot for slot in self._slots if slot.ending]
            if not ending or time.monotonic() >= deadline:
                raise PoolFullError(why)
            await _any_freed(ending, deadline - time.monotonic())
        slot = Slot(person, conversation)
        self._slots[slot] = None
        return slot

    def _held(self, conversation: str) -> str:
        """Whether an engine that could not be ended has the conversation still: two would write to one thread."""
        self._free_the_dead()
        for slot in self._slots:
            engine = next((one for one in slot.survivors if one.pid == slot.engine), None)
            if engine is not None and conversation and slot.conversation == conversation:
                return (
                    f"the agent that held this conversation could not be ended, and lives: pid {engine.pid},"
                    f" {engine.reason}. /new begins another conversation meanwhile"
                )
        return ""

    def _full(self, person: str, bounds: Bounds) -> str:
        own = [slot for slot in self._slots if slot.person == person]
        if len(own) >= bounds.per_person:
            agents = "agent runs" if len(own) == 1 else "agents run"
            full = f"{len(own)} {agents} for you already, which is all you may have"
            if left := [one for slot in own for one in slot.survivors]:
                return f"{full}: of one that was ended, pid {left[0].pid} ({left[0].command}) lives: {left[0].reason}"
            return f"{full}: end one first (/stop in its conversation)"
        if len(self._slots) >= bounds.backends:
            return (
                f"all {bounds.backends} agents that this service may run are taken; yours are {len(own)}."
                " Try again in a while, or ask the operator ([pool] backends)"
            )
        return ""

    def _free_the_dead(self) -> None:
        """Free the slots whose survivors have died since: their reapers, who go on trying, tell nobody here."""
        boot_id = host_table().boot_id()
        for slot in [slot for slot in self._slots if slot.survivors]:
            slot.survivors = tuple(one for one in slot.survivors if lives(one.pid, one.start_time, boot_id))
            if not slot.survivors:
                self._free(slot)

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
