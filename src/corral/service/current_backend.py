"""The backend of one conversation: at most one at a time, started and ended under one lock."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from corral.backends.errors import BackendError, ResumeError
from corral.backends.events import Notice
from corral.tasks import Tasks

if TYPE_CHECKING:
    from corral.backends.backend import Backend
    from corral.backends.events import BackendEnded
    from corral.process import Process
    from corral.service.audience import Audience
    from corral.service.conversation_ref import ConversationRef
    from corral.service.policy import Policy
    from corral.service.pool import Pool, Slot
    from corral.service.store.journal import Journal

log = structlog.get_logger(__name__)

READ_TIMEOUT = 5.0  # seconds that an ending's caller waits for the end of the turn to be shown
LATE_LOOK_TIMEOUT = 1.0  # seconds that a report waits for the look at what the agent had left running
OPENING_TIMEOUT = 30.0  # seconds for a backend that was cancelled in its start to be gone; the ladder is shorter
MOST_NAMES = 10  # of what was left running, in a sentence

Announce = Callable[[str, str], Awaitable[None]]
"""Is told of a job before it is started: its id in the ledger, and its account."""

StartBackend = Callable[["ConversationRef", str | None, Announce], Awaitable["Begun"]]
"""Starts a backend for a conversation; it is given the engine's id of the one to go on with, if there is one."""


@dataclass(frozen=True, slots=True)
class Begun:
    """A backend that was started."""

    backend: Backend


