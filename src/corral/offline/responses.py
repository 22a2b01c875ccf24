"""The OpenAI Responses API, as far as the real Codex uses it: read the place in a conversation, stream an answer."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from corral.offline import http
from corral.offline.script import Call, Fail, Pause, Place, Run, Say, Step, Think, timed_deltas

# Codex puts these before what a person wrote, as messages of the same role; they are not turns.
CONTEXT_PREFIXES = (
    "# AGENTS.md instructions",
    "<environment_context>",
    "<permissions instructions>",
    "<recommended_plugins>",
    "<skill>",
    "<skills_instructions>",
    "<subagent_notification>",
    "<turn_aborted>",
    "<user_instructions>",
    "<user_shell_command>",
)
RESULT_KINDS = ("function_call_output", "custom_tool_call_output", "local_shell_call_output")


def read_place(body: dict[str, Any]) -> Place:
    """The user messages of the request, and the tool outputs that came after the last."""
    messages: list[str] = []
    results: list[str] = []
    entries = body.get("input", [])
    conversation = str(body.get("prompt_cache_key", ""))
    if isinstance(entries, str):
        return Place((entries,), conversation=conversation)
    for entry in entries if isinstance(entries, list) else []:
        if not isinstance(entry, dict):
            continue
        if entry.get("type") in RESULT_KINDS:
            results.append(_text(entry.get("output")))
        elif entry.get("role") == "user":
            text = _text(entry.get("content"))
            if not text.startswith(CONTEXT_PREFIXES):
                messages.append(text)
                results.clear()
    return Place(tuple(messages), tuple(results), conversation)


def _text(content: object) -> str:
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "\n".join(str(part["text"]) for part in content if isinstance(part, dict) and "text" in part)
    return "" if content is None else json.dumps(content)


def shell_call(step: Run, tools: object) -> Call:
    """The tool call that runs a command, made for the shell tool which the agent offers."""
    offered = {tool.get("name") for tool in tools if isinstance(tool, dict)} if isinstance(tools, list) else set()
    milliseconds = round(step.wait * 1000)
    arguments: dict[str, Any]
    if "exec_command" in offered or not offered & {"shell", "shell_command"}:
        arguments = {"cmd": step.command, "yield_time_ms": milliseconds}
        name = "exec_command"
    elif "shell_command" in offered:
        name, arguments = "shell_command", {"command": step.command, "timeout_ms": milliseconds}
    else:
        name, arguments = "shell", {"command": ["sh", "-c", step.command], "timeout_ms": milliseconds}
    if step.escalate:
        arguments |= {"sandbox_permissions": "require_escalated", "justification": "the script asks for it"}
    return Call(name, arguments)


@dataclass(slots=True)
class _Stream:
    """One answer on its way: what it has put out so far."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    name: str
    tools: object
    output: list[dict[str, Any]] = field(default_factory=list)
    written: int = 0  # characters

    async def event(self, kind: str, **data: Any) -> None:
        await http.send_event(self.writer, kind, data)

    async def add(self, item: dict[str, Any]) -> None:
        await self.event("response.output_item.added", output_index=len(self.output), item=item)

    async def done(self, item: dict[str, Any]) -> None:
        await self.event("response.output_item.done", output_index=len(self.output), item=item)
        self.output.append(item)


async def stream_answer(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    body: dict[str, Any],
    place: Place,
    steps: Sequence[Step],
) -> None:
    """Play the steps as one response; HungUp if the agent closes the connection meanwhile."""
    if steps and isinstance(steps[0], Fail):
        error = {"message": steps[0].message, "type": "invalid_request_error", "code": "offline_script"}
        await http.send_json(writer, steps[0].status, {"error": error})
        return
    stream = _Stream(reader, writer, f"{len(place.messages)}_{len(place.results)}", body.get("tools"))
    await http.start_stream(writer)
    head = {"id": f"resp_{stream.name}", "object": "response", "model": body.get("model"), "status": "in_progress"}
    await stream.event("response.created", response={**head, "output": []})
    for step in steps:
        if isinstance(step, Fail):
            failure = {"code": "invalid_prompt", "message": step.message}
            await stream.event("response.failed", response={**head, "status": "failed", "error": failure})
            return
        await _play(stream, step)
    usage = _usage(len(json.dumps(body.get("input"))), stream.written)
    await stream.event(
        "response.completed",
        response={**head, "status": "completed", "output": stream.output, "usage": usage},
    )


async def _play(stream: _Stream, step: Think | Say | Run | Call | Pause) -> None:
    match step:
        case Think():
            await _think(stream, step)
        case Say():
            await _say(stream, step)
        case Run():
            await _call(stream, shell_call(step, stream.tools))
        case Call():
            await _call(stream, step)
        case Pause():
            await http.pause(stream.reader, step.seconds)


async def _say(stream: _Stream, step: Say) -> None:
    index = len(stream.output)
    item = {"type": "message", "id": f"msg_{stream.name}_{index}", "role": "assistant", "status": "in_progress"}
    await stream.add({**item, "content": []})
    for seconds, delta in timed_deltas(step):
        await http.pause(stream.reader, seconds)
        await stream.event(
            "response.output_text.delta", item_id=item["id"], output_index=index, content_index=0, delta=delta
        )
    content = [{"type": "output_text", "text": step.text, "annotations": []}]
    stream.written += len(step.text)
    await stream.done({**item, "status": "completed", "content": content})


async def _think(stream: _Stream, step: Think) -> None:
    index = len(stream.output)
    item = {"type": "reasoning", "id": f"rs_{stream.name}_{index}", "encrypted_content": None}
    where = {"item_id": item["id"], "output_index": index, "summary_index": 0}
    await stream.add({**item, "summary": []})
    part = {"type": "summary_text", "text": ""}
    await stream.event("response.reasoning_summary_part.added", **where, part=part)
    for seconds, delta in timed_deltas(step):
        await http.pause(stream.reader, seconds)
        await stream.event("response.reasoning_summary_text.delta", **where, delta=delta)
    part = {**part, "text": step.text}
    await stream.event("response.reasoning_summary_text.done", **where, text=step.text)
    await stream.event("response.reasoning_summary_part.done", **where, part=part)
    stream.written += len(step.text)
    await stream.done({**item, "summary": [part]})


async def _call(stream: _Stream, step: Call) -> None:
    index = len(stream.output)
    arguments = json.dumps(dict(step.arguments))
    item = {"type": "function_call", "id": f"fc_{stream.name}_{index}", "call_id": f"call_{stream.name}_{index}"}
    await stream.add({**item, "name": step.name, "arguments": "", "status": "in_progress"})
    stream.written += len(arguments)
    await stream.done({**item, "name": step.name, "arguments": arguments, "status": "completed"})


def _usage(read: int, written: int) -> dict[str, Any]:
    """Token counts by the rule of thumb of four characters a token, so that they never vary."""
    tokens_in, tokens_out = read // 4, written // 4
    return {
        "input_tokens": tokens_in,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": tokens_out,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": tokens_in + tokens_out,
    }
