"""Going through the steps: a dry run, which only looks, or the real one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from corral.install.setup.errors import SetupError
from corral.install.setup.step import Look, Step

if TYPE_CHECKING:
    from corral.install.setup.receipt import Receipt


@dataclass(frozen=True, slots=True)
class Result:
    """What came of one step."""

    title: str
    look: Look

    def to_json(self) -> dict[str, str]:
        """For programs."""
        return {"step": self.title, "state": self.look.state, "detail": self.look.detail, "remedy": self.look.remedy}


def look_at(steps: Sequence[Step], receipt: Receipt) -> Iterator[Result]:
    """What each step would do. Nothing is changed."""
    for step in steps:
        yield Result(step.title, _looked(step, receipt))


def _looked(step: Step, receipt: Receipt) -> Look:
    try:
        return step.look(receipt)
    except SetupError as error:
        return Look("refused", str(error))


def carry_out(steps: Sequence[Step], receipt: Receipt, begin: Callable[[str], None]) -> Iterator[Result]:
    """Do what is to be done, step by step, until one is refused or fails: those behind it rest on it.

    `begin` hears of each step that takes its time.
    """
    for step in steps:
        look = _looked(step, receipt)
        if look.state == "todo":
            begin(f"{step.title}: {look.detail}")
            try:
                step.do(receipt)
            except SetupError as error:
                yield Result(step.title, Look("refused", str(error)))
                return
            yield Result(step.title, Look("done", look.detail))
            continue
        yield Result(step.title, look)
        if look.state == "refused":
            return