class CurrentBackend:
    """Starts and ends the backend, and notices when it ends by itself. Callers hold `lock` where they are told to."""

    def __init__(
        self,
        ref: ConversationRef,
        start: StartBackend,
        pool: Pool,
        journal: Journal,
        audience: Audience,
        policy: Callable[[ConversationRef], Policy],
        after: asyncio.Task[None] | None,
    ) -> None:
        """`after`: what must be over before the first backend starts, such as the end of another conversation."""
        self.lock = asyncio.Lock()
        self.backend: Backend | None = None
        self.stale = ""
        """Why the next turn needs a fresh backend; empty if it does not."""
        self.forgotten = False
        """Whether the engine did not know the conversation any more, and a new one was begun in its place."""
        self.no_turn = asyncio.Event()
        """Set while no turn has events to show."""
        self.no_turn.set()
        self._unshown: BackendEnded | None = None
        """The report that is shown after the end of the turn."""
        self._ref = ref
        self._start = start
        self._pool = pool
        self._journal = journal
        self._audience = audience
        self._policy = policy
        self._after = after
        self._opened = 0.0
        self._slot: Slot | None = None
        self._record = ""
        self._opening: asyncio.Task[tuple[Begun, Slot]] | None = None
        self._ending: asyncio.Task[BackendEnded] | None = None
        self._going: Backend | None = None
        """The one that is being ended."""
        self._tasks = Tasks(_log)  # each is over when its backend is

    def age(self, now: float) -> float:
        """Seconds since the backend started; 0 without one."""
        return now - self._opened if self.backend is not None else 0.0

    async def open(self) -> None:
        """Start a backend, under the lock; without one if it was cancelled. Raises what a start raises."""
        opening = self._opening = asyncio.get_running_loop().create_task(self._begin())
        try:
            await asyncio.wait([opening])
        except asyncio.CancelledError:
            opening.cancel()
            await asyncio.wait([opening], timeout=OPENING_TIMEOUT)
            self._after = self._tasks.own(self._end_unwanted(opening, self._after))
            raise
        finally:
            self._opening = None
        if opening.cancelled():
            self._notice("the start was stopped")
            return
        begun, self._slot = opening.result()
        self.backend = begun.backend
        self._opened = time.monotonic()
        await self._journal.backend_started(self._ref, self._record, self.backend)
        self._audience.show(self.backend.started)
        self._tasks.own(self._watch(self.backend))

    def cancel_opening(self) -> bool:
        """Stop a start that is under way; whether there was one."""
        return self._opening is not None and self._opening.cancel()

    async def end(self, why: str) -> BackendEnded | None:
        """End the backend, under the lock, and show its report behind the end of its turn; None if there is none.

        A caller who is cancelled does not cut it short: whoever asks next waits for it, and gets its report.
        """
        if self._ending is None:
            backend, self.backend, slot = self.backend, None, self._slot
            if backend is None or slot is None:
                return None
            self._ending = self._tasks.own(self._end(backend, slot, why))
        ending = self._ending
        try:
            return await asyncio.shield(ending)
        finally:
            if ending.done():
                self._ending = None

    def turn_begins(self) -> None:
        """A turn has events to show: a report that comes meanwhile is shown after its end."""
        self.no_turn.clear()

    def turn_shown(self) -> None:
        """The end of the turn is shown."""
        ended, self._unshown = self._unshown, None
        if ended is not None:
            self._audience.show(ended)
        self.no_turn.set()

    async def hurry(self) -> None:
        """Take the grace away from an ending that is under way."""
        if self._going is not None:
            await self._going.hurry()

    async def _end(self, backend: Backend, slot: Slot, why: str) -> BackendEnded:
        self._going = backend
        # While a turn runs its commands would be among them. It looks beside the ending, which does not wait for it.
        looking = self._tasks.own(_left_running(backend)) if self.no_turn.is_set() else None
        try:
            ended = await self._pool.end(backend, slot)
        finally:
            self._going = None
        await self._journal.backend_ended(self._ref, self._record, ended, why)
        if looking is not None and (left := await _in_time(looking)):
            self._notice(f"what the agent had left running was ended too: {left}")
        if self.no_turn.is_set():
            self._audience.show(ended)
            return ended
        self._unshown = ended
        with suppress(TimeoutError):
            async with asyncio.timeout(READ_TIMEOUT):
                await self.no_turn.wait()
        return ended

    async def _begin(self) -> tuple[Begun, Slot]:
        before = [task for task in (self._after, self._ending) if task is not None]
        if before:
            await asyncio.wait(before)  # bounded by the ladders of those endings
            self._after = self._ending = None
        await self._journal.keep(self._ref)
        policy, ref = self._policy(self._ref), self._ref
        return await self._pool.open(
            ref.person, policy.bounds, self._start_or_forget, policy.ladder, conversation=ref.id
        )

    async def _start_or_forget(self) -> Begun:
        try:
            return await self._start_afresh(self._ref.thread)
        except ResumeError as error:
            self._notice(f"{error}; this is a new one")
            self._ref.thread, self.forgotten = None, True
            return await self._start_afresh(None)

    async def _start_afresh(self, thread: str | None) -> Begun:
        # Before the start reads the settings: what changes while it lasts makes the new backend stale.
        self.stale = self._record = ""
        try:
            return await self._start(self._ref, thread, self._announced)
        except BaseException:
            self._journal.backend_not_started(self._record)
            raise

    async def _end_unwanted(self, opening: asyncio.Task[tuple[Begun, Slot]], before: asyncio.Task[None] | None) -> None:
        """End the backend of a start that was complete when its cancellation came."""
        await asyncio.wait([opening])
        if not opening.cancelled() and opening.exception() is None:
            begun, slot = opening.result()
            ended = await self._pool.end(begun.backend, slot)
            await self._journal.backend_ended(self._ref, self._record, ended, "its start was cancelled")
        if before is not None:
            await asyncio.wait([before])

    async def _announced(self, job_id: str, account: str) -> None:
        self._record = await self._journal.new_backend(self._ref, account, job_id)

    async def _watch(self, backend: Backend) -> None:
        """Show the end of a backend that ends by itself, also between turns. It is over when the backend is."""
        await backend.wait()
        async with self.lock:
            if self.backend is backend:
                if self.no_turn.is_set():
                    self._notice(backend.gone)
                await self.end(backend.gone)

    def _notice(self, message: str) -> None:
        self._audience.show(Notice(message))


def _log(error: BaseException | None) -> None:
    if error is not None:
        log.error("starting, watching or ending a backend failed", exc_info=error)


async def _in_time(looking: asyncio.Task[str]) -> str:
    """What a look told that was taken beside an ending, which is over now; empty where it hangs."""
    done, _ = await asyncio.wait([looking], timeout=LATE_LOOK_TIMEOUT)
    return looking.result() if done and not looking.cancelled() else ""


async def _left_running(backend: Backend) -> str:
    """The names of what the agent left running; empty where that cannot be seen."""
    try:
        return names(await backend.background())
    except BackendError as error:
        log.warning("what an agent left running is not known", reason=str(error))
        return ""


def names(processes: Sequence[Process]) -> str:
    """The names of processes, for a sentence."""
    more = ", …" if len(processes) > MOST_NAMES else ""
    return ", ".join(process.comm for process in processes[:MOST_NAMES]) + more
