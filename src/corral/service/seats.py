"""A front end's place at one person's conversation, in the service's own process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias

import structlog

from corral.backends.backend import Answer, Input
from corral.backends.events import Notice
from corral.printable import valid
from corral.service.conversation import Conversation
from corral.service.conversation_ref import ConversationRef
from corral.service.files import MOST_BYTES, FileOut, FilesError, Place
from corral.service.front import CommandHelp, Reply
from corral.service.front_queue import FrontQueue
from corral.service.store.store import StoreError
from corral.tasks import Tasks

if TYPE_CHECKING:
    from corral.service.front import Front, Shown, Welcome
    from corral.service.identity import Identity
    from corral.service.seat_host import SeatHost
    from corral.service.store.store import ConversationRow

log = structlog.get_logger(__name__)

MOST_AT_WORK = 20  # commands of one front end

Answered: TypeAlias = "str | Reply | None"
"""What a command tells whoever gave it."""

Handler: TypeAlias = "Callable[[LocalSeat, str], Answered | Coroutine[Any, Any, Answered]]"
"""Acts at once, as far as it can, and returns the rest to be awaited: commands take effect in their order."""


@dataclass(frozen=True, slots=True)
class Command:
    """One command: how it is shown, and what it does at a seat."""

    help: CommandHelp
    act: Handler


FindCommand: TypeAlias = "Callable[[str], tuple[Command | None, str, str]]"
"""The command of a line, its name and the rest of the line; None where there is no such command."""


class LocalSeat:
    """A `corral.service.front.Seat`. It moves from one conversation to another; a front end hears of one at a time."""

    def __init__(
        self,
        service: SeatHost,
        find_command: FindCommand,
        identity: Identity,
        person: str,
        front: Front,
        conversation: Conversation,
        welcome: Welcome,
        channel: str,
    ) -> None:
        self.service = service
        self._find_command = find_command
        self.identity = identity
        self.person = person
        self.conversation = conversation
        self.channel = channel
        """The lasting front end that goes on here after a restart of the service, by its name; or empty."""
        # A front end that is dropped has gone, as one whose connection is lost: its turn goes on.
        self._queue = FrontQueue(front, self._gone)
        self._welcome = welcome
        self._tasks = Tasks(self._done)
        self._at_work = 0
        self._pressed = 0
        self._over = False
        self._resuming = asyncio.Lock()
        self._relay = _Relay(self)
        conversation.audience.join(self._relay)

    @property
    def welcome(self) -> Welcome:
        return self._welcome

    @property
    def over(self) -> bool:
        """Whether its front end has gone."""
        return self._over

    # What a front end can do (corral.service.front.Seat).

    def send(self, message: Input) -> None:
        if self._refuses():
            return
        # The halves of a letter that a terminal may send could be written nowhere.
        self.conversation.send(replace(message, text=valid(message.text)), self._relay)

    def command(self, line: str) -> None:
        if self._refuses():
            return
        line = valid(line)
        if line.startswith("//"):
            self.send(Input(line[1:]))
            return
        if self._at_work >= MOST_AT_WORK:
            self.tell(f"not done, {MOST_AT_WORK} commands are at work: {line[:80]}")
            return
        command, name, argument = self._find_command(line)
        if command is None:
            self.tell(f"unknown command {name}: /help lists all; begin a line with // to send it to the agent")
            return
        answered = command.act(self, argument)
        if isinstance(answered, Coroutine):
            self._at_work += 1
            self._tasks.own(self._answer(answered))
        else:
            self.tell(answered)

    def interrupt(self) -> None:
        if not self._over:
            self._press(self._interrupt)

    def answer(self, approval_id: str, answer: Answer) -> None:
        if not self._over:
            self.conversation.answer(approval_id, answer, self.person)

    def decline(self, approval_id: str) -> None:
        if not self._over:
            self.conversation.decline(approval_id, self._relay, self.person)

    def finish(self) -> None:
        self._relay.finishing = True
        self.conversation.finish(self._relay)

    def leave(self) -> None:
        if not self._over:
            self._over = True
            self._tasks.own(self._leave())

    def hurry(self) -> None:
        self._press(lambda: self.service.hurry_one(self.conversation))

    def detach(self) -> None:
        self._queue.discard()
        self._gone()

    async def put_file(self, name: str, pieces: AsyncIterable[bytes], *, most: int = MOST_BYTES) -> str:
        """Hand a file to the person's account, at most `most` bytes; its path in the workspace. Raises FilesError."""
        return await self.service.files.put(await self._files_place(), name, pieces, owner=self, most=most)

    @asynccontextmanager
    async def get_file(self, path: str, *, most: int = MOST_BYTES) -> AsyncIterator[FileOut]:
        """A file from inside the workspace, at most `most` bytes. Raises FilesError."""
        async with self.service.files.get(await self._files_place(), path, owner=self, most=most) as file:
            yield file

    # What the commands and the service ask of it.

    def ref(self, *, engine: str | None = None, workspace: str | None = None) -> ConversationRef:
        """What a new conversation is about that follows the one here."""
        before = self.conversation.ref
        if engine is not None and engine != before.engine:
            # A model's name is the other engine's.
            return ConversationRef(self.person, engine, before.workspace)
        return ConversationRef(self.person, before.engine, workspace or before.workspace, before.model, before.effort)

    def move(self, ref: ConversationRef) -> Coroutine[Any, Any, None]:
        """End what is here, and go on with another conversation; await what it returns.

        What is sent after this call belongs to the new one, which starts when the old one's end is over.
        """
        old = self.conversation
        ending = self._tasks.own(self._end_of(old))
        self._take(self.service.begin(ref, after=ending))
        return _over(ending)

    async def resume(self, row: ConversationRow) -> str | None:
        """Go on with an earlier conversation; what is to be told."""
        async with self._resuming:  # of two, the second ends what the first went on with
            old = self.conversation
            if row.id == old.ref.id:
                return "you are in it"
            taken = await self.service.take_up(row)
            if isinstance(taken, str):
                return taken
            # It must not be ended, as one that nobody follows, while the old one's end takes its time.
            place = _KeptPlace()
            taken.audience.join(place)
            try:
                if self._is_at(old):
                    await asyncio.wait([self._tasks.own(self._end_of(old))])
                if self._is_at(old):
                    self._take(taken)
                    self.catch_up()
                    return f"you are back in {row.id}: {row.title}"
            finally:
                taken.audience.quit(place)
            self.service.forget_if_unused(taken)
            return None if self._over else f"{row.id} was not taken up: you have gone on elsewhere meanwhile"

    def catch_up(self) -> None:
        """Show what a front end that comes later has missed: the turn that runs, and what is asked."""
        conversation = self.conversation
        if conversation.backend is not None:
            started = conversation.backend.started
            self.show(replace(started, model=conversation.ref.model or started.model))
        if conversation.began:
            self.tell("a turn is running")
        if conversation.backend is not None and (limit := conversation.backend.limit) is not None:
            self.show(limit)
        for approval in conversation.approvals:
            self.show(approval)

    def show(self, event: Shown) -> None:
        """Show an event to this front end alone."""
        self._queue.show(event)

    def tell(self, what: Answered) -> None:
        """Tell this front end alone, and whether there is nothing more to do."""
        if isinstance(what, Reply):
            self.show(what)
        elif what:
            self.show(Notice(what))
        self.maybe_idle()

    def close(self, reason: str) -> None:
        """The service takes the place away. What waits to be shown is shown before, if the front end takes it soon."""
        self._queue.closed(reason)
        self._gone()

    async def caught_up(self) -> None:
        """Wait until the front end has been shown most of what waits for it; its `ready` bounds that."""
        await self._queue.caught_up()

    async def settle(self, timeout: float) -> None:
        """Wait at most `timeout` seconds for what it has begun, and for its front end to hear of the end."""
        await asyncio.gather(self._tasks.settle(timeout), self._queue.settle(timeout))

    # Internals.

    def _refuses(self) -> bool:
        if self._over:
            return True
        if why := self.service.refuses(self.person, self.identity):
            self.close(why)
            return True
        return False

    async def _files_place(self) -> Place:
        if self._refuses():
            raise FilesError("this seat is closed")
        return await self.service.files_place(self.conversation.ref)

    def _is_at(self, conversation: Conversation) -> bool:
        """Whether it is there still: its front end may have gone, or a later command have moved it."""
        return self.conversation is conversation and not self._over

    def _take(self, conversation: Conversation) -> None:
        self.conversation = conversation
        self.service.moved(self)
        conversation.audience.join(self._relay)

    async def _end_of(self, old: Conversation, why: str = "another conversation was begun") -> None:
        """Leave a conversation: its backend is ended unless somebody else follows it."""
        if len(old.audience) > 1:
            old.audience.quit(self._relay)
            return
        await self.service.end(old, why)
        old.audience.quit(self._relay)

    async def _leave(self) -> None:
        try:
            await self._end_of(self.conversation, "the chat was left")
        finally:
            self._queue.closed("")
            self._gone()

    def _gone(self) -> None:
        self._over = True
        self.conversation.audience.quit(self._relay)
        self.service.files.stop(self)
        self.service.left(self)

    def _press(self, act: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Begin what a key asks for, which may take seconds; of a key that is held down, not without end."""
        if self._pressed < MOST_AT_WORK:
            self._pressed += 1
            self._tasks.own(self._pressing(act()))

    async def _pressing(self, acting: Coroutine[Any, Any, None]) -> None:
        try:
            await acting
        finally:
            self._pressed -= 1

    async def _interrupt(self) -> None:
        if not await self.conversation.interrupt() and not self.conversation.busy:
            self.tell("nothing is running")

    async def _answer(self, answering: Coroutine[Any, Any, Answered]) -> None:
        try:
            self.tell(await answering)
        except StoreError as error:
            log.error("the store failed", person=self.person, error=str(error))
            self.tell(f"what was kept cannot be read: {error}")
        finally:
            self._at_work -= 1

    def maybe_idle(self) -> None:
        """Say that nothing is to be done, if so; behind the other calls of this moment, which may change that."""
        asyncio.get_running_loop().call_soon(self._idle)

    def _idle(self) -> None:
        if self._over or self._at_work or self.conversation.busy:
            return
        if self._relay.finishing:
            self.leave()
        else:
            self._queue.idle()

    def _done(self, error: BaseException | None) -> None:
        if error is not None:
            log.error("a command failed", person=self.person, exc_info=error)
            self.tell(f"a fault in corral: {error!r}")
        self.maybe_idle()


class _Relay:
    """The seat's ear at its conversation (a Follower)."""

    def __init__(self, seat: LocalSeat) -> None:
        self.finishing = False
        self._seat = seat
        self.show = seat.show

    def idle(self) -> None:
        """The conversation has nothing to do; a command may still be at work."""
        self._seat.maybe_idle()

    def closed(self, reason: str) -> None:
        """The conversation could not begin."""
        self._seat.close(reason)


class _KeptPlace:
    """A place in an audience for somebody who is on the way (a Follower)."""

    def show(self, event: Shown) -> None:
        pass

    def idle(self) -> None:
        pass

    def closed(self, reason: str) -> None:
        pass


async def _over(task: asyncio.Task[None]) -> None:
    await asyncio.wait([task])
