"""One person's conversation while it lives: its turns one after the other, over as many backends as it takes."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Coroutine
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any

import structlog

from corral.backends.backend import Answer, Backend, Choices, Input
from corral.backends.errors import BackendError
from corral.backends.events import (
    ApprovalClosed,
    ApprovalRequested,
    BackendEnded,
    Event,
    Notice,
    Text,
    TurnEnded,
    Usage,
)
from corral.process import JobError
from corral.service.audience import Audience
from corral.service.conversation_ref import ConversationRef
from corral.service.current_backend import CurrentBackend, StartBackend
from corral.service.front import Follower
from corral.service.policy import Policy
from corral.service.pool import Pool, PoolFullError
from corral.service.store.journal import Journal
from corral.tasks import Tasks

log = structlog.get_logger(__name__)

WORKER_TIMEOUT = 5.0  # seconds for the last turn to be written down, once its backend has ended
STUCK_MARGIN = 60.0  # seconds beyond a turn's limit after which an old backend is ended whatever it does
STOPPED = "stopped on request"
WORDLESS = "the agent ended the turn without a word"

_FAULTS = (BackendError, JobError, PoolFullError)


@dataclass(frozen=True, slots=True)
class _Waiting:
    message: Input
    front: Follower


class Conversation:
    """Messages in by `send`, events out to the audience; one task of its own holds the turns.

    `stop`, `restart` and `interrupt` act at once, also while a turn runs or a backend starts. Exactly one TurnEnded
    is shown for each message that is taken up, and it comes before the BackendEnded of its backend. Nothing is sent
    twice.
    """

    def __init__(
        self,
        ref: ConversationRef,
        *,
        start: StartBackend,
        pool: Pool,
        journal: Journal,
        policy: Callable[[ConversationRef], Policy],
        after: asyncio.Task[None] | None = None,
    ) -> None:
        """`after`: what must be over before this one starts a backend, such as the end of the one before it."""
        self.ref = ref
        self.audience = Audience()
        self.tokens = 0
        self.began = 0.0
        """When the running turn began (`time.monotonic`); 0 while none runs."""
        self.last_used = time.monotonic()
        self.over = False
        """Whether it is closed, or being closed."""
        self.gone = asyncio.Event()
        """Set when it is closed, and others may take it up."""
        self._current = CurrentBackend(ref, start, pool, journal, self.audience, policy, after)
        self._journal = journal
        self._policy = policy
        self._waiting: deque[_Waiting] = deque()
        self._wake = asyncio.Event()
        self._stops = 0
        self._stopped_for = ""
        """Why the running turn was stopped first; empty if it was not."""
        self._speaker: Follower | None = None
        """Whose message the running turn, or the last one, answers."""
        self._handed_over = False
        """Whether the backend has begun the turn that runs here."""
        self._stop_early = False
        """Whether that turn was interrupted before."""
        self._changes = 0
        self._settled = asyncio.Event()
        self._finishing: set[Follower] = set()
        self._eager = False
        self.broken = False
        """Whether its task died of a fault: nothing can be sent here any more."""
        self._worker = Tasks(self._worked).own(self._work())

    # What others may know.

    @property
    def busy(self) -> bool:
        """Whether a turn runs, a message waits, or an ending is under way."""
        return bool(self.began or self._waiting or self._changes or self._eager)

    @property
    def waiting(self) -> int:
        """How many messages wait."""
        return len(self._waiting)

    @property
    def approvals(self) -> tuple[ApprovalRequested, ...]:
        """The open ones, oldest first."""
        return self.backend.approvals if self.backend is not None else ()

    @property
    def backend(self) -> Backend | None:
        """The one that serves it now."""
        return self._current.backend

    @property
    def age(self) -> float:
        """Seconds since the backend started; 0 without one."""
        return self._current.age(time.monotonic())

    # What a front end asks for.

    def send(self, message: Input, front: Follower) -> None:
        """Take a message; while a turn runs it waits for its end."""
        if self.over:
            front.show(Notice(f"not sent: {message.text}"))
            return
        most = self._policy(self.ref).queue
        if len(self._waiting) >= most:
            front.show(Notice(f"not taken: {most} messages wait already. Wait for the turn's end, or /stop"))
            return
        self.last_used = time.monotonic()
        if self.began or self._waiting:
            front.show(Notice(f"queued, number {len(self._waiting) + 1}: {message.text}"))
        self._waiting.append(_Waiting(message, front))
        self._wake.set()

    def finish(self, front: Follower) -> None:
        """Tell this front end by `idle` when there is nothing more to do, even if that is now."""
        self._finishing.add(front)
        self._wake.set()

    def start_now(self) -> None:
        """Start the backend now, and not with the first message."""
        self._eager = True
        self._wake.set()

    async def steer(self, message: Input) -> bool:
        """Fold a message into the running turn; False if no turn could take it. Raises as Backend.steer."""
        return self.backend is not None and await self.backend.steer(message)

    async def interrupt(self) -> bool:
        """Stop the turn that runs; the backend stays, and so does what waits. False if nothing was to stop."""
        if self._current.cancel_opening():
            self._count_stop(STOPPED)
            return True
        handed_over = self._handed_over
        if self.backend is not None and await self.backend.interrupt(STOPPED):
            return True
        if handed_over or not self.began or self._changes:
            return False
        if self._handed_over:  # meanwhile
            return self.backend is not None and await self.backend.interrupt(STOPPED)
        self._stop_early = True
        return True

    def answer(self, approval_id: str, answer: Answer, by: str) -> bool:
        """Decide an open approval; False if it waits no more."""
        return self.backend is not None and self.backend.answer(approval_id, replace(answer, by=by))

    def decline(self, approval_id: str, front: Follower, by: str) -> None:
        """Decline for a front end where nobody can be asked, unless the turn is another's that is still there."""
        if self._speaker is front or self._speaker not in self.audience.followers:
            self.answer(approval_id, Answer("decline"), by)

    def stop(self) -> Coroutine[Any, Any, BackendEnded | None]:
        """Stop the turn, drop what waits, and end the backend with all that it started; await what it returns.

        What is sent after this call starts another backend, which goes on with the conversation: messages of one read
        are told apart by their order, and not by when a task gets its turn.
        """
        self.drop_waiting()
        return self._stop(self._begin_change(STOPPED), "stopped")

    def restart(self) -> Coroutine[Any, Any, None]:
        """End the backend and start another that goes on with the conversation; messages that wait stay. Await it."""
        self._begin_change("the agent was restarted")
        return self._restart(self._stops)

    def mark_stale(self, reason: str) -> None:
        """Have the next turn held by a fresh backend, for `reason`: what was set can only be set at a start."""
        self._current.stale = reason

    def close(self, why: str) -> Coroutine[Any, Any, BackendEnded | None]:
        """End the backend and this conversation's life; it can be taken up again. Await what it returns."""
        self.over = True
        self._wake.set()
        self.drop_waiting()
        return self._close(self._begin_change(why), why)

    def drop_waiting(self) -> None:
        """Drop the messages that wait, and say so."""
        while self._waiting:
            one = self._waiting.popleft()
            one.front.show(Notice(f"not sent: {one.message.text}"))

    async def turn_over(self) -> None:
        """Wait until the backend has no turn; for no longer than a turn may last."""
        await self._current.no_turn.wait()

    async def _close(self, opening: bool, why: str) -> BackendEnded | None:
        try:
            return await self._stop(opening, why)
        finally:
            await asyncio.wait([self._worker], timeout=WORKER_TIMEOUT)
            self._worker.cancel()

    async def let_go(self) -> None:
        """Let others take it up: it was closed."""
        await self._journal.release(self.ref)
        self.gone.set()

    async def keep_choices(self) -> None:
        """Write down what was chosen for it."""
        await self._journal.choices(self.ref)

    async def hurry(self) -> None:
        """Take the grace away from an ending that is under way."""
        await self._current.hurry()

    async def recycle(self, now: float) -> str:
        """End a backend that is idle or old, between turns; why it was ended, or ''."""
        backend, policy = self.backend, self._policy(self.ref)
        if backend is None or backend.gone or self._changes or self._current.lock.locked():
            return ""
        age = self._current.age(now)
        if age > policy.age + policy.limits.turn + STUCK_MARGIN:
            reason = f"it is {_minutes(age)} old, and its turn should have ended by itself long ago"
        elif self._at_work:
            return ""
        elif age > policy.age:
            reason = f"it is {_minutes(age)} old, and older than [recycle] age allows"
        elif now - self.last_used > policy.idle:
            reason = f"nobody has spoken for {_minutes(now - self.last_used)}"
            if not policy.background and await _works_on(backend):
                return ""
        elif self._current.stale:
            reason = self._current.stale
        else:
            return ""
        return await self._recycle(backend, reason, force=age > policy.age + policy.limits.turn)

    # How.

    @property
    def _at_work(self) -> bool:
        return bool(self.began or self._waiting)

    async def _recycle(self, backend: Backend, reason: str, *, force: bool) -> str:
        async with self._current.lock:
            if self.backend is not backend or (self._at_work and not force):
                return ""
            self._notice(f"the agent is ended, for {reason}; the conversation stays")
            await self._current.end("recycled")
            return reason

    def _count_stop(self, why: str) -> None:
        self._stops += 1
        self._stopped_for = self._stopped_for or why

    def _begin_change(self, why: str) -> bool:
        """Stop what runs, and hold back what comes; whether a start was stopped."""
        self._count_stop(why)
        self._changes += 1
        self._settled.clear()
        return self._current.cancel_opening()

    def _finish_change(self) -> None:
        self._changes -= 1
        if not self._changes:
            self._settled.set()
            self._wake.set()

    async def _stop(self, opening: bool, why: str) -> BackendEnded | None:
        try:
            async with self._current.lock:
                if self.backend is None and not opening and not self.over:
                    self._notice("nothing is running")
                return await self._current.end(why)
        finally:
            self._finish_change()

    async def _restart(self, stops: int) -> None:
        try:
            async with self._current.lock:
                await self._current.end("restarted")
                if not self.over and stops == self._stops:
                    await self._current.open()
        except _FAULTS as error:
            self._notice(str(error))
        finally:
            self._finish_change()

    async def _work(self) -> None:
        while not self.over:
            self._wake.clear()
            if self._changes:
                await self._settled.wait()
            elif self._eager:
                await self._start_now()
            elif self._waiting:
                await self._hold_turn(self._waiting.popleft())
            else:
                self._finishing.clear()
                self.audience.idle()
                await self._wake.wait()

    def _worked(self, error: BaseException | None) -> None:
        if error is not None:
            log.error("the task of a conversation failed", person=self.ref.person, exc_info=error)
            self.broken = True
            self.audience.closed(f"a fault in corral: {error!r}")

    async def _start_now(self) -> None:
        try:
            async with self._current.lock:
                if self.backend is None and not self.over:
                    await self._current.open()
        except _FAULTS as error:
            self.audience.closed(str(error))
        except Exception as error:  # whatever it is, somebody waits for this start
            log.exception("a start failed", person=self.ref.person)
            self.audience.closed(f"a fault in corral: {error!r}")
        finally:
            self._eager = False

    async def _hold_turn(self, waiting: _Waiting) -> None:
        message, self._speaker = waiting.message, waiting.front
        self.began = time.monotonic()
        stops, self._stopped_for = self._stops, ""
        end = TurnEnded("interrupted", STOPPED)
        backend = None
        try:
            await self._journal.begin_turn(self.ref, message.text)
            backend = await self._backend_for_turn(stops)
            if backend is not None and stops == self._stops and not self._stop_early:
                end = await self._read_turn(backend, message)
        except _FAULTS as error:
            end = TurnEnded("failed", str(error))
        except Exception as error:  # whatever it is, the turn must end, and the next message be heard
            log.exception("a turn failed", person=self.ref.person)
            end = TurnEnded("failed", f"a fault in corral: {error!r}")
        finally:
            if stops != self._stops and end.status in ("failed", "interrupted"):
                end = TurnEnded("interrupted", self._stopped_for)
            try:
                await self._journal.end_turn(self.ref, end, time.monotonic() - self.began)
            except Exception:  # whatever it is, the turn's end must be shown
                log.exception("the end of a turn was not written down", person=self.ref.person)
            finally:
                self.began, self.last_used = 0.0, time.monotonic()
                self._handed_over = self._stop_early = False
                self.audience.show(end)
                self._current.turn_shown()
        if backend is not None and backend.gone:
            async with self._current.lock:
                if self.backend is backend:
                    await self._current.end(backend.gone)

    async def _read_turn(self, backend: Backend, message: Input) -> TurnEnded:
        end = TurnEnded("failed", "the turn ended without a word")
        policy = self._policy(self.ref)
        spoke = False
        choices, limits = Choices(self.ref.model, self.ref.effort or policy.effort), policy.limits
        async with aclosing(backend.send(message, choices=choices, limits=limits)) as events:  # type: ignore[type-var]
            async for event in events:
                if not self._handed_over:
                    self._handed_over = True
                    if self._stop_early:
                        await backend.interrupt(STOPPED)  # bounded by the backend
                if isinstance(event, TurnEnded):
                    end = event
                    continue
                spoke = spoke or (isinstance(event, Text) and bool(event.delta.strip()))
                await self._note(backend, event)
                self.audience.show(event)
        if end.status == "completed" and not spoke:
            self._notice(WORDLESS)
        return end

    async def _note(self, backend: Backend, event: Event) -> None:
        """Keep what must outlive this process, and what others ask for."""
        if backend.conversation and backend.conversation != self.ref.thread:
            self.ref.thread = backend.conversation
            await self._journal.thread(self.ref)
        if isinstance(event, Usage):
            self.tokens = event.conversation_tokens
            await self._journal.usage(event)
        elif isinstance(event, ApprovalRequested):
            await self._journal.asked(event)
        elif isinstance(event, ApprovalClosed):
            await self._journal.closed(event)

    async def _backend_for_turn(self, stops: int) -> Backend | None:
        """The backend, started if need be; None if there was a stop since `stops` was read."""
        async with self._current.lock:
            if self.backend is not None and self.backend.gone:
                await self._current.end(self.backend.gone)
            while stops == self._stops and not self._stop_early:
                if self.backend is None:
                    await self._current.open()
                    if self._current.forgotten:
                        self._current.forgotten, self.tokens = False, 0
                    if self.backend is None:
                        break
                elif self._current.stale:  # perhaps only since it started
                    await self._current.end(self._current.stale)
                else:
                    # Before the lock is free: an ending that comes next shows its report after this turn's end.
                    self._current.turn_begins()
                    return self.backend
            return None

    def _notice(self, message: str) -> None:
        self.audience.show(Notice(message))


async def _works_on(backend: Backend) -> bool:
    """Whether the agent has work in the background; also where that cannot be seen."""
    try:
        return bool(await backend.background())
    except BackendError as error:
        log.warning("an idle agent is kept", reason=str(error))
        return True


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.0f} minutes" if seconds >= 120 else f"{seconds:.0f} s"
