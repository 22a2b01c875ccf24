"""The messages of `codex app-server` (0.169), as far as they are used: whatever else they hold is let by.

`codex app-server generate-json-schema --out DIR` writes the protocol of the very binary.
"""

from __future__ import annotations

from typing import Any

import msgspec


class Wire(msgspec.Struct, rename="camel"):
    """A message with the names of JSON."""


class Thread(Wire):
    """A conversation; its id resumes it."""

    id: str


class ThreadOpened(Wire):
    """The result of thread/start and of thread/resume."""

    thread: Thread
    model: str = ""


class TurnError(Wire):
    """Why a turn failed."""

    message: str
    additional_details: str | None = None


class Turn(Wire):
    """A turn; `status` is inProgress, completed, interrupted or failed."""

    id: str
    status: str
    error: TurnError | None = None


class TurnNote(Wire):
    """turn/started, turn/completed, and the result of turn/start (which names no thread)."""

    turn: Turn
    thread_id: str = ""


class Delta(Wire):
    """item/agentMessage/delta."""

    thread_id: str
    turn_id: str
    item_id: str
    delta: str


class ItemNote(Wire):
    """item/started and item/completed; what the item is, its `type` says."""

    thread_id: str
    turn_id: str
    item: msgspec.Raw


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


class UsageNote(Wire):
    """thread/tokenUsage/updated."""

    thread_id: str
    turn_id: str
    token_usage: TokenUsage


class ErrorNote(Wire):
    """error: no end of the turn, neither with nor without `will_retry`."""

    error: TurnError
    thread_id: str = ""
    turn_id: str = ""
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
    """item/commandExecution/requestApproval; a decision may also be an object, which is let by."""

    command: str | None = None
    cwd: Any = None
    reason: str | None = None
    available_decisions: list[Any] | None = None


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


class Question(Wire):
    """One question of item/tool/requestUserInput."""

    question: str = ""


class Questions(Wire):
    """item/tool/requestUserInput."""

    questions: list[Question] = []


class Elicitation(Wire):
    """mcpServer/elicitation/request."""

    server_name: str = ""
    message: str = ""
