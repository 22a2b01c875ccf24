"""What claude asks of its client: every request gets an answer, for claude waits until it has one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

import msgspec

from corral.backends import forms
from corral.backends.base import Answer, ApprovalRequested, Question
from corral.backends.claude import tools, wire
from corral.backends.errors import RefusedError

Ask: TypeAlias = Callable[[ApprovalRequested], Awaitable[Answer]]

DECLINED = "The person declined this."
QUESTIONS = "AskUserQuestion"
ACCEPTED = ("accept", "accept_for_session")


async def answer(request_id: str, request: msgspec.Raw, ask: Ask, declined: set[str]) -> object:
    """The answer to a control request; RefusedError for one that is not known here.

    The tools that were not allowed are added to `declined`.
    """
    match msgspec.json.decode(request, type=wire.RequestHead).subtype:
        case "can_use_tool":
            wanted = msgspec.json.decode(request, type=wire.CanUseTool)
            if wanted.tool_name == QUESTIONS:
                return await _answer_questions(request_id, wanted, ask)
            decided = await _answer_tool(request_id, wanted, ask)
            if decided["behavior"] == "deny":
                declined.add(wanted.tool_use_id)
            return decided
        case "elicitation":
            return await _answer_elicitation(request_id, msgspec.json.decode(request, type=wire.Elicitation), ask)
        case subtype:
            raise RefusedError(f"this client does not answer {subtype}")


async def _answer_tool(key: str, wanted: wire.CanUseTool, ask: Ask) -> dict[str, Any]:
    rules = _for_session(wanted)
    what = tools.title_of(wanted.tool_name, wanted.input)
    reason = wanted.decision_reason or (f"it needs {wanted.blocked_path}" if wanted.blocked_path else "")
    given = await ask(
        ApprovalRequested(
            key,
            tools.kind_of(wanted.tool_name),
            what,
            reason,
            ("accept", "accept_for_session", "decline", "cancel") if rules else ("accept", "decline", "cancel"),
        )
    )
    if given.decision not in ACCEPTED:
        return {"behavior": "deny", "message": DECLINED, "interrupt": given.decision == "cancel"}
    allowed: dict[str, Any] = {"behavior": "allow", "updatedInput": wanted.input}
    return {**allowed, "updatedPermissions": rules} if given.decision == "accept_for_session" else allowed


def _for_session(wanted: wire.CanUseTool) -> list[dict[str, Any]]:
    """The rules that would make the same question needless, for this session alone.

    Sent back as they come they would be written into the project's settings for ever. A mode or a folder allows more
    than what was asked; only for a change of files there is no other way than to allow them all.
    """
    suggested = wanted.permission_suggestions or []
    rules = [one for one in suggested if one.get("type") == "addRules"]
    if not rules and tools.kind_of(wanted.tool_name) == "file_change":
        rules = [one for one in suggested if one.get("mode") == "acceptEdits"]
    return [{**one, "destination": "session"} for one in rules]


async def _answer_questions(key: str, wanted: wire.CanUseTool, ask: Ask) -> object:
    asked = tuple(_question(one) for one in wanted.input.get("questions", []) if isinstance(one, dict))
    what = " ".join(question.text for question in asked)
    given = await ask(ApprovalRequested(key, "question", what, questions=asked))
    if given.decision not in ACCEPTED:
        return {"behavior": "deny", "message": "The person did not want to answer."}
    answers = {name: ", ".join(said) for name, said in given.answers.items()}
    return {"behavior": "allow", "updatedInput": {**wanted.input, "answers": answers}}


def _question(one: dict[str, Any]) -> Question:
    options = tuple(str(option.get("label", "")) for option in one.get("options", []) if isinstance(option, dict))
    text = str(one.get("question", ""))
    return Question(text, text, options, free=True, several=bool(one.get("multiSelect")))


async def _answer_elicitation(key: str, wanted: wire.Elicitation, ask: Ask) -> object:
    reason = f"the MCP server {wanted.mcp_server_name} asks"
    if wanted.mode == "url" and wanted.url:
        given = await ask(ApprovalRequested(key, "link", wanted.url, f"{reason}: {wanted.message}"))
        return {"action": "accept" if given.decision == "accept" else "decline"}
    asked = forms.questions(wanted.requested_schema)
    given = await ask(ApprovalRequested(key, "question", wanted.message, reason, questions=asked))
    if given.decision != "accept":
        return {"action": "decline"}
    try:
        return {"action": "accept", "content": forms.content(wanted.requested_schema, given.answers)}
    except forms.FormError:
        return {"action": "decline"}
