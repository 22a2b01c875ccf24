"""What claude says about one turn, as the events of that turn."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import msgspec

from corral.backends.claude import tools, wire
from corral.backends.events import Notice, Reasoning, Text, ToolStatus, TurnEnded
from corral.backends.numbers import usage
from corral.backends.unicode import REPLACEMENT, Altered, Joiner

if TYPE_CHECKING:
    from corral.backends.events import Usage
    from corral.backends.turn import Turn

TELLS_OF_MESSAGES = "msg_lifecycle_v1"  # the capability to say what becomes of each message
INTERRUPTED = ("aborted_tools", "aborted_streaming")


class TurnReader:
    """The reader of one turn's lines. What comes before claude took the message belongs to a turn of its own making."""

    def __init__(self, turn: Turn) -> None:
        self.message_id = str(uuid.uuid4())
        self._turn = turn
        self._open = {self.message_id}
        self.declined: set[str] = set()
        """Tools that the person did not allow."""
        self._message = ""
        self._streamed = 0
        self._said = False
        self._failure = ""
        self._last_end: TurnEnded | None = None
        self._filled = 0
        self._joiner = Joiner()
        self._stream = msgspec.json.Decoder(wire.StreamLine)
        self._known: dict[str, Callable[[bytes], None]] = {
            "stream_event": self._on_stream,
            "assistant": self._on_assistant,
            "user": self._on_user,
            "command_lifecycle": self._on_lifecycle,
            "system/init": self._on_init,
            "system/api_retry": self._on_retry,
            "system/thinking_tokens": self._on_thinking,
            "system/compact_boundary": self._on_shorter,
        }

    def add(self) -> str:
        """The id of another message for this turn."""
        message_id = str(uuid.uuid4())
        self._open.add(message_id)
        return message_id

    def forget(self, message_id: str) -> None:
        """It was not sent."""
        self._open.discard(message_id)

    def take(self, head: wire.Head, line: bytes) -> None:
        """Sort a line. Raises msgspec.DecodeError for one that is not as expected."""
        name = f"{head.type}/{head.subtype}" if head.type == "system" else head.type
        sort = self._known.get(name)
        if sort is None or self._turn.over:
            return
        if self._turn.id is None and sort not in (self._on_lifecycle, self._on_init):
            return
        if head.parent_tool_use_id is not None and sort == self._on_stream:
            return  # what a subagent says is the agent's matter; its tools are shown
        sort(line)

    def finish(self, result: wire.Result) -> None:
        """Take a result: the end of the turn, unless it is another turn's, or another one follows for the person."""
        if self._turn.id is None or self._turn.over:
            return
        if result.user_message_uuids is not None:
            if not self._open & set(result.user_message_uuids) and result.origin is not None:
                return
            self._open -= set(result.user_message_uuids)
        else:
            self._open.clear()
        self._turn.put(_usage(result, self._filled))
        end = self._last_end = self._end(result)
        if self._open and not self._turn.stopped:
            # A message that came too late to be folded in has a turn of its own, which belongs to this one.
            if end.reason:
                self._turn.put(Notice(f"claude: {end.reason}"))
            return
        if not self._said and result.result and not result.is_error:
            self._turn.put(Text(result.result))  # a command of claude's own, like /cost
        self._put_halves()
        self._turn.end(end)

    def _put_halves(self) -> None:
        """The halves of letters that stayed alone."""
        for kind, message_id in self._joiner.rest():
            if kind is Text:
                self._turn.put(Text(REPLACEMENT, message_id))

    def _end(self, result: wire.Result) -> TurnEnded:
        if not result.is_error:
            return TurnEnded("completed")
        if result.terminal_reason in INTERRUPTED:
            return TurnEnded("interrupted", "claude stopped the turn by itself")
        why = (result.result, self._failure, "; ".join(result.errors), result.terminal_reason, "claude gave no reason")
        return TurnEnded("failed", next(words for words in why if words))

    def _on_lifecycle(self, line: bytes) -> None:
        note = msgspec.json.decode(line, type=wire.Lifecycle)
        if note.command_uuid not in self._open:
            return
        if note.state == "started":
            self._turn.begin(self.message_id)
        elif note.state == "cancelled":
            self._open.discard(note.command_uuid)
            if note.command_uuid == self.message_id:
                self._turn.end(TurnEnded("interrupted", "claude did not take the message up"))
            elif not self._open and self._last_end is not None:
                self._turn.end(self._last_end)

    def _on_init(self, line: bytes) -> None:
        if TELLS_OF_MESSAGES not in msgspec.json.decode(line, type=wire.Init).capabilities:
            self._turn.begin(self.message_id)

    def _on_stream(self, line: bytes) -> None:
        event = self._stream.decode(line).event
        self._turn.touch()
        match event.type:
            case "content_block_delta":
                self._on_delta(event, line)
            case "content_block_start":
                self._streamed = 0
            case "message_start" if event.message is not None:
                self._message = event.message.id
                self._count(event.message.usage)
            case "message_delta":
                self._count(event.usage)

    def _on_delta(self, event: wire.StreamEvent, line: bytes) -> None:
        piece = event.delta.text or event.delta.thinking
        if piece:
            kind = Text if event.delta.text else Reasoning
            message_id = f"{self._message}/{event.index}"
            if self._joiner.holds or type(line) is Altered:  # hardly ever
                piece = self._joiner.join(piece, (kind, message_id), line)
            self._streamed += len(piece)
            self._said = True
            if piece:
                self._turn.put(kind(piece, message_id))

    def _count(self, usage: wire.TokenCount | None) -> None:
        if usage is not None and (read := _read(usage)):
            self._filled = read + usage.output_tokens

    def _on_assistant(self, line: bytes) -> None:
        note = msgspec.json.decode(line, type=wire.MessageLine)
        head = msgspec.json.decode(line, type=wire.Head)
        blocks = note.message.content if isinstance(note.message.content, list) else []
        for block in blocks:
            if block.type == "tool_use":
                self._turn.put(tools.started(block))
            elif note.is_api_error_message:
                self._failure = block.text
            elif head.parent_tool_use_id is None:
                self._on_block(note.message.id, block)

    def _on_block(self, message_id: str, block: wire.Block) -> None:
        """A whole block: it is authoritative, and a provider may have streamed nothing of it, or a part."""
        kind, whole = (Text, block.text) if block.type == "text" else (Reasoning, block.thinking)
        rest = whole[self._streamed :]
        self._streamed = 0
        self._joiner.rest()  # halves of letters, which are in the whole
        if rest:
            self._said = True
            self._turn.put(kind(rest, f"{message_id}/"))

    def _on_user(self, line: bytes) -> None:
        note = msgspec.json.decode(line, type=wire.MessageLine)
        content = note.message.content
        goes_on = isinstance(note.tool_use_result, dict) and "backgroundTaskId" in note.tool_use_result
        for block in content if isinstance(content, list) else []:
            tool = self._turn.running_tool(block.tool_use_id)
            if block.type == "tool_result" and tool is not None:
                ended = tools.ended(tool, block, self._failure_of(block.tool_use_id))
                self._turn.put(replace(ended, exit_code=None) if goes_on else ended)

    def _failure_of(self, tool_id: str) -> ToolStatus:
        if tool_id in self.declined:
            return "declined"
        return "interrupted" if self._turn.stopped else "failed"

    def _on_thinking(self, _: bytes) -> None:
        self._turn.touch()

    def _on_retry(self, line: bytes) -> None:
        retry = msgspec.json.decode(line, type=wire.Retry)
        status = f" (status {retry.error_status})" if retry.error_status else ""
        what = retry.error if isinstance(retry.error, str) else "the model does not answer"
        self._turn.put(Notice(f"claude: {what}{status}; it tries again, {retry.attempt} of {retry.max_retries}"))

    def _on_shorter(self, _: bytes) -> None:
        self._turn.put(Notice("claude shortened the conversation to fit its model's window"))


def _read(usage: wire.TokenCount) -> int:
    return usage.input_tokens + usage.cache_read_input_tokens + usage.cache_creation_input_tokens


def _usage(result: wire.Result, filled: int) -> Usage:
    used = result.model_usage_since_last_result
    windows = [one.context_window for one in result.model_usage.values() if one.context_window]
    window = max(windows) if windows else None
    if used is None:
        total = result.usage or wire.TokenCount()
        return usage(_read(total), total.cache_read_input_tokens, total.output_tokens, filled, window)
    cached = sum(one.cache_read_input_tokens for one in used.values())
    read = cached + sum(one.input_tokens + one.cache_creation_input_tokens for one in used.values())
    written = sum(one.output_tokens for one in used.values())
    return usage(read, cached, written, filled, window, sum(one.cost for one in used.values()))
