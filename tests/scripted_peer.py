"""A stand-in for an engine, for what the real ones cannot be made to do: `scripted_peer.py ENGINE SCENE`.

A scene is written once, in the words of `Peer`; each engine has its own way of saying them on its wire.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

ENGINE, SCENE = sys.argv[1:3]
TOO_LONG = 65 * 1024 * 1024
lock = threading.Lock()


def write(line: str) -> None:
    with lock:
        sys.stdout.write(line + "\n")
        sys.stdout.flush()


def put(message: dict[str, Any]) -> None:
    write(json.dumps(message))


class Peer:
    """What a scene can say."""

    def __init__(self) -> None:
        self.turns = 0
        self.steered: list[str] = []
        self.interrupted = threading.Event()
        self.said = ""
        """The person's last message."""
        self.thread = "thread"

    # To be said by each engine.

    def took(self, number: Any) -> None: ...

    def say(self, text: str) -> None: ...

    def think(self, text: str) -> None: ...

    def tool(self, title: str) -> None: ...

    def tool_done(self, output: str) -> None: ...

    def ask(self, what: str) -> None: ...

    def retry(self) -> None: ...

    def warn(self, text: str) -> None: ...

    def complete(self, status: str = "completed") -> None: ...

    def hello(self) -> None: ...


class CodexPeer(Peer):
    @property
    def turn_id(self) -> str:
        return f"turn-{self.turns}"

    def note(self, method: str, **params: Any) -> None:
        put({"method": method, "params": {"threadId": self.thread, "turnId": self.turn_id, **params}, "emittedAtMs": 1})

    def took(self, number: Any) -> None:
        put({"id": number, "result": {"turn": {"id": self.turn_id, "status": "inProgress", "items": []}}})

    def say(self, text: str) -> None:
        self.note("item/agentMessage/delta", itemId="m", delta=text)

    def think(self, text: str) -> None:
        self.note("item/reasoning/summaryTextDelta", itemId="r", delta=text, summaryIndex=0)

    def tool(self, title: str) -> None:
        item = {"type": "commandExecution", "id": "t", "command": title, "status": "inProgress"}
        self.note("item/started", item=item)

    def tool_done(self, output: str) -> None:
        done = {"status": "completed", "exitCode": 0, "aggregatedOutput": output}
        self.note("item/completed", item={"type": "commandExecution", "id": "t", "command": "x", **done})

    def ask(self, what: str) -> None:
        params = {"command": what, "threadId": "thread", "turnId": self.turn_id, "itemId": "t"}
        put({"id": "ask", "method": "item/commandExecution/requestApproval", "params": params})

    def retry(self) -> None:
        self.note("error", error={"message": "busy"}, willRetry=True)

    def warn(self, text: str) -> None:
        self.note("warning", message=text)

    def complete(self, status: str = "completed") -> None:
        error = {"message": "the model is ill"} if status == "failed" else None
        self.note("turn/completed", turn={"id": self.turn_id, "status": status, "items": [], "error": error})

    def serve(self, message: dict[str, Any]) -> None:
        method, number, params = message.get("method"), message.get("id"), message.get("params") or {}
        match method:
            case None if number == "ask" and message.get("result", {}).get("decision") == "cancel":
                self.complete("interrupted")
            case None if number == "ask" and "error" in message:
                self.say(message["error"]["message"])
                self.complete()
            case None if number == "ask":
                self.say(str(message.get("result", {}).get("decision")))
                self.complete()
            case "initialize" if SCENE == "bare":
                self.note("configWarning", summary="codex could not find bubblewrap on PATH", details=None)
                self.note("configWarning", summary="unknown key in config.toml", details=None)
                put({"id": number, "result": {}})
            case "initialize" if SCENE == "half":
                put({"id": number, "result": {}})
            case "thread/start" | "thread/resume" if SCENE != "half":
                self.hello()
                if SCENE == "obey":
                    self.thread = params.get("threadId") or f"thread-{os.getpid()}"
                put({"id": number, "result": {"thread": {"id": self.thread}, "model": "m"}})
            case "turn/start":
                self.turns += 1
                self.said = params["input"][0]["text"]
                begin(self, number)
            case "turn/steer":
                self.steered.append(params["input"][0]["text"])
                put({"id": number, "result": {}})
            case "turn/interrupt":
                put({"id": number, "result": {}})
                stop(self)
            case str() if number is not None and SCENE != "half":
                put({"id": number, "result": {}})


