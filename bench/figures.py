"""A figure: what was measured, how often, and how it compares."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any


class CannotRun(Exception):
    """This machine lacks something that a part needs. The text says what."""


@dataclass(frozen=True)
class Figure:
    """One line of a table. `values` are in the order of the rounds, so that rivals can be compared round by round."""

    case: str
    contender: str
    unit: str
    values: tuple[float, ...]
    ratio: float | None = None
    left: tuple[int, ...] = ()
    note: str = ""

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    def to_json(self) -> dict[str, Any]:
        """Return the figure for results.json."""
        spread = {"runs": len(self.values), "min": min(self.values), "median": self.median, "max": max(self.values)}
        return {**asdict(self), **spread}


@dataclass(frozen=True)
class Aim:
    """A limit that the project set itself, and where it is."""

    what: str
    value: float
    limit: float
    unit: str

    @property
    def met(self) -> bool:
        return self.value <= self.limit


@dataclass(frozen=True)
class Section:
    """One table."""

    title: str
    explanation: str
    figures: tuple[Figure, ...]
    aims: tuple[Aim, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the table for results.json."""
        return {
            "title": self.title,
            "explanation": self.explanation,
            "figures": [figure.to_json() for figure in self.figures],
            "aims": [{**asdict(aim), "met": aim.met} for aim in self.aims],
        }


def ratio(values: Sequence[float], base: Sequence[float]) -> float:
    """Return the median of the ratios round by round: what slows a whole round down cancels out; nan for none."""
    # A stall can be too short for the clock to see.
    ratios = [value / other for value, other in zip(values, base, strict=True) if other > 0]
    return statistics.median(ratios) if ratios else math.nan
