"""Claude's tools in Corral's words: what kind, and what to call it for a person."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from corral.backends.bounds import OUTPUT_TAIL
from corral.backends.claude import wire
from corral.backends.events import ToolEnded, ToolStarted, ToolStatus
from corral.backends.numbers import exit_code

KINDS = {
    "Bash": "command",
    "Edit": "file_change",
    "MultiEdit": "file_change",
    "NotebookEdit": "file_change",
    "Write": "file_change",
    "WebFetch": "web_search",
    "WebSearch": "web_search",
}
# The input that says best what a tool does; the first that is there.
TELLING = ("command", "file_path", "notebook_path", "path", "query", "url", "pattern", "description", "prompt")
EXIT_CODE = re.compile(r"Exit code ([0-9]{1,10})\b")
MCP = "mcp__"


def kind_of(name: str) -> str:
    """command, file_change, web_search, mcp, or tool."""
    return "mcp" if name.startswith(MCP) else KINDS.get(name, "tool")


def title_of(name: str, given: Mapping[str, Any]) -> str:
    """What the tool does, for a person."""
    kind = kind_of(name)
    if kind == "mcp":
        return name.removeprefix(MCP).replace("__", "/", 1)
    told = next((str(given[key]) for key in TELLING if given.get(key)), "")
    if kind == "tool":
        return f"{name} {told}".rstrip()
    return told or name


def started(block: wire.Block) -> ToolStarted:
    """The event of a tool_use."""
    return ToolStarted(block.id, kind_of(block.name), title_of(block.name, block.input))


def ended(tool: ToolStarted, result: wire.Block, failure: ToolStatus) -> ToolEnded:
    """The event of a tool_result; `failure` is what to call one that did not succeed."""
    output = _text(result.content)
    code = None
    if tool.kind == "command":
        found = EXIT_CODE.match(output) if result.is_error else None
        code = exit_code(int(found[1])) if found else None if result.is_error else 0
    status = failure if result.is_error else "completed"
    return ToolEnded(tool.tool_id, tool.kind, tool.title, status, code, output[-OUTPUT_TAIL:])


def _text(content: object) -> str:
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "\n".join(str(part["text"]) for part in content if isinstance(part, dict) and "text" in part)
    return ""