class ClaudePeer(Peer):
    uuids: list[str]
    message = 0

    def took(self, number: Any) -> None:
        self.uuids = [number]
        put({"type": "command_lifecycle", "command_uuid": number, "state": "queued"})
        capabilities = ["msg_lifecycle_v1"]
        put({"type": "system", "subtype": "init", "session_id": "session", "capabilities": capabilities})
        put({"type": "command_lifecycle", "command_uuid": number, "state": "started"})

    def event(self, **event: Any) -> None:
        put({"type": "stream_event", "event": event, "parent_tool_use_id": None})

    def line(self, kind: str, *content: dict[str, Any]) -> None:
        put({"type": kind, "message": {"id": f"m{self.message}", "content": list(content)}, "parent_tool_use_id": None})

    def say(self, text: str) -> None:
        self.event(type="content_block_delta", index=0, delta={"type": "text_delta", "text": text})

    def think(self, text: str) -> None:
        self.event(type="content_block_delta", index=0, delta={"type": "thinking_delta", "thinking": text})

    def tool(self, title: str) -> None:
        self.line("assistant", {"type": "tool_use", "id": "t", "name": "Bash", "input": {"command": title}})

    def tool_done(self, output: str) -> None:
        self.line("user", {"type": "tool_result", "tool_use_id": "t", "content": output, "is_error": False})

    def ask(self, what: str) -> None:
        request = {"subtype": "can_use_tool", "tool_name": "Bash", "input": {"command": what}, "tool_use_id": "t"}
        put({"type": "control_request", "request_id": "ask", "request": request})

    def retry(self) -> None:
        put({"type": "system", "subtype": "api_retry", "attempt": 1, "max_retries": 10, "error": "busy"})

    def warn(self, text: str) -> None:
        info = {"status": "allowed_warning", "rateLimitType": text}
        put({"type": "rate_limit_event", "rate_limit_info": info})

    def complete(self, status: str = "completed") -> None:
        result: dict[str, Any] = {"type": "result", "subtype": "success", "session_id": "session"}
        if status != "completed":
            result["is_error"] = True
            result["terminal_reason"] = "aborted_tools" if status == "interrupted" else "api_error"
            result["result"] = None if status == "interrupted" else "the model is ill"
        put({**result, "user_message_uuids": self.uuids, "total_cost_usd": 0.5 * self.turns})

    def reply(self, number: str, response: object = None) -> None:
        put(
            {"type": "control_response", "response": {"subtype": "success", "request_id": number, "response": response}}
        )

    def serve(self, message: dict[str, Any]) -> None:
        match message["type"]:
            case "user" if self.turns and not self.interrupted.is_set() and SCENE == "steered":
                self.steered.append(message["message"]["content"])
                self.uuids.append(message["uuid"])
            case "user" if SCENE == "asks_before":
                self.uuids = [message["uuid"]]
                self.ask("something of a turn of its own")
            case "user":
                self.turns += 1
                content = message["message"]["content"]
                self.said = content if isinstance(content, str) else content[0]["text"]
                begin(self, message["uuid"])
            case "control_response" if SCENE == "asks_before":
                self.took(self.uuids[0])
                talk(self)
            case "control_response" if message["response"]["subtype"] == "error":
                self.say(message["response"]["error"])
                self.complete()
            case "control_response" if message["response"]["response"].get("interrupt"):
                self.complete("interrupted")
            case "control_response":
                self.say({"allow": "accept", "deny": "decline"}[message["response"]["response"]["behavior"]])
                self.complete()
            case "control_request":
                number = message["request_id"]
                match message["request"]["subtype"]:
                    case "initialize":
                        if SCENE != "half":
                            self.hello()
                            self.reply(number, {"models": [], "capabilities": ["msg_lifecycle_v1"]})
                    case "interrupt":
                        self.reply(number, {"still_queued": []})
                        stop(self)
                    case _:
                        self.reply(number, {})


def stop(peer: Peer) -> None:
    if SCENE not in ("deaf", "stubborn", "loses_command") and not peer.interrupted.is_set():
        peer.interrupted.set()
        peer.complete("interrupted")


