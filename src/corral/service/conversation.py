"""One person's conversation while it lives: its turns one after the other, over as many backends as it takes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from contextlib import aclosing
from dataclasses import replace
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
from corral.service.conversation_state import State, Turn, Waiting
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


class Conversation:
    """Messages in by `send`, events out to the audience; one task of its own holds the turns.

    What it does next is decided by its `state` alone, a value that only its own methods replace.

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
        self.last_used = time.monotonic()
        self.gone = asyncio.Event()
        """Set when it is closed, and others may take it up."""
        self._current = CurrentBackend(ref, start, pool, journal, self.audience, policy, after)
        self._journal = journal
        self._policy = policy
        self._state = State()
        self._wake = asyncio.Event()
        """Set when the state or the followers have changed, for the task that holds the turns."""
        self._last_speaker: Follower | None = None
        """Whose message the running turn, or the last one, answers."""
        self._finishing: set[Follower] = set()
        self.broken = False
        """Whether its task died of a fault: nothing can be sent here any more."""
        self._worker = Tasks(self._worked).own(self._work())

    # State.

    @property
    def state(self) -> State:
        """What it is doing now."""
        return self._state

    @property
    def over(self) -> bool:
        """Whether it is closed, or being closed."""
        return self._state.closed

    @property
    def busy(self) -> bool:
        """Whether a turn runs, a message waits, or a start or an ending is under way."""
        return self._state.busy

    @property
    def began(self) -> float:
        """When the running turn began (`time.monotonic`); 0 while none runs."""
        return self._state.turn.began if self._state.turn is not None else 0.0

    @property
    def waiting(self) -> int:
        """How many messages wait."""
        return len(self._state.waiting)

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
        if self.waiting >= most:
            front.show(Notice(f"not taken: {most} messages wait already. Wait for the turn's end, or /stop"))
            return
        self.last_used = time.monotonic()
        if self._state.turn is not None or self.waiting:
            front.show(Notice(f"queued, number {self.waiting + 1}: {message.text}"))
        self._become(self._state.message_sent(Waiting(message, front)))

    def finish(self, front: Follower) -> None:
        """Tell this front end by `idle` when there is nothing more to do, even if that is now."""
        self._finishing.add(front)
        self._wake.set()

    def start_now(self) -> None:
        """Start the backend now, and not with the first message."""
        self._become(self._state.start_requested())

    async def steer(self, message: Input) -> bool:
        """Fold a message into the running turn; False if no turn could take it. Raises as Backend.steer."""
        return self.backend is not None and await self.backend.steer(message)

    async def interrupt(self) -> bool:
        """Stop the turn that runs; the backend stays, and so does what waits. False if nothing was to stop."""
        if self._current.cancel_opening():
            self._become(self._state.turn_stopped(STOPPED))
            return True
        asked = self._state.turn
        if self.backend is not None and await self.backend.interrupt(STOPPED):
            return True
        turn = self._state.turn
        if turn is None or self._state.endings or (asked is not None and asked.handed_over):
            return False
        if turn.handed_over:  # meanwhile
            return self.backend is not None and await self.backend.interrupt(STOPPED)
        self._become(self._state.turn_interrupted())
        return True

    def answer(self, approval_id: str, answer: Answer, by: str) -> bool:
        """Decide an open approval; False if it waits no more."""
        return self.backend is not None and self.backend.answer(approval_id, replace(answer, by=by))

    def decline(self, approval_id: str, front: Follower, by: str) -> None:
        """Decline for a front end where nobody can be asked, unless the turn is another's that is still there."""
        if self._last_speaker is front or self._last_speaker not in self.audience.followers:
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
        return self._restart(self._state.changes)

    def mark_stale(self, reason: str) -> None:
        """Have the next turn held by a fresh backend, for `reason`: what was set can only be set at a start."""
        self._current.stale = reason

    def close(self, why: str) -> Coroutine[Any, Any, BackendEnded | None]:
        """End the backend and this conversation's life; it can be taken up again. Await what it returns."""
        self._become(self._state.closing())
        self.drop_waiting()
        return self._close(self._begin_change(why), why)

    def drop_waiting(self) -> None:
        """Drop the messages that wait, and say so."""
        dropped = self._state.waiting
        self._become(self._state.messages_dropped())
        for one in dropped:
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
        if backend is None or backend.gone or self._state.endings or self._current.lock.locked():
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

    # Internals.

    def _become(self, state: State) -> None:
        """The only place where the state changes."""
        self._state = state
        self._wake.set()

    @property
    def _at_work(self) -> bool:
        return bool(self._state.turn or self._state.waiting)

    async def _recycle(self, backend: Backend, reason: str, *, force: bool) -> str:
        async with self._current.lock:
            if self.backend is not backend or (self._at_work and not force):
                return ""
            self._notice(f"the agent is ended, for {reason}; the conversation stays")
            await self._current.end("recycled")
            return reason

    def _begin_change(self, why: str) -> bool:
        """Stop what runs, and hold back what comes; whether a start was stopped."""
        self._become(self._state.ending_begun(why))
        return self._current.cancel_opening()

    def _finish_change(self) -> None:
        self._become(self._state.ending_over())

    async def _stop(self, opening: bool, why: str) -> BackendEnded | None:
        try:
            async with self._current.lock:
                if self.backend is None and not opening and not self.over:
                    self._notice("nothing is running")
                return await self._current.end(why)
        finally:
            self._finish_change()

    async def _restart(self, changes: int) -> None:
        try:
            async with self._current.lock:
                await self._current.end("restarted")
                if not self.over and changes == self._state.changes:
                    await self._current.open()
        except _FAULTS as error:
            self._notice(str(error))
        finally:
            self._finish_change()

    async def _work(self) -> None:
        while not self.over:
            self._wake.clear()
            if self._state.endings:
                await self._wake.wait()
            elif self._state.starting:
                await self._start_now()
            elif self._state.waiting:
                await self._hold_turn()
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
            self._become(self._state.start_over())

    async def _hold_turn(self) -> None:
        self._become(self._state.turn_taken(time.monotonic()))
        taken = self._turn.taken
        message, self._last_speaker = taken.message, taken.front
        end = TurnEnded("interrupted", STOPPED)
        backend = None
        try:
            await self._journal.begin_turn(self.ref, message.text)
            backend = await self._backend_for_turn()
            if backend is not None and self._turn.goes_on:
                end = await self._read_turn(backend, message)
        except _FAULTS as error:
            end = TurnEnded("failed", str(error))
        except Exception as error:  # whatever it is, the turn must end, and the next message be heard
            log.exception("a turn failed", person=self.ref.person)
            end = TurnEnded("failed", f"a fault in corral: {error!r}")
        finally:
            if self._turn.stopped_for and end.status in ("failed", "interrupted"):
                end = TurnEnded("interrupted", self._turn.stopped_for)
            try:
                await self._journal.end_turn(self.ref, end, time.monotonic() - self._turn.began)
            except Exception:  # whatever it is, the turn's end must be shown
                log.exception("the end of a turn was not written down", person=self.ref.person)
            finally:
                self.last_used = time.monotonic()
                self._become(self._state.turn_shown())
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
                if not self._turn.handed_over:
                    self._become(self._state.turn_handed_over())
                    if self._turn.interrupted:
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

    @property
    def _turn(self) -> Turn:
        assert self._state.turn is not None, "asked only while a turn is held"
        return self._state.turn

    async def _backend_for_turn(self) -> Backend | None:
        """The backend, started if need be; None if the turn was stopped meanwhile."""
        async with self._current.lock:
            if self.backend is not None and self.backend.gone:
                await self._current.end(self.backend.gone)
            while self._turn.goes_on:
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
