"""The service: who may talk, their conversations while they live, and the beginning and the end of it all."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import structlog

from corral.backends import registry
from corral.backends.engine_process import LOOK_TIMEOUT, LOOKING
from corral.backends.events import BackendEnded, Notice
from corral.service import commands, resuming
from corral.service.conversation import Conversation
from corral.service.conversation_ref import ConversationRef
from corral.service.current_backend import StartBackend
from corral.service.files import Files, FilesError, Place
from corral.service.front import Welcome
from corral.service.identity import Access
from corral.service.pool import Pool
from corral.service.processes import Seen, described
from corral.service.seats import LocalSeat
from corral.service.starting import policy, workspaces
from corral.service.stopping import Deadline, Summary, end_all
from corral.service.store.journal import Journal
from corral.service.store.store import StoreError
from corral.service.upkeep import Upkeep
from corral.tasks import Tasks

if TYPE_CHECKING:
    from corral.backends.backend import Backend
    from corral.config import Config, Person
    from corral.service.front import Front
    from corral.service.identity import Identity
    from corral.service.policy import Policy
    from corral.service.seat_host import SeatPlace
    from corral.service.store.store import ConversationRow, Store, UsageRow
    from corral.service.workspaces import Workspaces

log = structlog.get_logger(__name__)

T = TypeVar("T")

ENDING_MARGIN = 10.0  # seconds beyond a ladder, for an ending's report to be shown and written
SETTLE_TIMEOUT = 1.0  # seconds for what is cancelled to be gone


class AccessError(Exception):
    """This identity may not act for this person here. The front end tells it no more than that."""


class Service:
    """Made by `start`, ended by `shutdown`. It belongs to one event loop."""

    def __init__(self, config: Config, store: Store, start: StartBackend, *, patient: bool = True) -> None:
        """`patient`: whether what a dead service left is ended before anybody is served, or beside it."""
        self.store = store
        self.pool = Pool()
        self.seats: set[LocalSeat] = set()
        self.live: set[Conversation] = set()
        self.files = Files()
        self.access = Access.own(config)
        """Who may act for whom; a daemon gives its service a wider one (`admit`, `reload`)."""
        self._config = config
        self._former: dict[str, Person] = {}
        self._start_backend = start
        self._patient = patient
        self._closing = ""
        self._taking = asyncio.Lock()
        self._upkeep = Upkeep(store, lambda: self._config, lambda: list(self.live), self.forget_if_unused)
        self._tasks = Tasks(self._done)

    @property
    def config(self) -> Config:
        """The configuration of this moment."""
        return self._config

    # Beginning and end.

    def admit(self, access: Access) -> None:
        """Serve those whom `access` allows, and close the seats of those whom it does not."""
        self.access = access
        for seat in list(self.seats):
            if why := self.refuses(seat.person, seat.identity):
                seat.close(why)

    async def start(self) -> None:
        """End what a dead service left, take in what its reapers wrote, and begin to look after what gets old."""
        await self._upkeep.start(patient=self._patient)

    async def reload(self, config: Config, access: Access | None = None) -> None:
        """Go on with another configuration, and with who may act for whom by it; None: this account alone.

        Turns that run go on, but for those of a person whose account changed: the new account is not to see what the
        old one's agent does, or to decide it. A person who was taken out gets no further turn.
        """
        before, self._config = self._config, config
        self._former.update({person.name: person for person in before.people})
        moved = {one.name for one in config.people if one.os_user != self._former.get(one.name, one).os_user}
        self.admit(access or Access.own(config))
        for conversation in [one for one in self.live if not one.over]:
            name = conversation.ref.person
            if config.person(name) is None:
                conversation.drop_waiting()
                self._tasks.own(self._end_removed(conversation))
            elif name in moved:
                self._tasks.own(self._end_moved(conversation, conversation.close("its person's account was changed")))
            elif _how_started(before, name) != _how_started(config, name):
                conversation.mark_stale("the configuration has changed")

    async def shutdown(self) -> Summary:
        """End everything at once, within [service] shutdown as a whole, and say how it went."""
        self._closing = "the service is stopping"
        before = Counter(self.pool.verdicts)  # also an ending that began before this one counts
        deadline = Deadline(self._config.service.shutdown)
        await self._upkeep.stop()
        self.pool.hurry()
        unfinished = await end_all(
            [partial(self.end, one, "the service was stopped") for one in list(self.live)],
            deadline,
            hurry=lambda: self._tasks.own(self.hurry()),  # it lasts as long as the endings do
        )
        verdicts = self.pool.verdicts - before
        seats = list(self.seats)
        for seat in seats:
            seat.close(self._closing)
        await asyncio.gather(
            self._tasks.settle(SETTLE_TIMEOUT),
            self.files.settle(SETTLE_TIMEOUT),
            *(seat.settle(SETTLE_TIMEOUT) for seat in seats),
        )
        summary = Summary(deadline.spent, verdicts.total(), verdicts, unfinished)
        summary.log()
        return summary

    async def hurry(self) -> None:
        """Take the patience away from all endings that are under way."""
        await asyncio.gather(*(one.hurry() for one in list(self.live)))

    async def hurry_one(self, conversation: Conversation) -> None:
        """Take the patience away from the ending of one conversation."""
        await conversation.hurry()

    # People.

    def person(self, name: str) -> Person:
        """The person. Raises AccessError for anybody who is not in the configuration."""
        person = self._config.person(name)
        if person is None:
            raise AccessError
        return person

    def refuses(self, person: str, identity: Identity) -> str:
        """Why calls of this identity for this person are refused; empty while they are served."""
        if self._closing:
            return self._closing
        if self._config.person(person) is None:
            return "you are not known here any more"
        return "" if self.access.allows(identity, person) else f"you may not act for {person} any more"

    async def seat(
        self,
        identity: Identity,
        person: str,
        front: Front,
        *,
        channel: str = "",
        resume: str | None = None,
        ref: ConversationRef | None = None,
        greet: Callable[[Welcome], None] = lambda _: None,
    ) -> LocalSeat:
        """A place for a front end: at a new conversation (about `ref`), or at an earlier one.

        identity: who asks, as the front end has authenticated them; they must be allowed to act for the person.
        resume: the earlier one's id, or `last`.
        channel: names a lasting front end, which goes on where it was before a restart.
        greet: is told first where it has come to.

        Raises AccessError, or LookupError with a sentence where there is nothing to resume.
        """
        who = self.person(person)
        if self.refuses(person, identity):
            raise AccessError
        taken, unread = await self._taken_up(person, channel, resume)
        if self.refuses(person, identity):  # meanwhile
            if taken is not None:
                self.forget_if_unused(taken)
            raise AccessError
        begun = taken or self.begin(ref or ConversationRef(person, self._config.engine_of(who), ""))
        helps = tuple(command.help for command in commands.COMMANDS.values())
        welcome = Welcome(person, begun.ref.engine, helps, begun.ref.workspace or who.workspace)
        seat = LocalSeat(self, commands.find, identity, person, front, begun, welcome, channel)
        self.seats.add(seat)
        try:
            greet(welcome)
            if taken is not None:
                seat.catch_up()
            if unread:
                seat.show(Notice(unread))
            for sentence in await self._written(resuming.told_of_cut_turns(self.store, person), []):
                seat.show(Notice(sentence))
        except BaseException:  # the caller has no seat that it could leave
            seat.detach()
            raise
        return seat

    async def _taken_up(self, person: str, channel: str, resume: str | None) -> tuple[Conversation | None, str]:
        """The conversation to go on with, None for a new one; and what to tell where the store cannot say.

        Raises LookupError with a sentence where somebody asked to resume, and there is nothing to resume.
        """
        try:
            row = await resuming.row_for(self.store, person, channel, resume)
        except StoreError as error:
            log.error("the store failed", error=str(error))
            if resume:
                raise LookupError(f"earlier conversations cannot be read: {error}") from None
            return None, f"the conversation that was held here cannot be read: {error}; this is a new one"
        taken = await self.take_up(row) if row is not None else None
        if isinstance(taken, str):
            if resume:
                raise LookupError(taken)
            return None, ""
        return taken, ""

    def left(self, seat: SeatPlace) -> None:
        """A front end has gone; its conversation is kept as long as it has a backend, and for as long as that lasts."""
        self.seats.discard(seat)
        self.forget_if_unused(seat.conversation)

    def moved(self, seat: SeatPlace) -> None:
        """A seat has gone on with another conversation."""
        if seat.channel:
            self._tasks.own(self._remember_channel(seat))

    # Conversations.

    def begin(self, ref: ConversationRef, *, after: asyncio.Task[None] | None = None) -> Conversation:
        """A new conversation, or one that was taken up. It starts a backend with its first message."""
        conversation = Conversation(
            ref,
            start=self._start_backend,
            pool=self.pool,
            journal=Journal(self.store, known=self._conversation_known),
            policy=self.policy,
            after=after,
        )
        self.live.add(conversation)
        return conversation

    async def take_up(self, row: ConversationRow) -> Conversation | str:
        """An earlier conversation, living here already or not; or why it cannot be had."""
        if not await self._is_let_go(row.id):
            return _being_ended(row.id)
        async with self._taking:  # two that ask at once get one and the same
            for conversation in self.live:
                if conversation.ref.id == row.id:
                    return conversation if not conversation.over else _being_ended(row.id)
            try:
                free = await self.store.claim(row.id)
            except StoreError as error:
                # Two programs on one conversation would both write to the engine's thread.
                log.error("a conversation cannot be resumed: who holds it is not known", error=str(error))
                return f"conversation {row.id} cannot be resumed: whether another program has it open cannot be read"
            if not free:
                return f"conversation {row.id} is open in another program just now: end it there first"
            return self.begin(
                ConversationRef(
                    row.person, row.engine, row.workspace, row.model, row.effort, row.thread, row.id, row.title
                )
            )

    async def end(self, conversation: Conversation, why: str) -> BackendEnded | None:
        """End a conversation's backend and let go of it.

        A caller who is cancelled does not cut it short: who takes the conversation up next must find it ended.
        """
        return await asyncio.shield(self._tasks.own(self._closed(conversation, conversation.close(why))))

    async def end_person(self, person: str) -> list[BackendEnded]:
        """End all backends of a person, those that start too, with their queues; the conversations stay.

        Raises AccessError.
        """
        self.person(person)
        own = [one for one in self.live if one.ref.person == person]
        stopping = [one.stop() for one in own if one.backend is not None or one.busy]
        return [ended for ended in await asyncio.gather(*stopping) if ended is not None]

    def policy(self, ref: ConversationRef) -> Policy:
        """The terms of a conversation now; of a person who was taken out, those of before."""
        person = self._config.person(ref.person) or self._former[ref.person]
        return policy(self._config, person, ref)

    # What the commands ask.

    @property
    def engines(self) -> tuple[str, ...]:
        """The engines that a person may choose from."""
        return registry.names()

    def workspaces(self, person: str) -> Workspaces:
        """The person's folders."""
        return workspaces(self.person(person))

    async def files_place(self, ref: ConversationRef) -> Place:
        """Where files of a conversation are handed over. Raises AccessError, FilesError."""
        config, person = self._config, self.person(ref.person)
        try:
            folder = ref.workspace or (await LOOKING.run(lambda: workspaces(person), LOOK_TIMEOUT)).home
        except OSError as error:  # a TimeoutError too
            raise FilesError(f"the home of {person.os_user or 'this account'} cannot be looked up: {error}") from error
        return Place(person.name, person.os_user, folder, config.service.state_dir)

    async def earlier(self, person: str) -> list[ConversationRow]:
        """The person's earlier conversations, last used first. Raises StoreError."""
        return await resuming.earlier(self.store, person)

    async def usage(self, person: str, since: float) -> list[UsageRow]:
        """What the person used since then (seconds since the epoch). Raises StoreError."""
        return await self.store.usage(person, since)

    async def last_verdict(self, person: str) -> str:
        """The verdict of the person's last ending; empty if there was none. Raises StoreError."""
        row = await self.store.last_report(person)
        return row.verdict if row is not None else ""

    async def look(self, backend: Backend) -> list[Seen]:
        """The backend's processes now with their command lines. Raises OSError, TimeoutError included."""
        return await LOOKING.run(lambda: described(backend.tree()), LOOK_TIMEOUT)

    async def background(self, backend: Backend) -> list[Seen]:
        """What the agent left running, with the command lines. Raises BackendError, OSError as `look`."""
        left = await backend.background()
        return await LOOKING.run(lambda: described(left), LOOK_TIMEOUT)

    # Internals.

    async def _is_let_go(self, conversation_id: str) -> bool:
        """Wait until no backend of the conversation is being ended, as long as that may take; whether it is so."""
        try:
            for conversation in [one for one in self.live if one.over and one.ref.id == conversation_id]:
                async with asyncio.timeout(self.policy(conversation.ref).ladder + ENDING_MARGIN):
                    await conversation.gone.wait()
        except TimeoutError:
            return False
        return True

    async def _conversation_known(self, ref: ConversationRef) -> None:
        for seat in list(self.seats):
            if seat.conversation.ref is ref and seat.channel:
                await self._remember_channel(seat)

    async def _remember_channel(self, seat: SeatPlace) -> None:
        conversation = seat.conversation.ref.id or None
        await self._written(self.store.set_channel(seat.person, seat.channel, conversation), None)

    def forget_if_unused(self, conversation: Conversation) -> None:
        """Let go of a conversation that nobody follows, if no backend serves it."""
        if conversation not in self.live:  # it is let go of, or has been: after the end there is no store to tell
            return
        if _is_unused(conversation):
            self._tasks.own(self._forget(conversation))

    async def _forget(self, conversation: Conversation) -> None:
        # Asked again: a front end may have resumed it since this task was made. From here to `over`, by which
        # `take_up` knows, nothing is awaited.
        if _is_unused(conversation):
            await self.end(conversation, "nobody is there any more")

    async def _closed(
        self, conversation: Conversation, closing: Coroutine[Any, Any, BackendEnded | None]
    ) -> BackendEnded | None:
        try:
            return await closing
        finally:
            self.live.discard(conversation)
            await conversation.let_go()

    async def _end_moved(self, conversation: Conversation, closing: Coroutine[Any, Any, BackendEnded | None]) -> None:
        """End what a person's former account ran. Who may speak for the person still has to attach again."""
        for seat in [one for one in self.seats if one.conversation is conversation]:
            seat.close(f"the account of {seat.person} was changed: attach again")
        await self._closed(conversation, closing)

    async def _end_removed(self, conversation: Conversation) -> None:
        """End what a person left who was taken out, once the turn that runs is over."""
        await conversation.turn_over()
        if self._config.person(conversation.ref.person) is None:
            await self.end(conversation, "its person was taken out of the configuration")

    async def _written(self, asking: Awaitable[T], failed: T) -> T:
        try:
            return await asking
        except StoreError as error:
            log.error("the store failed", error=str(error))
            return failed

    def _done(self, error: BaseException | None) -> None:
        if error is not None:
            log.error("a task of the service failed", exc_info=error)


def _is_unused(conversation: Conversation) -> bool:
    if conversation.over:
        return False  # it is being ended
    unused = not conversation.audience and conversation.backend is None and not conversation.busy
    return unused or conversation.broken


def _being_ended(conversation_id: str) -> str:
    return f"conversation {conversation_id} is just being ended: try again in a moment"


def _how_started(config: Config, name: str) -> object:
    """What a running backend was started with, and cannot be told later."""
    person = config.person(name)
    if person is None:
        return None
    kept = person.model_dump(exclude={"telegram", "backends", "workspaces"})
    return kept, config.engines.model_dump(), config.ladder.model_dump()
