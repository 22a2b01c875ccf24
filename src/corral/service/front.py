"""What a front end and the service ask of each other: a `Seat` is one front end's place at one person's conversation.

The front end may sit in the service's own process, or behind a socket: both look the same from either side. That is why
nothing here returns a value or is awaited except `ready`: all that comes of a call comes back as events, in order.

Between the service and each front end stands a queue (`front_queue`). It is bounded: a front end that falls behind
misses words, is told how many by a `Missed`, and delays nobody.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeAlias

from corral.backends import events
from corral.backends.events import Event

if TYPE_CHECKING:
    from corral.backends.backend import Answer, Input
    from corral.service.files import FileOut


@dataclass(frozen=True, slots=True)
class Reply:
    """What a command answered: text for a person (it may have several lines), and the same as data for a program."""

    event: ClassVar[str] = "notice"
    message: str
    about: str = ""
    """The command, without its slash."""
    data: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Missed:
    """Words and output that this front end was not shown here, because too much already waited for it."""

    event: ClassVar[str] = "missed"
    characters: int


Shown: TypeAlias = Event | Reply | Missed
"""All that a front end may have to show."""


def to_json(event: Shown) -> dict[str, Any]:
    """The event as the JSON object of `corral chat --json`."""
    if isinstance(event, Reply | Missed):
        return {"event": event.event, **asdict(event)}
    return events.to_json(event)


@dataclass(frozen=True, slots=True)
class CommandHelp:
    """One command, for a help text and for completion."""

    name: str
    """With its slash."""
    arguments: str
    """As a usage line has them, for example `[NAME]`; empty if it takes none."""
    summary: str


@dataclass(frozen=True, slots=True)
class Welcome:
    """Where a front end has come to."""

    person: str
    engine: str
    commands: tuple[CommandHelp, ...]
    workspace: str = ""
    """The folder of the conversation, as the configuration writes it if it was not chosen in a chat."""


class Follower(Protocol):
    """What a conversation tells those who follow it."""

    def show(self, event: Shown) -> None:
        """Show an event; it must not wait."""

    def idle(self) -> None:
        """Called when no turn runs, no message waits and no command is at work."""

    def closed(self, reason: str) -> None:
        """Called last: the seat is closed; `reason` is empty when the front end asked for it."""


class Front(Follower, Protocol):
    """What a seat asks of its front end. One that raises is dropped: `closed` is called, and nothing after it."""

    async def ready(self) -> None:
        """Wait until more can be shown. Meanwhile events wait in the queue of this front end, and delay no other."""


class Seat(Protocol):
    """What a front end can do.

    Every call but those of files returns at once, and calls take effect in their order.
    """

    @property
    def welcome(self) -> Welcome:
        """Where it has come to."""

    def send(self, message: Input) -> None:
        """Say something to the agent; while a turn runs it waits in the queue, and a notice tells its place."""

    def command(self, line: str) -> None:
        """Do what a line that begins with `/` says, at once, also while a turn runs; a Reply tells."""

    def interrupt(self) -> None:
        """Stop the turn that runs; backend, conversation and queue stay."""

    def answer(self, approval_id: str, answer: Answer) -> None:
        """Decide an open approval; one that waits no more is left alone."""

    def decline(self, approval_id: str) -> None:
        """Decline it because nobody can be asked here; not for the turn of another front end that is still there."""

    def finish(self) -> None:
        """Say that nothing more will be said: after the last turn the seat leaves by itself."""

    def leave(self) -> None:
        """Leave: what waits is dropped, and the backend is ended with all that it started; then comes `closed`."""

    def hurry(self) -> None:
        """Take the grace away from an ending that is under way."""

    async def put_file(self, name: str, pieces: AsyncIterable[bytes]) -> str:
        """Hand a file to the person's account; its path in the workspace.

        Raises corral.service.files.FilesError, and whatever `pieces` raises.
        """

    def get_file(self, path: str, *, most: int = ...) -> AbstractAsyncContextManager[FileOut]:
        """A file from inside the workspace, at most `most` bytes, while the context lasts. Raises FilesError."""

    def detach(self) -> None:
        """Go without a word, as a lost connection does: the turn goes on, the conversation can be taken up again."""
