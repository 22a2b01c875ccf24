"""What a check found."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

Status = Literal["ok", "warn", "error", "skip"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    label: str
    status: Status
    """`ok`; `warn`: it works, and something will be missed; `error`: somebody cannot work, or what is left cannot be
    ended; `skip`: it was not looked at, and `detail` says why."""
    detail: str
    todo: str = ""
    """What to do, as a sentence or a line to add."""
    fix: tuple[str, ...] = ()
    """Commands that do it, as a person would type them; with sudo where they need root."""

    def to_json(self) -> dict[str, Any]:
        """The object that `corral doctor --json` prints."""
        return {
            "label": self.label,
            "status": self.status,
            "detail": self.detail,
            "todo": self.todo,
            "fix": list(self.fix),
        }


Findings = Iterable[Finding]


def ok(label: str, detail: str) -> Finding:
    """It is as it must be."""
    return Finding(label, "ok", detail)


def skip(label: str, why: str) -> Finding:
    """It was not looked at."""
    return Finding(label, "skip", why)


def warn(label: str, detail: str, todo: str = "", *fix: str) -> Finding:
    """It works, and something will be missed."""
    return Finding(label, "warn", detail, todo, fix)


def error(label: str, detail: str, todo: str = "", *fix: str) -> Finding:
    """Somebody cannot work, or what is left cannot be ended."""
    return Finding(label, "error", detail, todo, fix)