def begin(peer: Peer, number: Any) -> None:
    peer.interrupted.clear()
    if SCENE == "unnamed":
        for _ in range(40):
            peer.say("x" * 100_000)
    elif SCENE != "untaken":
        peer.took(number)
        SCENES[SCENE](peer)


def talk(peer: Peer) -> None:
    peer.think("hm")
    peer.say("hel")
    peer.say("lo")
    peer.complete()


def use_tool(peer: Peer) -> None:
    peer.tool("make it")
    peer.tool_done("made")
    peer.say("done")
    peer.complete()


def ask(peer: Peer) -> None:
    peer.tool("make it")
    peer.ask("make it")


def fail(peer: Peer) -> None:
    peer.complete("failed")


def trickle(peer: Peer) -> None:
    def go_on() -> None:
        while not peer.interrupted.wait(0.02):
            peer.retry()

    threading.Thread(target=go_on, daemon=True).start()


def work(peer: Peer) -> None:
    peer.say("working")


def long_tool(peer: Peer) -> None:
    peer.tool("a long one")


def garbage(peer: Peer) -> None:
    write('{"half": \n\nnot json\n[1, 2]\n{"id": {}, "method": 7}\n{"type": 7}\n{"type": "assistant"}')
    sys.stdout.flush()
    sys.stdout.buffer.write(os.urandom(200_000).replace(b"\n", b"x") + b"\n")
    sys.stdout.buffer.flush()
    put({"method": "brand/new", "params": {"everything": "is unknown"}, "type": "brand_new"})
    peer.say("survived")
    peer.complete()


