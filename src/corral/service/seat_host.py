"""What a seat, and the commands that are given at it, ask of the service. The service is one; a test may be another."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from corral.backends.backend import Backend
    from corral.backends.events import BackendEnded
    from corral.service.conversation import Conversation
    from corral.service.conversation_ref import ConversationRef
    from corral.service.files import Files, Place
    from corral.service.identity import Identity
    from corral.service.processes import Seen
    from corral.service.store.store import ConversationRow, UsageRow
    from corral.service.workspaces import Workspaces


class SeatPlace(Protocol):
    """What the service has to know of a seat that asks."""

    person: str
    conversation: Conversation
    channel: str


class SeatHost(Protocol):
    """The service, as a seat sees it."""

    files: Files

    # Access.

    def refuses(self, person: str, identity: Identity) -> str:
        """Why calls of this identity for this person are refused; empty while they are served."""

    # Conversations.

    def begin(self, ref: ConversationRef, *, after: asyncio.Task[None] | None = None) -> Conversation:
        """A new conversation; `after` is what must be over before it starts a backend."""

    async def take_up(self, row: ConversationRow) -> Conversation | str:
        """An earlier conversation, or why it cannot be had."""

    async def end(self, conversation: Conversation, why: str) -> BackendEnded | None:
        """End a conversation's backend and let go of it."""

    def forget_if_unused(self, conversation: Conversation) -> None:
        """Let go of a conversation that nobody follows, if no backend serves it."""

    async def hurry_one(self, conversation: Conversation) -> None:
        """Take the grace away from an ending that is under way."""

    # The seat itself.

    def moved(self, seat: SeatPlace) -> None:
        """The seat has gone on with another conversation."""

    def left(self, seat: SeatPlace) -> None:
        """The seat's front end has gone."""

    # What the commands tell.

    @property
    def engines(self) -> tuple[str, ...]:
        """The engines that a person may choose from."""

    def workspaces(self, person: str) -> Workspaces:
        """The person's folders."""

    async def files_place(self, ref: ConversationRef) -> Place:
        """Where files of a conversation are handed over."""

    async def earlier(self, person: str) -> list[ConversationRow]:
        """The person's earlier conversations, last used first. Raises StoreError."""

    async def usage(self, person: str, since: float) -> list[UsageRow]:
        """What the person used since then (seconds since the epoch). Raises StoreError."""

    async def last_verdict(self, person: str) -> str:
        """The verdict of the person's last ending; empty if there was none. Raises StoreError."""

    async def look(self, backend: Backend) -> list[Seen]:
        """The backend's processes now, with their command lines. Raises OSError, TimeoutError included."""

    async def background(self, backend: Backend) -> list[Seen]:
        """What the agent left running. Raises BackendError, OSError."""
