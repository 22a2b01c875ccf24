"""What the store holds, a row each. Times are seconds since the epoch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from corral.process import Report

RUNNING = "running"
CUT = "cut"
"""The state of a turn whose program died, or left, in its middle."""


@dataclass(frozen=True, slots=True)
class ConversationRow:
    """A person's conversation with an engine."""

    id: str
    person: str
    engine: str
    workspace: str
    model: str | None
    effort: str | None
    thread: str | None
    """The engine's own id of it, once it has one."""
    title: str
    """The first line of the first message; empty before there is one."""
    created: float
    used: float


@dataclass(frozen=True, slots=True)
class TurnRow:
    """One request of a person, and what became of it."""

    id: str
    conversation: str
    person: str
    model: str | None
    state: str
    """`running`, `completed`, `interrupted`, `failed`, `timed_out`, or `cut`."""
    reason: str
    began: float
    ended: float | None
    """Of a turn that was cut: when that was found out."""
    input_tokens: int
    cached_input_tokens: int
    output_tokens: int
    cost: float
    """US dollars, as the engine says; 0 where it says nothing."""


@dataclass(frozen=True, slots=True)
class UsageRow:
    """What turns used, in all."""

    engine: str
    model: str | None
    turns: int
    input_tokens: int
    cached_input_tokens: int
    output_tokens: int
    cost: float


@dataclass(frozen=True, slots=True)
class BackendRow:
    """A backend that was started."""

    id: str
    conversation: str | None
    """None once that was pruned."""
    person: str
    account: str
    engine: str
    pid: int
    model: str | None
    job_id: str
    started: float


@dataclass(frozen=True, slots=True)
class ReportRow(BackendRow):
    """A backend that ended, and how."""

    ended: float
    why: str
    steps: tuple[dict[str, Any], ...]
    """The ladder's: `name` and `seconds`."""
    report: Report

    @property
    def verdict(self) -> str:
        """The report's."""
        return self.report.verdict


@dataclass(frozen=True, slots=True)
class Pruned:
    """How many rows went for their age."""

    turns: int = 0
    approvals: int = 0
    backends: int = 0
    conversations: int = 0
    instances: int = 0


CONVERSATION = "id, person, engine, workspace, model, effort, thread, title, created, used"
TURN = (
    "id, conversation, person, model, state, reason, began, ended,"
    " input_tokens, cached_input_tokens, output_tokens, cost"
)
BACKEND = "id, conversation, person, account, engine, pid, model, job_id, started"
REPORT = f"{BACKEND}, ended, why, steps, report"


def report_row(row: Sequence[Any]) -> ReportRow:
    """The row of REPORT's columns."""
    *values, steps, report = row
    return ReportRow(*(*values, tuple(json.loads(steps or "[]")), Report.from_json(json.loads(report))))
