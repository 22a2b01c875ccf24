"""An engine that only streams: `python3 -I -S peer.py codex|claude`, light enough to be started 200 times over.

The person's message is the order: how many deltas, and how many a second (0: as fast as they are taken). A delta's text
is the time of its writing, by the clock that all processes share. Standard library only.
"""

import json
import os
import select
import sys
import time
from typing import Any, NoReturn

THREAD, TURN = "0199f8a2-8d1c-7c53-b1b8-51f8f4d3a5e1", "0199f8a2-9f3e-7aa0-8f43-6f0f6b8f2f66"
STAMP = 20
"""Characters of a delta: 19 digits of nanoseconds, and a space."""
BLOCK = 64 * 1024
"""Bytes written at once at full speed, as much as a pipe holds: so nobody ever waits for this process."""


def write(data: bytes) -> None:
    """Write it all."""
    while data:
        data = data[os.write(1, data) :]


def put(message: dict[str, Any]) -> None:
    """Write a message."""
    write(json.dumps(message, separators=(",", ":")).encode() + b"\n")


class Codex:
    """The messages of `codex app-server`, with all that the official SDK asks of them."""

    before = (
        b'{"method":"item/agentMessage/delta","params":{"threadId":"%s","turnId":"%s","itemId":"msg_%s","delta":"'
        % (THREAD.encode(), TURN.encode(), TURN.encode())
    )
    after = b'"},"emittedAtMs":1764000000000}\n'

    def serve(self, message: dict[str, Any]) -> str | None:
        """Answer. An order to stream is returned, 'stop' for an interrupt."""
        method, number = message.get("method"), message.get("id")
        if method == "turn/start":
            put({"id": number, "result": {"turn": {"id": TURN, "status": "inProgress", "items": []}}})
            return str(message["params"]["input"][0]["text"])
        if number is not None:
            put({"id": number, "result": self._result(str(method))})
        return "stop" if method == "turn/interrupt" else None

    def end(self, status: str) -> None:
        """End the turn."""
        turn: dict[str, Any] = {"id": TURN, "status": status, "items": [], "error": None}
        put({"method": "turn/completed", "params": {"threadId": THREAD, "turn": turn}})

    @staticmethod
    def _result(method: str) -> dict[str, Any]:
        if method == "initialize":
            return {"userAgent": "codex/0.163.0", "serverInfo": {"name": "codex", "version": "0.163.0"}}
        if method != "thread/start":
            return {}
        known = {"cwd": "/", "modelProvider": "m"}
        thread: dict[str, Any] = {
            "id": THREAD,
            "sessionId": THREAD,
            "cliVersion": "0.163.0",
            "source": "appServer",
            **known,
        }
        thread |= {"createdAt": 0, "updatedAt": 0, "ephemeral": False, "preview": "", "turns": []}
        thread["status"] = {"type": "idle"}
        settings = {"approvalPolicy": "never", "approvalsReviewer": "user", "sandbox": {"type": "dangerFullAccess"}}
        return {"thread": thread, "model": "m", **known, **settings}


class Claude:
    """The lines of claude's stream-json, with all that the official SDK asks of them."""

    before = (
        b'{"type":"stream_event","event":{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"'
    )
    after = b'"}},"session_id":"%s","parent_tool_use_id":null,"uuid":"%s"}\n' % (THREAD.encode(), TURN.encode())

    def __init__(self) -> None:
        self._uuid = ""

    def serve(self, message: dict[str, Any]) -> str | None:
        """Answer. An order to stream is returned, 'stop' for an interrupt."""
        if message["type"] == "control_request":
            subtype = message["request"]["subtype"]
            response = {"models": [], "capabilities": ["msg_lifecycle_v1"]} if subtype == "initialize" else {}
            number = message["request_id"]
            put(
                {
                    "type": "control_response",
                    "response": {"subtype": "success", "request_id": number, "response": response},
                }
            )
            return "stop" if subtype == "interrupt" else None
        self._uuid = message.get("uuid") or TURN
        put({"type": "system", "subtype": "init", "session_id": THREAD, "model": "m"})
        put({"type": "command_lifecycle", "command_uuid": self._uuid, "state": "started"})
        content = message["message"]["content"]
        return content if isinstance(content, str) else str(content[0]["text"])

    def end(self, status: str) -> None:
        """End the turn."""
        why = {} if status == "completed" else {"is_error": True, "terminal_reason": "aborted_streaming"}
        head = {"type": "result", "subtype": "success", "is_error": False, "session_id": THREAD, **why}
        put({**head, "duration_ms": 1, "duration_api_ms": 1, "num_turns": 1, "user_message_uuids": [self._uuid]})


def main() -> NoReturn:
    """Serve standard input to its end."""
    peer = Codex() if sys.argv[1] == "codex" else Claude()
    left, pause, due, pending = 0, 0.0, 0.0, b""
    stamps = b"0" * (STAMP - 1) + b" "
    line = peer.before + stamps + peer.after
    many = BLOCK // len(line)
    while True:
        wait = max(0.0, due - time.monotonic()) if left else None
        if select.select([0], [], [], wait)[0]:
            if not (data := os.read(0, BLOCK)):
                os._exit(0)  # a hundred interpreters that clean up behind themselves at once would be felt
            *lines, pending = (pending + data).split(b"\n")
            for order in filter(None, map(peer.serve, map(json.loads, lines))):
                if order == "stop":
                    left = 0
                    peer.end("interrupted")
                else:
                    left, rate = map(int, order.split())
                    pause = 1 / rate if rate else 0.0
                    due = time.monotonic() + pause
        if not left or time.monotonic() < due:
            continue
        if pause:
            write(peer.before + b"%019d " % time.monotonic_ns() + peer.after)
            left, due = left - 1, due + pause
        else:
            write(line * min(many, left))
            left -= min(many, left)
        if not left:
            peer.end("completed")


if __name__ == "__main__":
    main()