def too_long(peer: Peer) -> None:
    if peer.turns > 1:
        talk(peer)
        return
    peer.say("before")
    piece = "x" * 1_000_000
    for _ in range(TOO_LONG // len(piece)):
        sys.stdout.write(piece)
    write("")


def exits(peer: Peer) -> None:
    sys.stderr.write("warming up\nfatal: the disk is full\n")
    sys.stderr.flush()
    peer.say("before")
    os._exit(0)


def dies(peer: Peer) -> None:
    peer.say("before")
    os.kill(os.getpid(), signal.SIGKILL)


def closes(peer: Peer) -> None:
    peer.say("before")
    os.close(1)
    time.sleep(600)


def late(peer: Peer) -> None:
    peer.say("in time")
    peer.complete()
    peer.say("too late")
    peer.tool("too late")
    peer.complete("failed")


def open_tool(peer: Peer) -> None:
    peer.tool("never done")
    peer.complete()


def flood(peer: Peer) -> None:
    for number in range(20_000):
        peer.say(f"{number} ")
    peer.complete()


def noisy(peer: Peer) -> None:
    for _ in range(40_000):
        sys.stderr.write("a line of no interest, again and again\n")
    sys.stderr.flush()
    peer.say("heard")
    peer.complete()


def warns(peer: Peer) -> None:
    for _ in range(3):
        peer.warn("old model")
    peer.complete()


def raw(data: bytes) -> None:
    with lock:
        sys.stdout.flush()
        sys.stdout.buffer.write(data + b"\n")
        sys.stdout.buffer.flush()


def bad_utf8(peer: Peer) -> None:
    if ENGINE == "codex":
        head = b'{"method":"item/agentMessage/delta","params":{"threadId":"thread","turnId":"turn-1","delta":"'
        raw(head + b'\xff"}}')
    else:
        head = b'{"type":"stream_event","event":{"type":"content_block_delta","delta":{"type":"text_delta","text":"'
        raw(head + b'\xff"}}}')
    talk(peer)


def deep(peer: Peer) -> None:
    nest = "[" * 3000 + "]" * 3000
    if ENGINE == "codex":
        item = f'{{"type":"mcpToolCall","id":"d","result":{nest}}}'
        write(f'{{"method":"item/completed","params":{{"threadId":"thread","turnId":"turn-1","item":{item}}}}}')
    else:
        block = f'{{"type":"tool_use","id":"d","name":"X","input":{{"a":{nest}}}}}'
        write(f'{{"type":"assistant","message":{{"id":"m","content":[{block}]}}}}')
    talk(peer)


ODD_NUMBERS = ["1790000000000", "1e17", "-1", "0", "1e300", "9" * 5000, "1e999"]
ODD_NUMBERS += [f"{sign}{10**power}" for power in range(10, 21) for sign in ("", "-")]


def odd_numbers(peer: Peer) -> None:
    """Tell of times, counts and statuses that are none."""
    count = 10**30
    for number in ODD_NUMBERS:
        if ENGINE == "codex":
            window = f'{{"usedPercent":{number},"windowDurationMins":{number},"resetsAt":{number}}}'
            write(f'{{"method":"account/rateLimits/updated","params":{{"rateLimits":{{"primary":{window}}}}}}}')
        else:
            info = f'{{"status":"rejected","rateLimitType":"{number[:9]}","resetsAt":{number}}}'
            write(f'{{"type":"rate_limit_event","rate_limit_info":{info}}}')
    peer.tool("make it")
    if ENGINE == "codex":
        done = {"type": "commandExecution", "id": "t", "status": "failed", "exitCode": count}
        peer.note("item/completed", item=done)  # type: ignore[attr-defined]
        tokens = dict.fromkeys(("inputTokens", "cachedInputTokens", "outputTokens", "totalTokens"), count)
        used = {"last": tokens, "total": tokens, "modelContextWindow": -count}
        peer.note("thread/tokenUsage/updated", tokenUsage=used)  # type: ignore[attr-defined]
        talk(peer)
    else:
        result = {"type": "tool_result", "tool_use_id": "t", "is_error": True, "content": f"Exit code {count}"}
        peer.line("user", result)  # type: ignore[attr-defined]
        peer.say("hello")
        used = {"inputTokens": count, "outputTokens": -count, "contextWindow": count, "costUSD": 1e300}
        usage = {"modelUsage": {"m": used}, "model_usage_since_last_result": {"m": used}}
        put({"type": "result", "user_message_uuids": peer.uuids, **usage})  # type: ignore[attr-defined]


def no_folder(peer: Peer) -> None:
    """As codex 0.171 fails with each command in a folder that is gone; another failure is none of it."""
    text = "Failed to create unified exec process: No such file or directory (os error 2)"
    for number, code, output in ((1, 2, text), (2, -1, text), (3, -1, text)):
        done = {"type": "commandExecution", "id": f"t{number}", "status": "failed", "exitCode": code}
        peer.note("item/completed", item={**done, "aggregatedOutput": output})  # type: ignore[attr-defined]
        peer.say(str(number))
    peer.complete()


def wordless(peer: Peer) -> None:
    peer.think("hm")
    peer.tool("make it")
    peer.tool_done("made")
    peer.complete()


def half_a_pair(peer: Peer) -> None:
    peer.say("half \ud83d")
    if ENGINE == "codex":
        turn = {"id": peer.turn_id, "status": "completed", "items": [{"text": "\ud83d"}]}  # type: ignore[attr-defined]
        put({"method": "turn/completed", "params": {"threadId": "thread", "turn": turn}})
    else:
        put({"type": "result", "result": "\ud83d", "user_message_uuids": peer.uuids})  # type: ignore[attr-defined]


def two_halves(peer: Peer) -> None:
    for piece in ("a\ud83d", "\ude00b", "\ud83d", "\ud83d\ude00", "\ude00\ud83d", "\ude00"):
        peer.say(piece)
    peer.think("\ud83d")
    peer.say("c")
    peer.think("\ude00")
    peer.say("\ud83d")
    peer.complete()


def many_values(peer: Peer) -> None:
    """Far more than is decoded, where it is used and where it is not, in a message that matters."""
    many = "[" + "{}," * 400_000 + "{}]"
    if ENGINE == "codex":
        peer.tool("make it")
        item = f'{{"type":"commandExecution","id":"t","status":"failed","exitCode":3,"more":{many}}}'
        write(f'{{"method":"item/completed","params":{{"item":{item},"threadId":"thread","turnId":"{peer.turn_id}"}}}}')  # type: ignore[attr-defined]
        error = f'{{"message":"the model is ill","additionalDetails":{many}}}'
        turn = f'{{"id":"{peer.turn_id}","status":"failed","error":{error}}}'  # type: ignore[attr-defined]
        write(f'{{"method":"turn/completed","params":{{"turn":{turn},"threadId":"thread"}}}}')
    else:
        peer.tool("make it")
        result = '{"type":"tool_result","tool_use_id":"t","content":"Exit code 3","is_error":true}'
        write(f'{{"type":"user","message":{{"content":[{result}]}},"tool_use_result":{many}}}')
        write(f'{{"type":"assistant","message":{{"id":"m","content":{many}}}}}')
        peer.complete("failed")


def large_request(peer: Peer) -> None:
    """A question that cannot be put, because it is cut."""
    many = "[" + "{}," * 100_000 + "{}]"
    peer.tool("make it")
    if ENGINE == "codex":
        params = f'{{"command":"x","more":{many}}}'
        write(f'{{"id":"ask","method":"item/commandExecution/requestApproval","params":{params}}}')
    else:
        request = f'{{"subtype":"can_use_tool","tool_name":"Bash","input":{{"command":{many}}},"tool_use_id":"t"}}'
        write(f'{{"type":"control_request","request_id":"ask","request":{request}}}')


def odd_end(peer: Peer) -> None:
    peer.say("hello")
    if ENGINE == "codex":
        turn = {"id": peer.turn_id, "status": "failed", "error": {"additionalDetails": 7}}  # type: ignore[attr-defined]
        put({"method": "turn/completed", "params": {"threadId": "thread", "turn": turn}})
    else:
        odd = {"errors": 7, "modelUsage": [], "total_cost_usd": "much", "usage": "none", "is_error": True}
        put({"type": "result", "user_message_uuids": peer.uuids, **odd})  # type: ignore[attr-defined]


def too_long_done(peer: Peer) -> None:
    too_long(peer)
    peer.complete()


def twice(peer: Peer) -> None:
    peer.tool("make it")
    peer.tool_done("made")
    peer.tool_done("made")
    peer.complete()


def stray(peer: Peer) -> None:
    child = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(600)"
    out = subprocess.Popen([sys.executable, "-c", child], start_new_session=True, stdout=subprocess.PIPE).stdout
    assert out is not None
    out.readline()
    peer.say("started")


def loses_command(peer: Peer) -> None:
    """A command that is ended from elsewhere ends its tool, and the turn goes on to its end without it."""
    command = subprocess.Popen(["sleep", "1000"], start_new_session=True)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)

    def go_on() -> None:
        command.wait()
        peer.say("never")
        peer.complete()

    peer.say("working")
    threading.Thread(target=go_on, daemon=True).start()


