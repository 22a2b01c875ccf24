"""What the offline model will say: turns of steps, and the pure rule that picks the next answer.

A *turn* is everything that the model does for one user message. A turn is spread over several *answers*, one per
request: a tool call ends an answer, and its output comes with the next request. The place in the script is read from
the conversation that each request carries (how many user messages, how many tool outputs since the last one), so the
model keeps no state: a retry gets the same answer, and a resumed conversation goes on where it was. Only a failure that
passes (`Fail(…, times=2)`) needs to know how often the same answer was asked for.
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


@dataclass(frozen=True, slots=True)
class Think:
    """Stream `text` as reasoning, as `Say` does; an agent shows it apart from what it says, or not at all."""

    text: str
    pause: float = 0.0


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
    """Refuse: with this HTTP status where nothing was sent yet, else by failing the stream.

    With `times` the failure passes: so many requests for the answer are refused, the next one gets the steps behind.
    """

    message: str
    status: int = 400
    times: int | None = None


def timed_deltas(step: Say | Think) -> list[tuple[float, str]]:
    """The pieces of the text, which joined are the text, each with the seconds to wait before it."""
    pieces = re.findall(r"\s*\S+|\s+", step.text)
    return [(step.pause if number else 0.0, piece) for number, piece in enumerate(pieces)]


Step: TypeAlias = Say | Think | Run | Call | Pause | Fail


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
            if _ends_answer(step):
                answers.append(tuple(current))
                current = []
        if current:
            answers.append(tuple(current))
        return answers


def _ends_answer(step: Step) -> bool:
    return isinstance(step, (Run, Call)) or (isinstance(step, Fail) and step.times is None)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a request stands: the user messages so far, and the tool outputs since the last of them.

    `conversation` is the agent's own name of it, empty where it sends none.
    """

    messages: tuple[str, ...]
    results: tuple[str, ...] = ()
    conversation: str = ""


def echo(message: str) -> Turn:
    """The turn of a script that has run out."""
    return Turn(Say(f"You said: {message}"))


@dataclass(frozen=True, slots=True)
class Script:
    """The turns of every conversation, in order; `then` makes the ones after the last."""

    turns: Sequence[Turn] = ()
    then: Callable[[str], Turn] = echo

    def answer(self, place: Place, refused: int = 0) -> tuple[Step, ...]:
        """The steps of the answer due at this place; none where the turn is over already.

        `refused` is how many requests for this very answer came before.
        """
        number = max(len(place.messages) - 1, 0)
        message = place.messages[-1] if place.messages else ""
        turn = self.turns[number] if number < len(self.turns) else self.then(message)
        answers = turn.answers()
        return _not_passed(answers[len(place.results)], refused) if len(place.results) < len(answers) else ()


def _not_passed(steps: Sequence[Step], refused: int) -> tuple[Step, ...]:
    """The steps behind the failures that have passed, up to one that has not."""
    begin = 0
    for number, step in enumerate(steps):
        if isinstance(step, Fail) and step.times is not None:
            if step.times > refused:
                return tuple(steps[begin : number + 1])
            refused -= step.times
            begin = number + 1
    return tuple(steps[begin:])
