"""What the offline model will say: turns of steps, and the pure rule that picks the next answer.

A *turn* is everything that the model does for one user message. A turn is spread over several *answers*, one per
request: a tool call ends an answer, and its output comes with the next request. The place in the script is read from
the conversation that each request carries (how many user messages, how many tool outputs since the last one), so the
model keeps no state: a retry gets the same answer, and a resumed conversation goes on where it was.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias


@dataclass(frozen=True, slots=True)
class Say:
    """Stream `text`, one delta a word, with `pause` seconds before each delta but the first."""

    text: str
    pause: float = 0.0

    def deltas(self) -> list[str]:
        """The pieces of the text; joined they are the text."""
        return re.findall(r"\s*\S+|\s+", self.text)


@dataclass(frozen=True, slots=True)
class Run:
    """Have the agent run a shell command, with whichever shell tool it offers.

    `wait` is how many seconds the agent holds the tool call open before it takes the command for a background one
    (Codex allows 0.25 to 30). `escalate` asks to run it outside the sandbox, which makes an agent ask for approval.
    """

    command: str
    wait: float = 30.0
    escalate: bool = False


@dataclass(frozen=True, slots=True)
class Call:
    """Have the agent call any tool, by its name."""

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Pause:
    """Send nothing for so many seconds, or until the agent hangs up."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Fail:
    """Refuse: with this HTTP status where nothing was sent yet, else by failing the stream."""

    message: str
    status: int = 400


Step: TypeAlias = Say | Run | Call | Pause | Fail
ENDS_ANSWER = (Run, Call, Fail)


@dataclass(frozen=True, slots=True, init=False)
class Turn:
    """What the model does for one user message: `Turn(Say("Looking."), Run("ls"), Say("Done."))`."""

    steps: tuple[Step, ...]

    def __init__(self, *steps: Step) -> None:
        object.__setattr__(self, "steps", steps)

    def answers(self) -> list[tuple[Step, ...]]:
        """The steps, cut behind each one that ends an answer."""
        answers: list[tuple[Step, ...]] = []
        current: list[Step] = []
        for step in self.steps:
            current.append(step)
            if isinstance(step, ENDS_ANSWER):
                answers.append(tuple(current))
                current = []
        if current:
            answers.append(tuple(current))
        return answers


@dataclass(frozen=True, slots=True)
class Place:
    """Where a request stands: the user messages so far, and the tool outputs since the last of them."""

    messages: tuple[str, ...]
    results: tuple[str, ...] = ()


def echo(message: str) -> Turn:
    """The turn of a script that has run out."""
    return Turn(Say(f"You said: {message}"))


@dataclass(frozen=True, slots=True)
class Script:
    """The turns of every conversation, in order; `then` makes the ones after the last."""

    turns: Sequence[Turn] = ()
    then: Callable[[str], Turn] = echo

    def answer(self, place: Place) -> tuple[Step, ...]:
        """The steps of the answer due at this place; none where the turn is over already."""
        number = max(len(place.messages) - 1, 0)
        message = place.messages[-1] if place.messages else ""
        turn = self.turns[number] if number < len(self.turns) else self.then(message)
        answers = turn.answers()
        return answers[len(place.results)] if len(place.results) < len(answers) else ()