def leave(peer: Peer) -> None:
    subprocess.Popen(["sleep", "1000"], start_new_session=True)
    peer.say("it runs on")
    peer.complete()


def where(peer: Peer) -> None:
    peer.say(f"{peer.thread} of {os.getpid()}")
    peer.complete()


def obey(peer: Peer) -> None:
    """Play the scene that the message names."""
    SCENES.get(peer.said.split()[0], talk)(peer)


def doze(*, apart: bool) -> int:
    return subprocess.Popen(["sleep", "1000"], start_new_session=apart, stdout=subprocess.DEVNULL).pid


def leaves(peer: Peer) -> None:
    doze(apart=False)
    peer.say(str(doze(apart=True)))
    peer.complete()


SCENES: dict[str, Callable[[Peer], None]] = {
    "leave": leave,
    "where": where,
    "obey": obey,
    "talk": talk,
    "tool": use_tool,
    "ask": ask,
    "fail": fail,
    "silent": lambda _: None,
    "trickle": trickle,
    "deaf": work,
    "stubborn": work,
    "loses_command": loses_command,
    "steered": work,
    "work": work,
    "long_tool": long_tool,
    "garbage": garbage,
    "too_long": too_long,
    "exits": exits,
    "dies": dies,
    "closes": closes,
    "late": late,
    "open_tool": open_tool,
    "flood": flood,
    "noisy": noisy,
    "warns": warns,
    "bad_utf8": bad_utf8,
    "deep": deep,
    "odd_numbers": odd_numbers,
    "wordless": wordless,
    "no_folder": no_folder,
    "half_a_pair": half_a_pair,
    "odd_end": odd_end,
    "two_halves": two_halves,
    "many_values": many_values,
    "large_request": large_request,
    "too_long_done": too_long_done,
    "twice": twice,
    "stray": stray,
    "leaves": leaves,
}

if SCENE == "unborn":
    sys.stderr.write("error: no such subcommand\n")
    sys.exit(2)
if SCENE == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if SCENE == "leaves":
    doze(apart=True)
peer = {"codex": CodexPeer, "claude": ClaudePeer}[ENGINE]()
for line in sys.stdin:
    peer.serve(json.loads(line))
if SCENE == "stubborn":
    time.sleep(600)
