"""The messages of `codex app-server` (0.125 to 0.169), as far as they are used: whatever else they hold is let by.

`codex app-server generate-json-schema --out DIR` writes the protocol of the very binary.
"""

from __future__ import annotations

from typing import Any

import msgspec


class Wire(msgspec.Struct, rename="camel", gc=False):
    """A message with the names of JSON. Nothing in one refers back to it, so the collector need not look."""


class Thread(Wire):
    """A conversation; its id resumes it."""

    id: str


class ThreadOpened(Wire):
    """The result of thread/start and of thread/resume."""

    thread: Thread
    model: str = ""


class TurnError(Wire):
    """Why a turn failed."""

    message: str = ""
    additional_details: Any = None


class Turn(Wire):
    """A turn; `status` is inProgress, completed, interrupted or failed."""

    id: str
    status: str
    error: TurnError | None = None


class TurnNote(Wire):
    """turn/started, turn/completed, and the result of turn/start (which names no thread)."""

    turn: Turn
    thread_id: str = ""


class TurnHead(Wire):
    """What every notification of a turn has."""

    thread_id: str = ""
    turn_id: str = ""


class Delta(TurnHead):
    """The deltas of item/agentMessage, item/reasoning and item/commandExecution."""

    item_id: str = ""
    delta: str = ""


class ItemNote(TurnHead):
    """item/started and item/completed; what the item is, its `type` says."""

    item: msgspec.Raw = msgspec.Raw(b"{}")


class TokenCount(Wire):
    """Tokens of one request, or of all."""

    input_tokens: int = 0
    cached_input_tokens: int = 0
    output_tokens: int = 0
    total_tokens: int = 0


class TokenUsage(Wire):
    """Since the last note, and altogether."""

    last: TokenCount
    total: TokenCount
    model_context_window: int | None = None


class UsageNote(TurnHead, kw_only=True):
    """thread/tokenUsage/updated."""

    token_usage: TokenUsage


class Rerouted(TurnHead):
    """model/rerouted."""

    from_model: str = ""
    to_model: str = ""
    reason: str = ""


class ErrorNote(TurnHead, kw_only=True):
    """error: no end of the turn, neither with nor without `will_retry`."""

    error: TurnError
    will_retry: bool = False


class Warned(Wire):
    """warning and guardianWarning (`message`), configWarning and deprecationNotice (`summary`)."""

    message: str = ""
    summary: str = ""
    details: str | None = None


class Resolved(Wire):
    """serverRequest/resolved: the server waits for this answer no more."""

    request_id: int | str


class ItemHead(Wire):
    """What every item has."""

    type: str
    id: str = ""


class AgentMessage(Wire):
    """Item agentMessage: the whole text, once completed."""

    text: str = ""


class Thought(Wire):
    """Item reasoning: the summary that the model gives, and its thoughts where it shows them."""

    summary: list[str] = []
    content: list[str] = []


class CommandExecution(Wire):
    """Item commandExecution; `status` is inProgress, completed, failed or declined."""

    command: str = ""
    status: str = ""
    exit_code: int | None = None
    aggregated_output: str | None = None


class FileUpdate(Wire):
    """One file of a file change."""

    path: str


class FileChange(Wire):
    """Item fileChange."""

    changes: list[FileUpdate] = []
    status: str = ""


class ToolError(Wire):
    """Why a tool call failed."""

    message: str = ""


class ToolCall(Wire):
    """Items mcpToolCall and dynamicToolCall."""

    tool: str = ""
    server: str = ""
    status: str = ""
    error: ToolError | None = None


class WebSearch(Wire):
    """Item webSearch."""

    query: str = ""


class CommandApproval(Wire):
    """item/commandExecution/requestApproval; `kind` from 0.163 on."""

    command: str | None = None
    kind: str = ""
    reason: str | None = None


class FileApproval(Wire):
    """item/fileChange/requestApproval."""

    item_id: str = ""
    grant_root: str | None = None
    reason: str | None = None


class PermissionsApproval(Wire):
    """item/permissions/requestApproval."""

    permissions: dict[str, Any] = {}
    reason: str | None = None


class LegacyApproval(Wire):
    """execCommandApproval (`command`) and applyPatchApproval (`file_changes`), of older versions."""

    command: list[str] = []
    file_changes: dict[str, Any] = {}
    reason: str | None = None


class Option(Wire):
    """One of the answers that a question offers."""

    label: str
    description: str = ""


class Question(Wire):
    """One question of item/tool/requestUserInput; without options any text will do."""

    id: str = ""
    question: str = ""
    options: list[Option] | None = None
    is_other: bool = False
    is_secret: bool = False


class Questions(Wire):
    """item/tool/requestUserInput."""

    questions: list[Question] = []


class ElicitationMeta(Wire):
    """What codex adds to an elicitation of its own making: the approval of a tool."""

    codex_approval_kind: str = msgspec.field(default="", name="codex_approval_kind")
    tool_params: dict[str, Any] | None = msgspec.field(default=None, name="tool_params")
    persist: list[str] = []


class Elicitation(Wire):
    """mcpServer/elicitation/request; `mode` is form, url, or one of the vendor's own."""

    server_name: str = ""
    message: str = ""
    mode: str = "form"
    requested_schema: Any = None
    url: str = ""
    meta: ElicitationMeta | None = msgspec.field(default=None, name="_meta")


class EffortOption(Wire):
    """A reasoning effort that a model has."""

    reasoning_effort: str = ""


class ModelOption(Wire):
    """A model that can be chosen."""

    supported_reasoning_efforts: list[EffortOption] = []


class ModelList(Wire):
    """The result of model/list."""

    data: list[ModelOption] = []


class RateLimitWindow(Wire):
    """How much of a window of time is used; `resets_at` is in seconds since 1970."""

    used_percent: float = 0
    window_duration_mins: float | None = None
    resets_at: float | None = None


class RateLimits(Wire):
    """The short window and the long one."""

    primary: RateLimitWindow | None = None
    secondary: RateLimitWindow | None = None


class RateLimitsNote(Wire):
    """account/rateLimits/updated."""

    rate_limits: RateLimits
