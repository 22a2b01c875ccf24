"""What is written down of a conversation: in the store, to outlive this process, and in the log, a line each."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

import structlog

from corral.service.store.store import StoreError

if TYPE_CHECKING:
    from corral.backends.backend import Backend
    from corral.backends.events import ApprovalClosed, ApprovalRequested, BackendEnded, TurnEnded, Usage
    from corral.service.conversation_ref import ConversationRef
    from corral.service.store.store import Store

log = structlog.get_logger(__name__)

T = TypeVar("T")


class Journal:
    """One conversation's. A store that fails is an error in the log; one that hangs holds work up once."""

    def __init__(self, store: Store, known: Callable[[ConversationRef], Awaitable[None]]) -> None:
        """`known` is told when the conversation has got its id."""
        self._store = store
        self._known = known
        self._turn = ""
        self._tokens = 0

    async def keep(self, ref: ConversationRef) -> None:
        """Make the conversation known, and this process its holder, if that was not done yet."""
        if ref.id:
            return
        row = await self._written(
            self._store.new_conversation(ref.person, ref.engine, ref.workspace, model=ref.model, effort=ref.effort),
            None,
        )
        # A conversation that this process does not hold could be resumed elsewhere meanwhile: it stays unknown then.
        if row is not None and await self._written(self._store.claim(row.id), False):
            ref.id = row.id
            await self._known(ref)

    async def thread(self, ref: ConversationRef) -> None:
        """The engine has named its conversation."""
        if ref.id:
            await self._written(self._store.set_thread(ref.id, ref.thread), None)

    async def choices(self, ref: ConversationRef) -> None:
        """The person has chosen a model or an effort."""
        if ref.id:
            await self._written(self._store.set_choices(ref.id, model=ref.model, effort=ref.effort), None)

    async def begin_turn(self, ref: ConversationRef, text: str) -> None:
        """A message is taken up. Written before the engine gets it: what was cut is known to have been begun."""
        await self.keep(ref)
        self._tokens = 0
        self._turn = ""
        if not ref.id:
            return
        if not ref.title and text.strip():
            ref.title = text.strip().splitlines()[0][:80]
            await self._written(self._store.set_title(ref.id, ref.title), None)
        self._turn = await self._written(self._store.turn_began(ref.id, ref.person), "")

    async def usage(self, event: Usage) -> None:
        """Tokens were used."""
        self._tokens += event.input_tokens + event.output_tokens
        if self._turn:
            await self._written(
                self._store.add_usage(
                    self._turn, event.input_tokens, event.cached_input_tokens, event.output_tokens, event.cost
                ),
                None,
            )

    async def end_turn(self, ref: ConversationRef, end: TurnEnded, seconds: float) -> None:
        """A turn is over."""
        turn, self._turn = self._turn, ""
        if turn:
            await self._written(self._store.turn_ended(turn, end.status, end.reason), None)
        log.info(
            "turn ended",
            person=ref.person,
            conversation=ref.id,
            status=end.status,
            reason=end.reason or None,
            seconds=round(seconds, 1),
            tokens=self._tokens,
        )

    async def asked(self, event: ApprovalRequested) -> None:
        """The agent asks for permission."""
        if self._turn:
            await self._written(self._store.approval_asked(self._turn, event.approval_id, event.kind, event.what), None)

    async def closed(self, event: ApprovalClosed) -> None:
        """An approval waits no more."""
        if self._turn:
            closing = self._store.approval_closed(self._turn, event.approval_id, event.decision, event.by)
            await self._written(closing, None)

    async def new_backend(self, ref: ConversationRef, account: str, job_id: str) -> str:
        """A backend is about to be started; the record's id, or '' if it could not be written."""
        if not ref.id:
            return ""
        return await self._written(self._store.new_backend(ref.id, ref.person, account, ref.engine, job_id), "")

    def backend_not_started(self, record: str) -> None:
        """It could not be started."""
        if record:
            self._store.backend_not_started(record)

    async def backend_started(self, ref: ConversationRef, record: str, backend: Backend) -> None:
        """A backend runs."""
        started = backend.started
        log.info(
            "backend started",
            person=ref.person,
            conversation=ref.id,
            engine=started.engine,
            account=started.user,
            pid=started.pid,
            resumed=started.resumed,
        )
        if record:
            await self._written(self._store.backend_started(record, started.user, started.pid, started.model), None)

    async def backend_ended(self, ref: ConversationRef, record: str, ended: BackendEnded, why: str) -> None:
        """A backend is gone, or the report says what is left."""
        report = ended.report
        write = log.info if report.empty else log.error
        write(
            "backend ended",
            person=ref.person,
            conversation=ref.id,
            why=why,
            verdict=report.verdict,
            proof=report.proof,
            seconds=round(report.seconds, 3),
            survivors=[f"{one.pid} {one.command[:40]}" for one in report.survivors] or None,
        )
        if record:
            steps = [{"name": step.name, "seconds": step.seconds} for step in ended.steps]
            await self._written(self._store.backend_ended(record, report, steps, why), None)

    async def release(self, ref: ConversationRef) -> None:
        """This process has done with the conversation; another may take it up."""
        if ref.id:
            await self._written(self._store.release(ref.id), None)

    async def _written(self, writing: Awaitable[T], failed: T) -> T:
        began = time.monotonic()
        try:
            return await writing
        except StoreError as error:
            log.error("not written down", error=str(error), seconds=round(time.monotonic() - began, 1))
            return failed
