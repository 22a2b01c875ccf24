"""What every engine's backend says: one set of events, in no engine's own words."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias

if TYPE_CHECKING:
    from corral.process import Report

TurnStatus: TypeAlias = Literal["completed", "interrupted", "failed", "timed_out"]
ToolStatus: TypeAlias = Literal["completed", "failed", "declined", "interrupted"]
Decision: TypeAlias = Literal["accept", "accept_for_session", "decline", "cancel"]
Timer: TypeAlias = Literal["silence", "tool", "turn"]
StepName: TypeAlias = Literal["death", "goodbye", "end_of_input", "signals"]


@dataclass(frozen=True, slots=True)
class BackendStarted:
    """The engine runs. `conversation` is empty where the engine names it only with the first turn."""

    event: ClassVar[str] = "backend_started"
    engine: str
    pid: int
    user: str
    conversation: str
    model: str = ""
    resumed: bool = False


@dataclass(frozen=True, slots=True)
class TurnStarted:
    """The turn's first event. `turn_id` is the engine's, or what it was given; empty if it never took the turn."""

    event: ClassVar[str] = "turn_started"
    turn_id: str


@dataclass(frozen=True, slots=True)
class Text:
    """A piece of what the agent says. A turn may hold several messages: another `message_id` is another paragraph."""

    event: ClassVar[str] = "text"
    delta: str
    message_id: str = ""


@dataclass(frozen=True, slots=True)
class Reasoning:
    """A piece of what the agent thinks, as far as its model shows it."""

    event: ClassVar[str] = "reasoning"
    delta: str
    message_id: str = ""


@dataclass(frozen=True, slots=True)
class ToolStarted:
    """The agent does something: `kind` is command, file_change, mcp, web_search or tool; `title` is for a person."""

    event: ClassVar[str] = "tool_started"
    tool_id: str
    kind: str
    title: str


@dataclass(frozen=True, slots=True)
class ToolOutput:
    """A piece of what a running tool prints, where the engine tells it meanwhile."""

    event: ClassVar[str] = "tool_output"
    tool_id: str
    delta: str


@dataclass(frozen=True, slots=True)
class ToolEnded:
    """It is done. `output` is the end of what it printed; `exit_code` only commands have, and not of every engine."""

    event: ClassVar[str] = "tool_ended"
    tool_id: str
    kind: str
    title: str
    status: ToolStatus
    exit_code: int | None = None
    output: str = ""
    seconds: float = 0.0
    """How long it ran; the time that approvals were open is not counted."""


@dataclass(frozen=True, slots=True)
class Question:
    """One thing that the agent wants to know. Answers are texts: labels of `options`, or the person's own words."""

    question_id: str
    text: str
    options: tuple[str, ...] = ()
    free: bool = True
    """Whether other words than the options will do."""
    several: bool = False
    """Whether it may have several answers."""
    secret: bool = False
    """Whether the answer must not be shown."""
    required: bool = True


@dataclass(frozen=True, slots=True)
class ApprovalRequested:
    """The agent waits for permission, or for answers: give them by `Backend.answer`.

    `kind` is that of the tool, or permissions, question or link; `what` is for a person. Only a question has
    `questions`. Every decision but `cancel` lets the turn go on; that stops it.
    """

    event: ClassVar[str] = "approval_requested"
    approval_id: str
    kind: str
    what: str
    reason: str = ""
    decisions: tuple[Decision, ...] = ("accept", "decline")
    questions: tuple[Question, ...] = ()


@dataclass(frozen=True, slots=True)
class ApprovalClosed:
    """An approval is closed: decided by a person, declined for lack of an answer, or withdrawn by the agent."""

    event: ClassVar[str] = "approval_closed"
    approval_id: str
    decision: Decision | None
    """None: withdrawn."""
    by: str = ""
    """Who decided, as the caller of `Backend.answer` named them; empty where nobody did."""


@dataclass(frozen=True, slots=True)
class Limit:
    """The limit of the turn that comes next, and when, if nothing happens before.

    Told when another one comes next, when only a third of it is left, and when a sign of life has put it off again.
    Until it is near, each sign of life starts the silence anew, without an event.
    """

    event: ClassVar[str] = "limit"
    timer: Timer
    seconds_left: float
    """From this event on."""
    limit: float
    """Seconds that it allows altogether."""
    near: bool = False
    """Whether a third of it is left, or less."""
    paused: bool = False
    """An approval is open: until it is closed, only the turn as a whole is limited."""
    tool: str = ""
    """The title of the running tool, for the timer `tool`."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What was used since the last usage event: they add up.

    `input_tokens` holds the cached ones too. `conversation_tokens` is how much the conversation fills of the model's
    window. `cost` is in US dollars, where the engine says.
    """

    event: ClassVar[str] = "usage"
    input_tokens: int
    cached_input_tokens: int
    output_tokens: int
    conversation_tokens: int
    context_window: int | None = None
    cost: float | None = None


@dataclass(frozen=True, slots=True)
class Notice:
    """A sentence that the person should see, and that ends nothing."""

    event: ClassVar[str] = "notice"
    message: str


@dataclass(frozen=True, slots=True)
class TurnEnded:
    """The end of a turn: there is exactly one, and it is the turn's last event. `reason` is empty when completed."""

    event: ClassVar[str] = "turn_ended"
    status: TurnStatus
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Step:
    """One step of an ending, and how long it took."""

    name: StepName
    """`death`: the engine had ended before; `goodbye`: the engine was asked to stop its work; `end_of_input`;
    `signals`: the job's own ending, whose report counts them."""
    seconds: float


@dataclass(frozen=True, slots=True)
class BackendEnded:
    """The process and all that it started are gone, or the report says what is left."""

    event: ClassVar[str] = "backend_ended"
    report: Report
    steps: tuple[Step, ...] = ()


EngineEvent: TypeAlias = Text | Reasoning | ToolStarted | ToolOutput | ToolEnded | Usage | Notice
"""What an engine adds to a turn; the rest is the turn's own."""
TurnEvent: TypeAlias = TurnStarted | EngineEvent | ApprovalRequested | ApprovalClosed | Limit | TurnEnded
Event: TypeAlias = BackendStarted | TurnEvent | BackendEnded


def stream_of(event: object) -> tuple[type, str] | None:
    """The stream of text that an event is a piece of; None for an event that is no piece."""
    match event:
        case Text() | Reasoning():
            return type(event), event.message_id
        case ToolOutput():
            return type(event), event.tool_id
    return None


def to_json(event: Event) -> dict[str, Any]:
    """The event as the JSON object of `corral chat --json`: its name under `event`, then its fields."""
    if isinstance(event, BackendEnded):
        steps = [asdict(step) for step in event.steps]
        return {"event": event.event, "report": event.report.to_json(), "steps": steps}
    return {"event": event.event, **asdict(event)}
