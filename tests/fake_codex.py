"""A stand-in for `codex app-server`, for what the real one cannot be made to do: one misbehaviour, named by argv[1]."""

import json
import sys
from typing import Any

MODE = sys.argv[1]
asked: dict[Any, str] = {}
answers: dict[str, Any] = {}
turns = 0
interrupts = 0
refusals = 2 if MODE == "overloaded" else 0


def put(message: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def turn_id() -> str:
    return f"turn-{turns}"


def note(method: str, **params: Any) -> None:
    put({"method": method, "params": {"threadId": "thread", **params}, "emittedAtMs": 1})


def complete(status: str = "completed") -> None:
    note("turn/completed", turn={"id": turn_id(), "status": status, "items": [], "error": None})


def say(text: str) -> None:
    note("item/agentMessage/delta", turnId=turn_id(), itemId="m", delta=text)


def misbehave() -> None:
    if MODE == "asks":
        option = {"label": "Blue", "description": "cold"}
        question = {"question": "Which one?", "id": "q", "options": [option], "isOther": True}
        questions = {"questions": [question], "itemId": "i", "turnId": turn_id()}
        form = {"properties": {"age": {"type": "integer"}, "sure": {"type": "boolean"}}, "required": ["age"]}
        tool = {"codex_approval_kind": "mcp_tool_call", "persist": ["session", "always"], "tool_params": {"x": 1}}
        change = {"type": "fileChange", "id": "i", "changes": [{"path": "a.txt"}], "status": "inProgress"}
        note("item/started", turnId=turn_id(), item=change)
        requests = {
            "future/request": {},
            "item/tool/requestUserInput": questions,
            "mcpServer/elicitation/request": {"serverName": "s", "message": "How old?", "requestedSchema": form},
            "mcpServer/elicitation/request/url": {
                "serverName": "s",
                "message": "Go",
                "mode": "url",
                "url": "https://a.b",
            },
            "mcpServer/elicitation/request/own": {"serverName": "s", "mode": "openai/userVerification", "title": "t"},
            "mcpServer/elicitation/request/tool": {"serverName": "s", "message": "Use it?", "_meta": tool},
            "currentTime/read": {},
            "item/tool/call": {"tool": "t", "arguments": {}},
            "item/permissions/requestApproval": {"permissions": {"network": {"enabled": True}}, "turnId": turn_id()},
            "item/fileChange/requestApproval": {"itemId": "i", "turnId": turn_id()},
            "item/commandExecution/requestApproval": {"command": "rm x", "availableDecisions": ["accept", "cancel"]},
            "execCommandApproval": {"command": ["rm", "y"]},
        }
        for number, (method, params) in enumerate(requests.items()):
            asked[f"ask-{number}"] = method  # with what tells those of one method apart
            method = "/".join(method.split("/")[:3]) if method.startswith("mcp") else method
            put({"id": f"ask-{number}", "method": method, "params": params})
    elif MODE == "chatty":
        note("error", turnId=turn_id(), error={"message": "busy"}, willRetry=True)
        if turns > 1:
            told = {"inputTokens": 10, "outputTokens": 5, "totalTokens": 15 * (turns - 1)}
            note("thread/tokenUsage/updated", turnId=turn_id(), tokenUsage={"last": told, "total": told})
        count = {"inputTokens": 10, "outputTokens": 5, "totalTokens": 15 * turns}
        for _ in range(2):  # as 0.125 does
            note("thread/tokenUsage/updated", turnId=turn_id(), tokenUsage={"last": count, "total": count})
        window = {"usedPercent": 91, "windowDurationMins": 300, "resetsAt": 1_800_000_000}
        note("account/rateLimits/updated", rateLimits={"primary": window, "secondary": None})
        note("item/completed", turnId="other", item={"type": "agentMessage", "id": "o", "text": "not yours"})
        note("item/completed", turnId=turn_id(), item={"type": "agentMessage", "id": "a", "text": "never streamed"})
        say("part")
        note("item/completed", turnId=turn_id(), item={"type": "agentMessage", "id": "m", "text": "partly"})
        complete()
    elif MODE == "silent":
        say("working")
    else:
        complete()


def main() -> None:
    global interrupts, refusals, turns
    for line in sys.stdin:
        message = json.loads(line)
        method, number = message.get("method"), message.get("id")
        if number in asked and method is None:
            answers[asked.pop(number)] = message.get("result", message.get("error"))
            if not asked:
                say(json.dumps(answers))
                complete()
        elif method in ("thread/start", "thread/resume"):
            put({"id": number, "result": {"thread": {"id": "thread"}, "model": "m"}})
        elif method == "turn/start" and refusals:
            refusals -= 1
            put({"id": number, "error": {"code": -32001, "message": "Server overloaded; retry later."}})
        elif method == "turn/start":
            turns += 1
            put({"id": number, "result": {"turn": {"id": turn_id(), "status": "inProgress", "items": []}}})
            misbehave()
        elif method == "turn/interrupt":
            interrupts += 1
            if interrupts > 1:  # 0.125 gives no answer to one that comes too early
                put({"id": number, "result": {}})
                complete("interrupted")
        elif method == "model/list":
            efforts = [{"reasoningEffort": "low"}, {"reasoningEffort": "high"}]
            put({"id": number, "result": {"data": [{"supportedReasoningEfforts": efforts}]}})
        elif number is not None:
            put({"id": number, "result": {}})


main()
