"""One step of a setup: it looks, says what it would do, and does it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from corral.install.setup.receipt import Receipt

State = Literal["done", "todo", "refused", "left"]


@dataclass(frozen=True, slots=True)
class Look:
    """How things stand before a step, or after it."""

    state: State
    """`done`: nothing to do. `todo`: it would be done. `refused`: it cannot be. `left`: stays as it is, on purpose."""
    detail: str = ""
    """What is there, what would be done, or why not."""
    remedy: str = ""
    """What somebody has to do first."""


class Step(Protocol):
    """A step. `look` changes nothing; `do` is called only where `look` said `todo`, and raises SetupError."""

    @property
    def title(self) -> str:
        """What it is about."""

    def look(self, receipt: Receipt) -> Look:
        """How things stand."""

    def do(self, receipt: Receipt) -> None:
        """Do it, and write down what was made."""
