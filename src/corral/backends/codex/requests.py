"""What codex asks of its client: every request gets an answer, for codex waits until it has one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

import msgspec

from corral.backends.codex import wire
from corral.backends.errors import RequestError
from corral.backends.events import ApprovalRequested, Decision, Notice
from corral.backends.rpc import METHOD_NOT_FOUND, RequestId

Approve: TypeAlias = Callable[[ApprovalRequested], Awaitable[Decision]]
Emit: TypeAlias = Callable[[ApprovalRequested | Notice], None]
Ask: TypeAlias = Callable[[ApprovalRequested], Awaitable[Decision]]

# Corral's word for each decision, and codex's two.
CODEX_WORDS: dict[Decision, str] = {
    "accept": "accept",
    "accept_for_session": "acceptForSession",
    "decline": "decline",
    "cancel": "cancel",
}
LEGACY_WORDS: dict[Decision, Any] = {
    "accept": "approved",
    "accept_for_session": "approved_for_session",
    "decline": {"denied": {"rejection": "declined by the person"}},
    "cancel": "abort",
}
ALL_DECISIONS: tuple[Decision, ...] = ("accept", "accept_for_session", "decline", "cancel")


async def decline(_: ApprovalRequested) -> Decision:
    """The policy of a backend that was given none: nobody is there to ask, so no."""
    return "decline"


async def answer(request_id: RequestId, method: str, params: msgspec.Raw, ask: Ask, emit: Emit) -> object:
    """The answer to a request of codex; RequestError for one that is not known here."""
    key = str(request_id)
    match method:
        case "item/commandExecution/requestApproval":
            return await _answer_command(key, msgspec.json.decode(params, type=wire.CommandApproval), ask)
        case "item/fileChange/requestApproval":
            return await _answer_files(key, msgspec.json.decode(params, type=wire.FileApproval), ask)
        case "item/permissions/requestApproval":
            return await _answer_permissions(key, msgspec.json.decode(params, type=wire.PermissionsApproval), ask)
        case "execCommandApproval" | "applyPatchApproval":
            return await _answer_legacy(key, msgspec.json.decode(params, type=wire.LegacyApproval), ask)
        case "item/tool/requestUserInput":
            questions = msgspec.json.decode(params, type=wire.Questions).questions
            asked = " ".join(question.question for question in questions)
            emit(Notice(f"codex asked a question that cannot be answered here: {asked}"))
            return {"answers": {}}
        case "mcpServer/elicitation/request":
            elicitation = msgspec.json.decode(params, type=wire.Elicitation)
            emit(Notice(f"declined a question of the MCP server {elicitation.server_name}: {elicitation.message}"))
            return {"action": "decline", "content": None}
        case "item/tool/call":
            text = {"type": "inputText", "text": "this client offers no tools of its own"}
            return {"contentItems": [text], "success": False}
    raise RequestError(method, METHOD_NOT_FOUND, f"this client does not answer {method}")


async def _answer_command(key: str, params: wire.CommandApproval, ask: Ask) -> object:
    offered = params.available_decisions
    # `decline` is taken whether offered or not, and the turn goes on (0.169 offers accept, and cancel, which stops it).
    decisions = tuple(d for d in ALL_DECISIONS if not offered or d == "decline" or CODEX_WORDS[d] in offered)
    what = params.command or "a command that codex did not show"
    decision = await ask(ApprovalRequested(key, "command", what, params.reason or "", decisions))
    return {"decision": CODEX_WORDS[_allowed(decision, decisions)]}


async def _answer_files(key: str, params: wire.FileApproval, ask: Ask) -> object:
    what = f"write below {params.grant_root}" if params.grant_root else "change files"
    decision = await ask(ApprovalRequested(key, "file_change", what, params.reason or "", ALL_DECISIONS))
    return {"decision": CODEX_WORDS[decision]}


async def _answer_permissions(key: str, params: wire.PermissionsApproval, ask: Ask) -> object:
    what = msgspec.json.encode(params.permissions).decode()
    decisions: tuple[Decision, ...] = ("accept", "accept_for_session", "decline")
    decision = await ask(ApprovalRequested(key, "permissions", what, params.reason or "", decisions))
    if decision not in ("accept", "accept_for_session"):
        return {"permissions": {}}
    granted = {name: value for name, value in params.permissions.items() if value is not None}
    return {"permissions": granted, "scope": "turn" if decision == "accept" else "session"}


async def _answer_legacy(key: str, params: wire.LegacyApproval, ask: Ask) -> object:
    kind = "command" if params.command else "file_change"
    what = " ".join(params.command) if params.command else ", ".join(params.file_changes)
    decision = await ask(ApprovalRequested(key, kind, what, params.reason or "", ALL_DECISIONS))
    return {"decision": LEGACY_WORDS[decision]}


def _allowed(decision: Decision, decisions: tuple[Decision, ...]) -> Decision:
    """The decision, or the nearest that codex takes this time; never one that allows more."""
    if decision in decisions:
        return decision
    return "accept" if decision == "accept_for_session" and "accept" in decisions else "decline"
