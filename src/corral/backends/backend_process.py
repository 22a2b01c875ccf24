"""One running engine, whichever it is, as a `Backend`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Self

from corral.backends.attachments import read_input
from corral.backends.backend import Answer, Choices, Input, Limits
from corral.backends.engine import EngineKind, Opening
from corral.backends.engine_process import EngineProcess
from corral.backends.errors import BackendError, TurnRunningError
from corral.backends.events import BackendEnded, BackendStarted, TurnEnded
from corral.backends.host import BackendHost
from corral.backends.launch import Launch
from corral.backends.life import Life
from corral.backends.states import Fresh
from corral.backends.turn import Turn

if TYPE_CHECKING:
    from collections.abc import Sequence

    from corral.backends.events import ApprovalRequested, Limit, TurnEvent
    from corral.process import Job, Process

STEER_TIMEOUT = 5.0  # seconds for a turn to be taken before something can be folded into it
# A `break` out of `async for` lets go of the turn, but the loop closes the generator only some rounds later.
LOOP_ROUNDS = 5


class BackendProcess:
    """A `Backend` for any `EngineKind`.

    It belongs to the event loop that it is started in. `async with BackendProcess(…) as backend` starts it with a new
    conversation and ends it. Its state is in `Life`, and its open tools and approvals are in the turn.
    """

    started: BackendStarted

    def __init__(self, kind: EngineKind, launch: Launch | None = None, limits: Limits | None = None) -> None:
        self.kind = kind
        self.launch = launch or Launch()
        self._limits = limits or Limits()
        self._life = Life(self.launch)
        self.host = BackendHost(lambda: self._life.turn, self.launch.tell_operator)
        """What the engine speaks to."""

    @property
    def job(self) -> Job:
        """The engine's job. Raises BackendError before there is one."""
        return self._life.process.job

    @property
    def conversation(self) -> str:
        return self.host.conversation

    @property
    def turn(self) -> Turn | None:
        """The turn that runs; None between turns."""
        return self.host.turn

    @property
    def busy(self) -> bool:
        return self.turn is not None

    @property
    def approvals(self) -> tuple[ApprovalRequested, ...]:
        return self.turn.approvals if self.turn is not None else ()

    @property
    def limit(self) -> Limit | None:
        return self.turn.limit() if self.turn is not None else None

    @property
    def gone(self) -> str:
        return self._life.gone

    def tree(self) -> list[Process]:
        return self.job.tree()

    async def background(self) -> list[Process]:
        return await self._life.process.background()

    async def start(self, conversation: str | None = None) -> BackendStarted:
        opening = Opening(conversation or None, self.launch.folder())
        self.started = await self._life.start(lambda: self._start_process(opening), opening)
        if self.started.resumed:
            self.host.remember(self.started.conversation)
        return self.started

    async def send(
        self, message: Input, *, choices: Choices | None = None, limits: Limits | None = None
    ) -> AsyncIterator[TurnEvent]:
        _ = self.job  # raises before the start
        ready = await read_input(message, self.launch.account)
        turn = Turn(limits or self._limits, self._untold)
        try:
            for _ in range(LOOP_ROUNDS):
                if self._is_read:
                    await asyncio.sleep(0)
            if self._is_read:
                raise TurnRunningError("a turn is running: interrupt it, or wait for its end")
            await self._life.claim(turn, ready, choices or Choices())
            while True:
                event = await turn.feed.get()
                yield event
                if isinstance(event, TurnEnded):
                    return
        finally:
            if not turn.over:
                turn.unread = True
                turn.stop(TurnEnded("interrupted", "its reader left"))

    async def steer(self, message: Input) -> bool:
        ready = await read_input(message, self.launch.account)
        turn = self.turn
        if turn is None or turn.stopped or await turn.taken(STEER_TIMEOUT) is None:
            return False
        return not turn.over and await self._life.process.engine.steer(turn, ready)

    async def interrupt(self, reason: str = "stopped on request") -> bool:
        return await self._life.interrupt(reason)

    def answer(self, approval_id: str, answer: Answer) -> bool:
        return self.turn is not None and self.turn.answer(approval_id, answer)

    async def end(self) -> BackendEnded:
        return await self._life.end()

    async def hurry(self) -> None:
        if self.gone:
            await self.job.end(grace=0)

    async def wait(self) -> BackendEnded:
        return await self._life.wait()

    async def __aenter__(self) -> Self:
        if isinstance(self._life.state, Fresh):
            await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.end()

    # Internals.

    async def _start_process(self, opening: Opening) -> EngineProcess:
        enters = self.launch.account is None or self.kind.starts_in_workspace
        # An engine that is only told of its folder would start all the same, and fail with every command.
        if not enters and (fault := await self.launch.folder_fault(opening.workspace)):
            raise BackendError(fault)
        folder = opening.workspace if enters else None
        job = await self.launch.start(self.kind.argv(opening), folder, self.kind.name)
        return EngineProcess(self.kind, job, self.host)

    @property
    def _is_read(self) -> bool:
        """Whether a turn runs whose reader has not left."""
        return self.turn is not None and not self.turn.unread

    def _untold(self) -> Sequence[str]:
        return self.host.untold((*self.launch.notices, *self.job.notices))
