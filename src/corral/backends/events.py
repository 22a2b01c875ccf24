"""The events that every backend speaks: what a turn does, as front ends and `corral chat --json` see it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias

if TYPE_CHECKING:
    from corral.process import Report

TurnStatus: TypeAlias = Literal["completed", "interrupted", "failed", "timed_out"]
ToolStatus: TypeAlias = Literal["completed", "failed", "declined"]
Decision: TypeAlias = Literal["accept", "accept_for_session", "decline", "cancel"]


@dataclass(frozen=True, slots=True)
class BackendStarted:
    """The engine runs and holds a conversation: `thread_id` resumes it in a later backend."""

    event: ClassVar[str] = "backend_started"
    engine: str
    pid: int
    user: str
    thread_id: str
    model: str = ""
    resumed: bool = False


@dataclass(frozen=True, slots=True)
class TurnStarted:
    """The engine took the message."""

    event: ClassVar[str] = "turn_started"
    turn_id: str


@dataclass(frozen=True, slots=True)
class Text:
    """A piece of what the agent says. A turn may hold several messages: another `message_id` is another paragraph."""

    event: ClassVar[str] = "text"
    delta: str
    message_id: str = ""


@dataclass(frozen=True, slots=True)
class ToolStarted:
    """The agent does something: `kind` is command, file_change, mcp, web_search, …; `title` is for a person."""

    event: ClassVar[str] = "tool_started"
    tool_id: str
    kind: str
    title: str


@dataclass(frozen=True, slots=True)
class ToolEnded:
    """It is done. `output` is the end of what it printed; `exit_code` only commands have."""

    event: ClassVar[str] = "tool_ended"
    tool_id: str
    kind: str
    title: str
    status: ToolStatus
    exit_code: int | None = None
    output: str = ""


@dataclass(frozen=True, slots=True)
class ApprovalRequested:
    """The agent waits for leave: `kind` is command, file_change or permissions; `what` is for a person."""

    event: ClassVar[str] = "approval_requested"
    approval_id: str
    kind: str
    what: str
    reason: str = ""
    decisions: tuple[Decision, ...] = ("accept", "decline")


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens since the last usage event: they add up. `thread_tokens` is the whole conversation's count so far."""

    event: ClassVar[str] = "usage"
    input_tokens: int
    cached_input_tokens: int
    output_tokens: int
    thread_tokens: int
    context_window: int | None = None


@dataclass(frozen=True, slots=True)
class TurnEnded:
    """The end of a turn: there is exactly one, and it is the turn's last event. `reason` is empty when completed."""

    event: ClassVar[str] = "turn_ended"
    status: TurnStatus
    reason: str = ""


@dataclass(frozen=True, slots=True)
class BackendEnded:
    """The process and all that it started are gone, or the report says what is left."""

    event: ClassVar[str] = "backend_ended"
    report: Report


@dataclass(frozen=True, slots=True)
class Notice:
    """A sentence that the person should see, and that ends nothing."""

    event: ClassVar[str] = "notice"
    message: str


TurnEvent: TypeAlias = TurnStarted | Text | ToolStarted | ToolEnded | ApprovalRequested | Usage | TurnEnded | Notice
Event: TypeAlias = BackendStarted | TurnEvent | BackendEnded


def to_json(event: Event) -> dict[str, Any]:
    """The event as the JSON object of `corral chat --json`: its name under `event`, then its fields."""
    if isinstance(event, BackendEnded):
        return {"event": event.event, "report": event.report.to_json()}
    return {"event": event.event, **asdict(event)}
