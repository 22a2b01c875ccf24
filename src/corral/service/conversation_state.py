"""The state of a conversation: one value, which the conversation replaces and nobody else can change.

| phase | a message waits | a turn runs | what comes next |
|---|---|---|---|
| `idle` | no | no | a message begins a turn; `start_now` starts a backend |
| `starting` | perhaps | no | the backend is there, or could not be started: idle, or the first turn |
| `turn` | perhaps | yes | the end of the turn is shown: idle, or the next turn |
| `ending` | perhaps | perhaps | the backend is ended, the turn's end shown: idle, the next turn, or closed |
| `closed` | no | perhaps | nothing: what is sent is refused |

An ending wins over everything: it stops the turn and a start, and what is sent meanwhile waits for it. Several may be
under way at once (`/stop` twice); the phase is `ending` until the last one is over.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from corral.backends.backend import Input
    from corral.service.front import Follower


class Phase(StrEnum):
    """What a conversation is doing."""

    IDLE = "idle"
    STARTING = "starting"
    TURN = "turn"
    ENDING = "ending"
    CLOSED = "closed"


@dataclass(frozen=True, slots=True)
class Waiting:
    """A message, and the front end that it came from."""

    message: Input
    front: Follower


@dataclass(frozen=True, slots=True)
class Turn:
    """A message that was taken up, until the end of its turn is shown."""

    taken: Waiting
    began: float
    """`time.monotonic` when it was taken up."""
    handed_over: bool = False
    """Whether the backend has begun it."""
    interrupted: bool = False
    """Whether it is to be stopped as soon as the backend has begun it."""
    stopped_for: str = ""
    """Why it was stopped first; empty if it was not."""

    @property
    def goes_on(self) -> bool:
        """Whether nobody has stopped it yet."""
        return not self.stopped_for and not self.interrupted


@dataclass(frozen=True, slots=True)
class State:
    """Everything that decides what a conversation does next. Each method is a transition, and returns the new state."""

    waiting: tuple[Waiting, ...] = ()
    """Messages that no turn has taken up, in their order."""
    turn: Turn | None = None
    starting: bool = False
    """Whether a backend was asked for without a message."""
    endings: int = 0
    """Endings that are under way."""
    changes: int = 0
    """How many endings there were: whoever read this number before knows whether another has begun since."""
    closed: bool = False

    @property
    def phase(self) -> Phase:
        """What it is doing."""
        if self.endings:
            return Phase.ENDING
        if self.closed:
            return Phase.CLOSED
        if self.turn is not None:
            return Phase.TURN
        return Phase.STARTING if self.starting else Phase.IDLE

    @property
    def busy(self) -> bool:
        """Whether anything is to be waited for: a turn, a message, a start, an ending."""
        return bool(self.turn or self.waiting or self.starting or self.endings)

    # Messages and turns.

    def message_sent(self, waiting: Waiting) -> Self:
        """A message waits for its turn."""
        assert not self.closed, "what is sent to a closed conversation is refused"
        return replace(self, waiting=(*self.waiting, waiting))

    def messages_dropped(self) -> Self:
        """Nothing waits any more."""
        return replace(self, waiting=())

    def turn_taken(self, now: float) -> Self:
        """The first message that waits is taken up."""
        assert self.turn is None, "one turn at a time"
        assert not self.endings, "an ending is waited for"
        first, *others = self.waiting
        return replace(self, waiting=tuple(others), turn=Turn(first, now))

    def turn_handed_over(self) -> Self:
        """The backend has begun it."""
        assert self.turn is not None, "only a turn is handed over"
        return replace(self, turn=replace(self.turn, handed_over=True))

    def turn_interrupted(self) -> Self:
        """It is to be stopped as soon as the backend has begun it."""
        assert self.turn is not None, "only a turn is interrupted"
        return replace(self, turn=replace(self.turn, interrupted=True))

    def turn_stopped(self, why: str) -> Self:
        """Whatever runs is stopped; the first reason stays."""
        if self.turn is None or self.turn.stopped_for:
            return self
        return replace(self, turn=replace(self.turn, stopped_for=why))

    def turn_shown(self) -> Self:
        """The end of the turn is shown."""
        assert self.turn is not None, "each turn ends once"
        return replace(self, turn=None)

    # Starts and endings.

    def start_requested(self) -> Self:
        """A backend is to be started without a message."""
        return replace(self, starting=True)

    def start_over(self) -> Self:
        """It is there, or could not be started."""
        return replace(self, starting=False)

    def ending_begun(self, why: str) -> Self:
        """An ending stops the turn, and holds back what comes."""
        return replace(self.turn_stopped(why), endings=self.endings + 1, changes=self.changes + 1)

    def ending_over(self) -> Self:
        """One of the endings is over."""
        assert self.endings, "each ending ends once"
        return replace(self, endings=self.endings - 1)

    def closing(self) -> Self:
        """Nothing is taken any more."""
        return replace(self, closed=True)
