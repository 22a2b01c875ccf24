"""One person's conversation with an engine: its turns one after the other, over as many backends as it takes."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import aclosing
from typing import Any, Protocol, TypeAlias

from corral.backends.base import Answer, Backend, Event, Input, Notice, TurnEnded, Usage
from corral.backends.errors import BackendError, ResumeError
from corral.process import JobError

OpenBackend: TypeAlias = Callable[[str | None], Awaitable[Backend]]
"""Starts a backend; it is given the id of the conversation to go on with, if there is one."""

READ_TIMEOUT = 5.0  # seconds for the last events of a turn to be shown, once its backend has ended
OPENING_TIMEOUT = 30.0  # seconds for a backend that was cancelled in its start to be gone; the ladder is shorter
STOPPED = "stopped on request"


class Front(Protocol):
    """What a conversation asks of whoever shows it."""

    def show(self, event: Event) -> None:
        """Show an event; it must not wait."""

    async def ready(self) -> None:
        """Wait until more can be shown."""

    def idle(self) -> None:
        """Hear that nothing runs and nothing waits."""


class Conversation:
    """Messages in by `send`, events out to the front; `run` is the one task that holds the turns.

    `stop`, `restart` and `interrupt` act at once, also while a turn runs or a backend starts. Exactly one TurnEnded
    is shown for each message that is taken up, and it comes before the BackendEnded of its backend.
    """

    def __init__(self, open_backend: OpenBackend, front: Front) -> None:
        self.backend: Backend | None = None
        self.conversation_id = ""
        self.tokens = 0
        self.began = 0.0
        """When the running turn began (`time.monotonic`); 0 while none runs."""
        self.failures = 0
        """How many turns failed or timed out."""
        self.survivors = False
        """Whether an ending left something behind."""
        self._open_backend = open_backend
        self._front = front
        self._waiting: deque[str] = deque()
        self._wake = asyncio.Event()
        self._changing = asyncio.Lock()
        self._opening: asyncio.Task[Backend] | None = None
        self._ending: Backend | None = None
        self._watchers: set[asyncio.Task[None]] = set()
        self._opened = 0.0
        self._resumable: str | None = None
        self._shown = asyncio.Event()
        self._shown.set()
        self._stops = 0
        self._changes = 0
        self._settled = asyncio.Event()
        self._finishing = False
        self._closed = False

    @property
    def busy(self) -> bool:
        """Whether a turn runs or a message waits."""
        return bool(self.began or self._waiting)

    @property
    def age(self) -> float:
        """Seconds since the last backend started."""
        return time.monotonic() - self._opened

    def send(self, text: str) -> None:
        """Take a message; while a turn runs it waits for its end."""
        if self.busy:
            self._notice(f"queued: {text}")
        self._waiting.append(text)
        self._wake.set()

    def finish(self) -> None:
        """There will be no more messages: `run` ends after the last turn."""
        self._finishing = True
        self._wake.set()

    async def run(self) -> str:
        """Start a backend and hold turns until `finish` or `close`; why it could not begin, or ''."""
        try:
            async with self._changing:
                await self._open()
        except (BackendError, JobError) as error:
            return str(error)
        while not self._closed:
            self._wake.clear()
            if self._changes:
                await self._settled.wait()
            elif self._waiting:
                await self._hold_turn(self._waiting.popleft())
            elif self._finishing:
                break
            else:
                self._front.idle()
                await self._wake.wait()
        return ""

    async def interrupt(self) -> None:
        """Stop the turn that runs; the backend stays."""
        if self._cancel_opening():
            self._stops += 1
        elif self.backend is not None:
            await self.backend.interrupt()

    def answer(self, approval_id: str, answer: Answer) -> bool:
        """Decide an open approval; False if it waits no more."""
        return self.backend is not None and self.backend.answer(approval_id, answer)

    def stop(self, *, forget: bool = False) -> Coroutine[Any, Any, None]:
        """Stop the turn, drop what waits, and end the backend with all that it started; await what it returns.

        What is sent after this call starts another backend, which goes on with the conversation, or begins a new one
        after `forget`: messages of one read are told apart by their order, and not by when a task gets its turn.
        """
        self._drop_waiting()
        return self._stop(self._begin_change(), forget)

    def restart(self) -> Coroutine[Any, Any, None]:
        """End the backend and start another that goes on with the conversation; messages that wait stay. Await it."""
        self._begin_change()
        return self._restart()

    async def close(self) -> None:
        """End the backend and the conversation; `run` returns soon after."""
        self._closed = True
        self._wake.set()
        await self.stop()

    async def hurry(self) -> None:
        """Take the grace away from an ending that is under way."""
        if self._ending is not None:
            await self._ending.hurry()

    def _begin_change(self) -> bool:
        """Stop what runs, and hold back what comes; whether a start was stopped."""
        self._stops += 1
        self._changes += 1
        self._settled.clear()
        return self._cancel_opening()

    def _finish_change(self) -> None:
        self._changes -= 1
        if not self._changes:
            self._settled.set()

    async def _stop(self, opening: bool, forget: bool) -> None:
        try:
            async with self._changing:
                if self.backend is None and not opening and not self._closed and not forget:
                    self._notice("nothing is running")
                await self._end()
                if forget:
                    self.conversation_id, self.tokens, self._resumable = "", 0, None
                    self._notice("the next message begins a new conversation")
        finally:
            self._finish_change()

    async def _restart(self) -> None:
        try:
            async with self._changing:
                await self._end()
                if not self._closed:
                    await self._open()
        except (BackendError, JobError) as error:
            self._notice(str(error))
        finally:
            self._finish_change()

    async def _hold_turn(self, text: str) -> None:
        self.began = time.monotonic()
        stops = self._stops
        end = TurnEnded("interrupted", STOPPED)
        backend = None
        try:
            backend = await self._backend_for_turn(stops)
            if backend is not None and stops == self._stops:
                end = await self._read_turn(backend, text)
        except (BackendError, JobError) as error:
            end = TurnEnded("failed", str(error))
        finally:
            self.began = 0.0
            if stops != self._stops and end.status in ("failed", "interrupted"):
                end = TurnEnded("interrupted", STOPPED)
            self.failures += end.status in ("failed", "timed_out")
            self._front.show(end)
            self._shown.set()
        if backend is not None and backend.gone:
            async with self._changing:
                if self.backend is backend:
                    await self._end()

    async def _read_turn(self, backend: Backend, text: str) -> TurnEnded:
        end = TurnEnded("failed", "the turn ended without a word")
        async with aclosing(backend.send(Input(text))) as events:  # type: ignore[type-var]
            async for event in events:
                if isinstance(event, TurnEnded):
                    end = event
                    continue
                if backend.conversation:
                    self.conversation_id = self._resumable = backend.conversation
                if isinstance(event, Usage):
                    self.tokens = event.conversation_tokens
                self._front.show(event)
                await self._front.ready()
        return end

    async def _backend_for_turn(self, stops: int) -> Backend | None:
        """The backend, started if need be; None if there was a stop since `stops` was read."""
        async with self._changing:
            if stops != self._stops:
                return None
            if self.backend is not None and self.backend.gone:
                await self._end()
            if self.backend is None:
                await self._open()
            # Before the lock is free: an ending that comes next shows its report after this turn's end.
            self._shown.clear()
            return self.backend

    async def _open(self) -> None:
        """Start a backend, under the lock; without one if it was stopped. Raises BackendError and JobError."""
        opening = self._opening = asyncio.get_running_loop().create_task(self._start())
        try:
            await asyncio.wait([opening])
        except asyncio.CancelledError:
            opening.cancel()
            await asyncio.wait([opening], timeout=OPENING_TIMEOUT)
            raise
        finally:
            self._opening = None
        if opening.cancelled():
            self._notice("the start was stopped")
            return
        self.backend = opening.result()
        self._opened = time.monotonic()
        self.conversation_id = self.backend.started.conversation
        self._front.show(self.backend.started)
        watcher = asyncio.get_running_loop().create_task(self._watch(self.backend))
        self._watchers.add(watcher)  # it is over when its backend is
        watcher.add_done_callback(self._watchers.discard)

    async def _watch(self, backend: Backend) -> None:
        """Show the end of a backend that ends by itself, also between turns. It is over when the backend is."""
        await backend.wait()
        async with self._changing:
            if self.backend is backend:
                if not self.began:
                    self._notice(backend.gone)
                await self._end()

    async def _start(self) -> Backend:
        try:
            return await self._open_backend(self._resumable)
        except ResumeError as error:
            self._notice(f"{error}; this is a new one")
            backend = await self._open_backend(None)
            self.tokens, self._resumable = 0, None
            return backend

    async def _end(self) -> None:
        """End the backend, under the lock, and show its report behind the end of its turn."""
        backend, self.backend = self.backend, None
        if backend is None:
            return
        self._ending = backend
        ended = await backend.end()
        self._ending = None
        try:
            async with asyncio.timeout(READ_TIMEOUT):
                await self._shown.wait()
        except TimeoutError:
            self._notice("the turn's last events could not be shown in time")
        self.survivors = self.survivors or not ended.report.empty
        self._front.show(ended)

    def _cancel_opening(self) -> bool:
        return self._opening is not None and self._opening.cancel()

    def _drop_waiting(self) -> None:
        while self._waiting:
            self._notice(f"not sent: {self._waiting.popleft()}")

    def _notice(self, message: str) -> None:
        self._front.show(Notice(message))
