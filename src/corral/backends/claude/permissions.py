"""What claude asks of its client: every request gets an answer, for claude waits until it has one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from corral.backends import forms
from corral.backends.backend import Ask
from corral.backends.claude import tools, wire
from corral.backends.errors import RefusedError
from corral.backends.events import ApprovalRequested, Question

if TYPE_CHECKING:
    from corral.backends.engine import Host

DECLINED = "The person declined this."
QUESTIONS = "AskUserQuestion"
ACCEPTED = ("accept", "accept_for_session")


async def answer(request_id: str, request: msgspec.Raw, host: Host, declined: set[str]) -> object:
    """The answer to a control request; RefusedError for one that is not known here.

    The tools that were not allowed are added to `declined`.
    """
    match msgspec.json.decode(request, type=wire.RequestHead).subtype:
        case "can_use_tool":
            wanted = msgspec.json.decode(request, type=wire.CanUseTool)
            answer_it = _answer_questions if wanted.tool_name == QUESTIONS else _answer_tool
            decided = await answer_it(request_id, wanted, host.ask)
            if decided["behavior"] == "deny":
                declined.add(wanted.tool_use_id)
            return decided
        case "elicitation":
            wanted_form = msgspec.json.decode(request, type=wire.Elicitation)
            return await forms.elicit(
                host,
                request_id,
                server=wanted_form.mcp_server_name,
                message=wanted_form.message,
                schema=wanted_form.requested_schema,
                url=(wanted_form.url or "") if wanted_form.mode == "url" else "",
            )
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


async def _answer_questions(key: str, wanted: wire.CanUseTool, ask: Ask) -> dict[str, Any]:
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
