"""What every engine's backend is: one Protocol. What it says is in `events`.

Invariants, held for every engine by tests/test_backend_contract.py:

- A turn has exactly one TurnStarted, its first event, and exactly one TurnEnded, its last: also when the engine dies,
  writes garbage or never took the message, and when the caller cancels or stops reading.
- Every ToolStarted has a ToolEnded before the turn's end, and every ApprovalRequested an ApprovalClosed.
- One turn runs at a time. A second caller is refused (TurnRunningError) and disturbs nothing.
- A message is handed to the engine once. Nothing is sent again by itself, least of all a turn that already acted.
- Every wait is bounded: by the limits of the turn, by the ladder, or by a constant of this room.
- A backend that dies in any way is ended to a verdict by itself; `wait` tells.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeAlias

from corral.backends.events import ApprovalRequested, BackendEnded, BackendStarted, Decision, Limit, TurnEvent

if TYPE_CHECKING:
    from corral.process import Process


@dataclass(frozen=True, slots=True)
class Input:
    """What a person sends: text, pictures to look at, and files that the agent may open.

    Pictures are read here, but only those that the agent's account may read; files are named to the agent, which opens
    them under its own account.
    """

    text: str
    images: tuple[Path, ...] = ()
    files: tuple[Path, ...] = ()


@dataclass(frozen=True, slots=True)
class Choices:
    """What holds from this turn on, in the engine's own words; None leaves a thing as it is."""

    model: str | None = None
    effort: str | None = None
    """Of reasoning: low, medium, high, …"""


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds after which a turn is stopped, or an approval is declined."""

    silence: float = 600.0
    """Without a sign of life: words, thoughts, tools. Not counted while an approval is open. Notices are none."""
    tool: float = 1800.0
    """For which a running tool counts as life, however silent it is."""
    turn: float = 3600.0
    """Altogether."""
    approval: float = 600.0
    """That an approval may be open."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a person decided; `answers` by question, for a question that was accepted."""

    decision: Decision
    answers: Mapping[str, Sequence[str]] = field(default_factory=dict)
    by: str = ""
    """Who decided, for the event that tells of it."""


Ask: TypeAlias = Callable[[ApprovalRequested], Awaitable[Answer]]


class Backend(Protocol):
    """One running engine that serves one person's conversation, from `start` to `end`."""

    @property
    def started(self) -> BackendStarted:
        """What `start` returned."""

    @property
    def conversation(self) -> str:
        """What `start` of a later backend goes on with; empty while there is nothing to go on with."""

    @property
    def busy(self) -> bool:
        """Whether a turn runs."""

    @property
    def approvals(self) -> tuple[ApprovalRequested, ...]:
        """The approvals that wait for an answer, oldest first, as far as the turn's reader has been told of them."""

    @property
    def limit(self) -> Limit | None:
        """The limit that comes next, and what is left of it now; None while no turn runs."""

    @property
    def gone(self) -> str:
        """Why no turn can run in this backend any more; empty while one can."""

    def tree(self) -> list[Process]:
        """The engine's processes now."""

    async def background(self) -> list[Process]:
        """What the agent left running: the living in sessions that are younger than the engine's start.

        While a turn runs its commands are among them. Empty where processes cannot be seen (no /proc, hidepid).
        Raises BackendError if nothing was started, or if they cannot be looked at in time.
        """

    async def start(self, conversation: str | None = None) -> BackendStarted:
        """Start the engine, once: with a new conversation, or with that one.

        Raises corral.process.StartError if the command does not start, BackendError if the engine does not speak as
        it should, ResumeError if it does not know the conversation. Nothing is left running then.
        """

    def send(
        self, message: Input, *, choices: Choices | None = None, limits: Limits | None = None
    ) -> AsyncIterator[TurnEvent]:
        """Hold a turn: hand the message over and yield what comes of it, up to the one TurnEnded.

        A choice that the engine does not know fails the turn. A caller who stops reading has the turn interrupted.
        Raises TurnRunningError if a turn runs, InputError for a picture that cannot be sent; neither
        has begun a turn.
        """

    async def steer(self, message: Input) -> bool:
        """Fold a message into the running turn; False if no turn runs that could take it (it is not sent then).

        Raises InputError; TimeoutError or BackendError if it is not known whether the engine took it.
        """

    async def interrupt(self, reason: str = "stopped on request") -> bool:
        """End the running turn and what it started, and keep the conversation; False if no turn ran.

        A turn that the engine began itself counts.
        Returns when the turn has ended. The backend stays, except where the engine does not obey in time: then the
        backend is ended (`gone` says so), and another one goes on with the conversation.
        """

    def answer(self, approval_id: str, answer: Answer) -> bool:
        """Decide an open approval; False if it is closed. A decision that was not offered counts as a lesser one."""

    async def end(self) -> BackendEnded:
        """End the engine and all that it started. Any number of callers, at once or later, share one ending.

        During `start` it ends what is being started. Raises BackendError if nothing was.
        """

    async def hurry(self) -> None:
        """Shorten an ending that is under way: no more grace before KILL."""

    async def wait(self) -> BackendEnded:
        """Wait until it has ended, for whatever reason."""
