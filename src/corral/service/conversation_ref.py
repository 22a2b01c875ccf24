"""What a conversation is about."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class ConversationRef:
    """What a conversation is about, and goes on with: whose, which engine, where, and what was chosen for it."""

    person: str
    engine: str
    workspace: str
    """The folder, or empty for the person's own."""
    model: str | None = None
    effort: str | None = None
    thread: str | None = None
    """The engine's own id of the conversation, once it has one."""
    id: str = ""
    """The store's; empty until there is something to keep."""
    title: str = ""
