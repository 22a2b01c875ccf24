"""Which conversation a front end goes on with, and what its person is told of turns that were cut."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from corral.service.store.store import ConversationRow, Store

EARLIER = 20  # conversations that /resume lists


async def earlier(store: Store, person: str) -> list[ConversationRow]:
    """The person's earlier conversations, last used first. Raises StoreError."""
    return await store.conversations(person, limit=EARLIER)


async def row_for(store: Store, person: str, channel: str, resume: str | None) -> ConversationRow | None:
    """The conversation to go on with; None for a new one.

    channel: a lasting front end, which goes on where it was. resume: an id, Corral's or the engine's, or `last`.
    Raises LookupError where there is nothing to resume, StoreError.
    """
    if resume == "last":
        rows = await earlier(store, person)
        if not rows:
            raise LookupError("there is no earlier conversation to go on with")
        return rows[0]
    wanted = resume or (await store.channel(person, channel) if channel else None)
    row = await store.conversation(wanted) if wanted else None
    if row is not None and row.person == person:
        return row
    if resume is None:
        return None
    # The engine's own id, which a chat shows when its agent begins.
    if named := [one for one in await earlier(store, person) if one.thread == resume]:
        return named[0]
    raise LookupError(f"there is no conversation {resume!r}: /resume lists those that there are")


async def told_of_cut_turns(store: Store, person: str) -> list[str]:
    """A sentence for each turn of the person's that an earlier service could not end; each is told once. StoreError."""
    cut = [turn for turn in await store.cut_turns() if turn.person == person]
    if cut:
        await store.told([turn.id for turn in cut])
    return [
        f"the turn of {time.strftime('%H:%M', time.localtime(turn.began))} was cut: the service ended in its middle. It"
        f" was not sent again; /resume {turn.conversation} goes on with its conversation"
        for turn in cut
    ]
