"""A stand-in for `codex app-server`, for what the real one cannot be made to do: one misbehaviour, named by argv[1]."""

import json
import sys
from typing import Any

MODE = sys.argv[1]
asked: dict[Any, str] = {}
answers: dict[str, Any] = {}
turns = 0
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
    if MODE == "garbage":
        sys.stdout.write('{"half": \n\nnot json\n[1, 2]\n{"id": {}, "method": 7}\n')
        note("turn/completed", turn="no object")
        note("brand/new", everything={"is": "unknown"})
        say("survived")
        complete()
    elif MODE == "asks":
        questions = {"questions": [{"question": "Which one?", "id": "q"}], "itemId": "i", "turnId": turn_id()}
        requests = {
            "future/request": {},
            "item/tool/requestUserInput": questions,
            "mcpServer/elicitation/request": {"serverName": "s", "message": "sure?", "mode": "form"},
            "item/tool/call": {"tool": "t", "arguments": {}},
            "item/permissions/requestApproval": {"permissions": {"network": {"enabled": True}}, "turnId": turn_id()},
            "item/fileChange/requestApproval": {"itemId": "i", "turnId": turn_id()},
            "item/commandExecution/requestApproval": {"command": "rm x", "availableDecisions": ["accept", "cancel"]},
            "execCommandApproval": {"command": ["rm", "y"]},
        }
        for number, (method, params) in enumerate(requests.items()):
            asked[f"ask-{number}"] = method
            put({"id": f"ask-{number}", "method": method, "params": params})
    elif MODE == "exits":
        sys.stderr.write("fatal: the disk is full\n")
        sys.exit(0)
    elif MODE in ("deaf", "silent"):
        say("working")
    elif MODE == "chatty":
        note("error", turnId=turn_id(), error={"message": "busy"}, willRetry=True)
        note("warning", message="old model")
        note("warning", message="old model")
        note("item/completed", turnId="other", item={"type": "agentMessage", "id": "o", "text": "not yours"})
        note("item/completed", turnId=turn_id(), item={"type": "agentMessage", "id": "a", "text": "never streamed"})
        say("part")
        note("item/completed", turnId=turn_id(), item={"type": "agentMessage", "id": "m", "text": "partly"})
        complete()
        say("too late")
        complete("failed")
    else:
        complete()


def main() -> None:
    global refusals, turns
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
        elif method == "turn/interrupt" and MODE != "deaf":
            put({"id": number, "result": {}})
            complete("interrupted")
        elif number is not None:
            put({"id": number, "result": {}})


if MODE == "mute":
    sys.stderr.write("error: no such subcommand\n")
    sys.exit(2)
main()
