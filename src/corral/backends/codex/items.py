"""What codex does in a turn, item by item, as events."""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec

from corral.backends.bounds import OUTPUT_TAIL
from corral.backends.codex import wire
from corral.backends.events import EngineEvent, Notice, Reasoning, Text, ToolEnded, ToolOutput, ToolStarted, ToolStatus
from corral.backends.numbers import exit_code
from corral.backends.unicode import REPLACEMENT, Altered, Joiner

NOT_THERE = "(os error 2)"


@dataclass(frozen=True, slots=True)
class _Tool:
    kind: str
    title: str
    status: str
    exit_code: int | None = None
    output: str = ""


@dataclass(slots=True)
class ItemReader:
    """Turns the items of one turn into events; it remembers how much of each message was streamed."""

    _streamed: dict[str, int] = field(default_factory=dict)
    _joiner: Joiner = field(default_factory=Joiner)

    def text(self, note: wire.Delta, line: bytes) -> EngineEvent:
        """A piece of a message."""
        delta = self._joined(Text, note, line)
        self._count(note.item_id, delta)
        return Text(delta, note.item_id)

    def reasoning(self, note: wire.Delta, line: bytes) -> EngineEvent:
        """A piece of a thought."""
        delta = self._joined(Reasoning, note, line)
        self._count(note.item_id, delta)
        return Reasoning(delta, note.item_id)

    def output(self, note: wire.Delta, line: bytes) -> EngineEvent:
        """A piece of what a command prints."""
        return ToolOutput(note.item_id, self._joined(ToolOutput, note, line))

    def _joined(self, kind: type[EngineEvent], note: wire.Delta, line: bytes) -> str:
        if not self._joiner.holds and type(line) is not Altered:  # nearly always
            return note.delta
        return self._joiner.join(note.delta, (kind, note.item_id), line)

    def halves(self) -> list[EngineEvent]:
        """At the end of the turn: the halves of letters that stayed alone."""
        return [Text(REPLACEMENT, item_id) for kind, item_id in self._joiner.rest() if kind is Text]

    def started(self, item: msgspec.Raw) -> EngineEvent | None:
        """A tool that begins; None for all else. Raises msgspec.DecodeError."""
        head = msgspec.json.decode(item, type=wire.ItemHead)
        tool = _read_tool(head.type, item)
        return ToolStarted(head.id, tool.kind, tool.title) if tool is not None else None

    def completed(self, item: msgspec.Raw) -> EngineEvent | None:
        """A tool that ended, or what was not streamed of a message. Raises msgspec.DecodeError."""
        head = msgspec.json.decode(item, type=wire.ItemHead)
        match head.type:
            case "agentMessage":
                # The completed item is authoritative: a provider may stream nothing, or a part.
                self._joiner.forget((Text, head.id))
                rest = msgspec.json.decode(item, type=wire.AgentMessage).text[self._streamed.pop(head.id, 0) :]
                return Text(rest, head.id) if rest else None
            case "reasoning":
                thought = msgspec.json.decode(item, type=wire.Thought)
                streamed = self._streamed.pop(head.id, 0)
                return None if streamed else _as_reasoning(thought, head.id)
            case "contextCompaction":
                return Notice("codex shortened the conversation to fit its model's window")
        tool = _read_tool(head.type, item)
        if tool is None:
            return None
        status = _status(tool)
        return ToolEnded(head.id, tool.kind, tool.title, status, tool.exit_code, tool.output[-OUTPUT_TAIL:])

    def _count(self, item_id: str, delta: str) -> None:
        self._streamed[item_id] = self._streamed.get(item_id, 0) + len(delta)


def lost_its_folder(ended: ToolEnded) -> bool:
    """Whether a command could not even be started, as where its folder is gone. No command ends with such a status."""
    return ended.kind == "command" and ended.exit_code == -1 and NOT_THERE in ended.output


def _as_reasoning(thought: wire.Thought, item_id: str) -> EngineEvent | None:
    text = "\n\n".join(thought.summary or thought.content)
    return Reasoning(text, item_id) if text else None


def _read_tool(kind: str, item: msgspec.Raw) -> _Tool | None:
    match kind:
        case "commandExecution":
            command = msgspec.json.decode(item, type=wire.CommandExecution)
            output = command.aggregated_output or ""
            return _Tool("command", command.command, command.status, exit_code(command.exit_code), output)
        case "fileChange":
            change = msgspec.json.decode(item, type=wire.FileChange)
            return _Tool("file_change", ", ".join(update.path for update in change.changes), change.status)
        case "mcpToolCall" | "dynamicToolCall":
            call = msgspec.json.decode(item, type=wire.ToolCall)
            title = f"{call.server}/{call.tool}" if call.server else call.tool
            return _Tool("mcp", title, call.status, output=call.error.message if call.error else "")
        case "webSearch":
            return _Tool("web_search", msgspec.json.decode(item, type=wire.WebSearch).query, "completed")
    return None


def _status(tool: _Tool) -> ToolStatus:
    if tool.status == "declined":
        return "declined"
    return "failed" if tool.status == "failed" or tool.exit_code else "completed"
