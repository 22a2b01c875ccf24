"""What codex says about one turn, as the events of that turn."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from corral.backends.codex import wire
from corral.backends.codex.items import ItemReader, lost_its_folder
from corral.backends.events import Notice, ToolEnded, TurnEnded, TurnStatus
from corral.backends.numbers import usage

if TYPE_CHECKING:
    from corral.backends.events import EngineEvent
    from corral.backends.turn import Turn

log = logging.getLogger(__name__)

LOST_FOLDER = (
    "codex could not start a command: the folder of this conversation may be gone, or closed to its account."
    " Make it, or choose another with /workspace"
)
MOST_DETAILS = 500  # characters
MOST_EARLY = 1 << 20  # bytes of lines that come before the turn has its name
STATUSES: dict[str, TurnStatus] = {"completed": "completed", "interrupted": "interrupted", "failed": "failed"}


class TurnReader:
    """The reader of one turn's notifications; it ignores those of another turn or thread."""

    def __init__(self, thread_id: str, turn: Turn, counted: int = 0) -> None:
        self._thread_id = thread_id
        self._turn = turn
        self._items = ItemReader()
        self._failure = ""
        self._lost = False
        self.counted = counted
        """All the tokens of the conversation that were told so far."""
        # The reply that names the turn and what follows it may come in one read: the id is taken up a moment later.
        self._early: list[tuple[str, msgspec.Raw, bytes]] = []
        self._early_bytes = 0
        self._known: dict[str, Callable[[msgspec.Raw, bytes], None]] = {
            "turn/started": self._on_started,
            "turn/completed": self._on_completed,
            "item/started": self._on_item_started,
            "item/completed": self._on_item_completed,
            "item/agentMessage/delta": self._on_text,
            "item/reasoning/summaryTextDelta": self._on_reasoning,
            "item/reasoning/textDelta": self._on_reasoning,
            "item/commandExecution/outputDelta": self._on_output,
            "thread/tokenUsage/updated": self._on_usage,
            "model/rerouted": self._on_rerouted,
            "error": self._on_error,
        }

    def title_of(self, item_id: str) -> str:
        """What a tool that began is called; '' for one that is not known."""
        return self._turn.title_of(item_id)

    def begin(self, turn_id: str) -> None:
        """Codex took the turn."""
        if self._turn.id is not None or self._turn.over:
            return
        self._turn.begin(turn_id)
        early, self._early = self._early, []
        for method, params, line in early:
            self.take(method, params, line)

    def take(self, method: str, params: msgspec.Raw, line: bytes) -> bool:
        """Sort a notification that came in `line`; False if too much came before codex named the turn.

        Raises msgspec.DecodeError for one that is not as expected.
        """
        sort = self._known.get(method)
        if sort is None or self._turn.over:
            return True
        if self._turn.id is None and method != "turn/started":
            self._early_bytes += len(line)
            if self._early_bytes > MOST_EARLY:
                return False
            self._early.append((method, params, line))
            return True
        sort(params, line)
        return True

    def _is_mine(self, note: wire.TurnHead) -> bool:
        return note.thread_id == self._thread_id and note.turn_id == self._turn.id

    def _on_started(self, params: msgspec.Raw, _: bytes) -> None:
        note = msgspec.json.decode(params, type=wire.TurnNote)
        if note.thread_id == self._thread_id:
            self.begin(note.turn.id)

    def _on_completed(self, params: msgspec.Raw, _: bytes) -> None:
        note = msgspec.json.decode(params, type=wire.TurnNote)
        if note.thread_id != self._thread_id or note.turn.id != self._turn.id:
            return
        status = STATUSES.get(note.turn.status, "failed")
        reason = ""
        if status == "failed":
            reason = _explain(note.turn.error) or self._failure or f"codex gave no reason (status {note.turn.status})"
        elif status == "interrupted":
            reason = "codex stopped the turn by itself"
        for event in self._items.halves():
            self._turn.put(event)
        self._turn.end(TurnEnded(status, reason))

    def _on_text(self, params: msgspec.Raw, line: bytes) -> None:
        note = msgspec.json.decode(params, type=wire.Delta)
        if self._is_mine(note):
            self._turn.put(self._items.text(note, line))

    def _on_reasoning(self, params: msgspec.Raw, line: bytes) -> None:
        note = msgspec.json.decode(params, type=wire.Delta)
        if self._is_mine(note):
            self._turn.put(self._items.reasoning(note, line))

    def _on_output(self, params: msgspec.Raw, line: bytes) -> None:
        note = msgspec.json.decode(params, type=wire.Delta)
        if self._is_mine(note):
            self._turn.put(self._items.output(note, line))

    def _on_item_started(self, params: msgspec.Raw, _: bytes) -> None:
        note = msgspec.json.decode(params, type=wire.ItemNote)
        if self._is_mine(note):
            self._put(self._items.started(note.item))

    def _on_item_completed(self, params: msgspec.Raw, _: bytes) -> None:
        note = msgspec.json.decode(params, type=wire.ItemNote)
        if self._is_mine(note):
            ended = self._items.completed(note.item)
            self._put(ended)
            if isinstance(ended, ToolEnded) and not self._lost and lost_its_folder(ended):
                self._lost = True
                self._turn.put(Notice(LOST_FOLDER))

    def _put(self, event: EngineEvent | None) -> None:
        if event is not None:
            self._turn.put(event)
        else:
            self._turn.touch()

    def _on_usage(self, params: msgspec.Raw, _: bytes) -> None:
        note = msgspec.json.decode(params, type=wire.UsageNote)
        if self._is_mine(note):
            last, total = note.token_usage.last, note.token_usage.total
            if total.total_tokens == self.counted:
                return  # codex 0.125 says the same again with the next request
            self.counted = total.total_tokens
            window = note.token_usage.model_context_window
            self._turn.put(
                usage(last.input_tokens, last.cached_input_tokens, last.output_tokens, last.total_tokens, window)
            )

    def _on_rerouted(self, params: msgspec.Raw, _: bytes) -> None:
        note = msgspec.json.decode(params, type=wire.Rerouted)
        if self._is_mine(note):
            why = f" ({note.reason})" if note.reason else ""
            self._turn.put(Notice(f"codex went on with {note.to_model} instead of {note.from_model}{why}"))

    def _on_error(self, params: msgspec.Raw, _: bytes) -> None:
        note = msgspec.json.decode(params, type=wire.ErrorNote)
        if not self._is_mine(note):
            return
        if note.will_retry:
            self._turn.put(Notice(f"codex: {_explain(note.error)}; it tries again"))
        else:
            self._failure = _explain(note.error)


def _explain(error: wire.TurnError | None) -> str:
    if error is None:
        return ""
    details = str(error.additional_details or "")
    if len(details) > MOST_DETAILS:
        details = f"{details[:MOST_DETAILS]}…"
    return f"{error.message} ({details})" if details else error.message
