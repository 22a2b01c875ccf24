"""What codex asks of its client: every request gets an answer, for codex waits until it has one."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec

from corral.backends import forms
from corral.backends.backend import Ask
from corral.backends.codex import wire
from corral.backends.errors import RequestError
from corral.backends.events import ApprovalRequested, Decision, Question
from corral.backends.rpc import METHOD_NOT_FOUND

if TYPE_CHECKING:
    from corral.backends.engine import Host

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


async def answer(key: str, method: str, params: msgspec.Raw, host: Host, title_of: Callable[[str], str]) -> object:
    """The answer to a request of codex; RequestError for one that is not known here.

    `key` is the approval's id.
    `title_of`: what the item with an id is called, which codex tells only when the item begins.
    """
    ask = host.ask
    match method:
        case "item/commandExecution/requestApproval":
            return await _answer_command(key, msgspec.json.decode(params, type=wire.CommandApproval), ask)
        case "item/fileChange/requestApproval":
            return await _answer_files(key, msgspec.json.decode(params, type=wire.FileApproval), ask, title_of)
        case "item/permissions/requestApproval":
            return await _answer_permissions(key, msgspec.json.decode(params, type=wire.PermissionsApproval), ask)
        case "execCommandApproval" | "applyPatchApproval":
            return await _answer_legacy(key, msgspec.json.decode(params, type=wire.LegacyApproval), ask)
        case "item/tool/requestUserInput":
            return await _answer_questions(key, msgspec.json.decode(params, type=wire.Questions), ask)
        case "mcpServer/elicitation/request":
            return await _answer_elicitation(key, msgspec.json.decode(params, type=wire.Elicitation), host)
        case "currentTime/read":
            return {"currentTimeAt": int(time.time())}
        case "item/tool/call":
            text = {"type": "inputText", "text": "this client offers no tools of its own"}
            return {"contentItems": [text], "success": False}
    raise RequestError(method, METHOD_NOT_FOUND, f"this client does not answer {method}")


async def _answer_command(key: str, params: wire.CommandApproval, ask: Ask) -> object:
    # `availableDecisions` is no limit: measured from 0.125 to 0.169, decline and acceptForSession are never in it, and
    # are taken and kept.
    decisions = ALL_DECISIONS if params.kind != "humanCommand" else ("accept", "decline", "cancel")
    what = params.command or "a command that codex did not show"
    given = await ask(ApprovalRequested(key, "command", what, params.reason or "", decisions))
    return {"decision": CODEX_WORDS[given.decision]}


async def _answer_files(key: str, params: wire.FileApproval, ask: Ask, title_of: Callable[[str], str]) -> object:
    files = title_of(params.item_id) or "files"
    what = f"write below {params.grant_root}" if params.grant_root else f"change {files}"
    given = await ask(ApprovalRequested(key, "file_change", what, params.reason or "", ALL_DECISIONS))
    return {"decision": CODEX_WORDS[given.decision]}


async def _answer_permissions(key: str, params: wire.PermissionsApproval, ask: Ask) -> object:
    what = msgspec.json.encode(params.permissions).decode()
    decisions: tuple[Decision, ...] = ("accept", "accept_for_session", "decline")
    given = await ask(ApprovalRequested(key, "permissions", what, params.reason or "", decisions))
    if given.decision not in ("accept", "accept_for_session"):
        return {"permissions": {}}
    granted = {name: value for name, value in params.permissions.items() if value is not None}
    return {"permissions": granted, "scope": "turn" if given.decision == "accept" else "session"}


async def _answer_legacy(key: str, params: wire.LegacyApproval, ask: Ask) -> object:
    kind = "command" if params.command else "file_change"
    what = " ".join(params.command) if params.command else ", ".join(params.file_changes)
    given = await ask(ApprovalRequested(key, kind, what, params.reason or "", ALL_DECISIONS))
    return {"decision": LEGACY_WORDS[given.decision]}


async def _answer_questions(key: str, params: wire.Questions, ask: Ask) -> object:
    asked = tuple(
        Question(
            one.id,
            one.question,
            tuple(option.label for option in one.options or ()),
            free=one.is_other or not one.options,
            secret=one.is_secret,
        )
        for one in params.questions
    )
    what = " ".join(question.text for question in asked)
    given = await ask(ApprovalRequested(key, "question", what, questions=asked))
    if given.decision != "accept":
        return {"answers": {}}
    known = {question.question_id for question in asked}
    return {"answers": {name: {"answers": list(said)} for name, said in given.answers.items() if name in known}}


async def _answer_elicitation(key: str, params: wire.Elicitation, host: Host) -> object:
    if params.meta is not None and params.meta.codex_approval_kind == "mcp_tool_call":
        return await _answer_mcp_tool(key, params, params.meta, host.ask)
    if params.mode not in ("form", "url"):
        # The vendor's own modes want what only the vendor's own client has.
        return {"action": "decline", "content": None}
    url = params.url if params.mode == "url" else ""
    return await forms.elicit(
        host, key, server=params.server_name, message=params.message, schema=params.requested_schema, url=url
    )


async def _answer_mcp_tool(key: str, params: wire.Elicitation, meta: wire.ElicitationMeta, ask: Ask) -> object:
    """May a tool of an MCP server be used? Codex asks so of all that are not marked as reading only."""
    given = await ask(
        ApprovalRequested(
            key,
            "mcp",
            params.message,
            msgspec.json.encode(meta.tool_params).decode() if meta.tool_params else "",
            ("accept", "accept_for_session", "decline") if "session" in meta.persist else ("accept", "decline"),
        )
    )
    if given.decision == "accept_for_session":
        return {"action": "accept", "content": {}, "_meta": {"persist": "session"}}
    return {"action": "accept", "content": {}} if given.decision == "accept" else {"action": "decline", "content": None}
