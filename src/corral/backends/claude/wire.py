"""The lines of claude's stream-json (2.1), as far as they are used: whatever else they hold is let by."""

from __future__ import annotations

from typing import Any

import msgspec


class Wire(msgspec.Struct, gc=False):
    """A message with the names of JSON. Nothing in one refers back to it, so the collector need not look."""


class Head(Wire):
    """What tells the lines apart; `parent_tool_use_id` is set on those of a subagent."""

    type: str = ""
    subtype: str = ""
    parent_tool_use_id: str | None = None


# Control: requests both ways, and their replies.


class Reply(Wire):
    """The `response` of a control_response; `response` is the result of one that succeeded."""

    subtype: str = ""
    request_id: str = ""
    response: msgspec.Raw = msgspec.Raw(b"{}")
    error: str = ""


class ReplyLine(Wire):
    """control_response."""

    response: Reply


class RequestLine(Wire):
    """control_request, and control_cancel_request (which has no `request`)."""

    request_id: str
    request: msgspec.Raw = msgspec.Raw(b"{}")


class RequestHead(Wire):
    """What every request has."""

    subtype: str = ""


class CanUseTool(Wire):
    """May the agent use the tool? `permission_suggestions` are rules that would make further questions needless."""

    tool_name: str = ""
    input: dict[str, Any] = {}
    description: str | None = None
    decision_reason: str | None = None
    blocked_path: str | None = None
    permission_suggestions: list[dict[str, Any]] | None = None
    tool_use_id: str = ""


class Elicitation(Wire):
    """An MCP server asks the person; `mode` is form or url."""

    mcp_server_name: str = ""
    message: str = ""
    mode: str | None = None
    url: str | None = None
    requested_schema: Any = None


class Model(Wire):
    """A model that can be chosen."""

    value: str = ""
    efforts: list[str] = msgspec.field(default_factory=list, name="supportedEffortLevels")


class Initialized(Wire):
    """The result of initialize."""

    models: list[Model] = []


# What a turn says.


class Init(Wire):
    """system/init: at the beginning of every turn."""

    session_id: str = ""
    capabilities: list[str] = []


class Lifecycle(Wire):
    """command_lifecycle: a message of ours is queued, started, completed or cancelled."""

    command_uuid: str = ""
    state: str = ""


class Retry(Wire):
    """system/api_retry."""

    attempt: int = 0
    max_retries: int = 0
    error: Any = None
    error_status: int | None = None


class Task(Wire):
    """A command in the background."""

    task_id: str = ""


class Tasks(Wire):
    """system/background_tasks_changed: always the whole list."""

    tasks: list[Task] = []


class Block(Wire):
    """A piece of a message: text, thinking, tool_use or tool_result."""

    type: str = ""
    text: str = ""
    thinking: str = ""
    id: str = ""
    name: str = ""
    input: dict[str, Any] = {}
    tool_use_id: str = ""
    content: Any = None
    is_error: bool = False


class TokenCount(Wire):
    """Tokens of one request to the model; what came from the cache is counted apart."""

    input_tokens: int = 0
    cache_creation_input_tokens: int = 0
    cache_read_input_tokens: int = 0
    output_tokens: int = 0


class Message(Wire):
    """The message of an assistant or user line; a user's content may be plain text."""

    id: str = ""
    content: list[Block] | str = ""
    usage: TokenCount | None = None


class MessageLine(Wire):
    """assistant and user.

    `is_api_error_message` marks what does not come from the model. `tool_use_result` is an object, or text for a
    failure.
    """

    message: Message
    is_api_error_message: bool = False
    tool_use_result: Any = None


class Delta(Wire):
    """The `delta` of a content_block_delta."""

    type: str = ""
    text: str = ""
    thinking: str = ""


class StreamEvent(Wire):
    """The model's own event in a stream_event."""

    type: str = ""
    index: int = 0
    delta: Delta = msgspec.field(default_factory=Delta)
    message: Message | None = None
    usage: TokenCount | None = None


class StreamLine(Wire):
    """stream_event."""

    event: StreamEvent


class ModelUsage(Wire, rename="camel"):
    """What one model was used for."""

    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_input_tokens: int = 0
    cache_creation_input_tokens: int = 0
    context_window: int | None = None
    cost: float = msgspec.field(default=0.0, name="costUSD")


class Origin(Wire):
    """Why claude began a turn itself."""

    kind: str = ""


class Result(Wire):
    """result: the end of a turn. `total_cost_usd` and `model_usage` add up over the process, and over a resumption."""

    is_error: bool = False
    result: str | None = None
    session_id: str = ""
    errors: list[str] = []
    terminal_reason: str | None = None
    total_cost_usd: float = 0.0
    usage: TokenCount | None = None
    model_usage: dict[str, ModelUsage] = msgspec.field(default_factory=dict, name="modelUsage")
    model_usage_since_last_result: dict[str, ModelUsage] | None = None
    user_message_uuids: list[str] | None = None
    origin: Origin | None = None


class ResultEnd(Wire):
    """As much of a result as ends a turn."""

    is_error: bool = False
    result: str | None = None
    user_message_uuids: list[str] | None = None
    origin: Origin | None = None


class RateLimit(Wire):
    """What is left of an account's limit; `resets_at` is in seconds since 1970."""

    status: str = ""
    resets_at: float | None = msgspec.field(default=None, name="resetsAt")
    kind: str | None = msgspec.field(default=None, name="rateLimitType")


class RateLimitLine(Wire):
    """rate_limit_event."""

    rate_limit_info: RateLimit
