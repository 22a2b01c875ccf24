"""What codex says about one turn, sorted into that turn's feed."""

from __future__ import annotations

import asyncio
import logging

import msgspec

from corral.backends.codex import wire
from corral.backends.codex.items import ItemReader
from corral.backends.events import Notice, TurnEnded, TurnStarted, TurnStatus, Usage
from corral.backends.feed import TurnFeed

log = logging.getLogger(__name__)

STATUSES: dict[str, TurnStatus] = {"completed": "completed", "interrupted": "interrupted", "failed": "failed"}


class CodexTurn:
    """One turn: its id once codex gave it one, its feed, and who stopped it, if anybody did."""

    def __init__(self, thread_id: str) -> None:
        self.id: str | None = None
        self.feed = TurnFeed()
        self.stopped: TurnEnded | None = None
        """What the turn's end will be, if it is stopped from here."""
        self._thread_id = thread_id
        self._items = ItemReader()
        self._known = asyncio.Event()
        self._failure = ""
        # The reply that names the turn and what follows it may come in one read: the id is taken up a moment later.
        self._early: list[tuple[str, msgspec.Raw]] = []

    @property
    def over(self) -> bool:
        """Whether its end is in the feed."""
        return self.feed.over

    def begin(self, turn_id: str) -> None:
        """Codex took the turn."""
        if self.id is None and not self.over:
            self.id = turn_id
            self._known.set()
            self.feed.put(TurnStarted(turn_id))
            early, self._early = self._early, []
            for method, params in early:
                self.take(method, params)

    async def known(self, timeout: float) -> str | None:
        """Wait for the id; None if there is none in `timeout` seconds."""
        try:
            async with asyncio.timeout(timeout):
                await self._known.wait()
        except TimeoutError:
            return None
        return self.id

    def stop(self, end: TurnEnded) -> None:
        """Say how it will have ended, if codex stops it; the first word counts."""
        self.stopped = self.stopped or end

    def fail(self, reason: str) -> None:
        """The turn cannot go on; where it was stopped from here, that is how it ended."""
        self._end(TurnEnded("failed", reason))

    def take(self, method: str, params: msgspec.Raw) -> None:
        """Sort a notification; one of another turn or thread, or not as expected, is let by."""
        if self.id is None and method != "turn/started":
            self._early.append((method, params))
            return
        try:
            self._sort(method, params)
        except msgspec.DecodeError as error:
            log.warning("skipped a %s that is not as expected: %s", method, error)

    def _sort(self, method: str, params: msgspec.Raw) -> None:
        match method:
            case "turn/started":
                self._on_started(msgspec.json.decode(params, type=wire.TurnNote))
            case "turn/completed":
                self._on_completed(msgspec.json.decode(params, type=wire.TurnNote))
            case "item/started" | "item/completed":
                self._on_item(msgspec.json.decode(params, type=wire.ItemNote), method == "item/started")
            case "item/agentMessage/delta":
                self._on_delta(msgspec.json.decode(params, type=wire.Delta))
            case "thread/tokenUsage/updated":
                self._on_usage(msgspec.json.decode(params, type=wire.UsageNote))
            case "error":
                self._on_error(msgspec.json.decode(params, type=wire.ErrorNote))

    def _is_mine(self, note: wire.Delta | wire.ItemNote | wire.UsageNote | wire.ErrorNote) -> bool:
        return note.thread_id == self._thread_id and note.turn_id == self.id

    def _end(self, end: TurnEnded) -> None:
        self._known.set()
        self.feed.put(end if self.stopped is None or end.status == "completed" else self.stopped)

    def _on_started(self, note: wire.TurnNote) -> None:
        if note.thread_id == self._thread_id:
            self.begin(note.turn.id)

    def _on_completed(self, note: wire.TurnNote) -> None:
        if note.thread_id != self._thread_id or note.turn.id != self.id:
            return
        status = STATUSES.get(note.turn.status, "failed")
        reason = ""
        if status == "failed":
            reason = _explain(note.turn.error) or self._failure or f"codex gave no reason (status {note.turn.status})"
        elif status == "interrupted":
            reason = "codex stopped the turn by itself"
        self._end(TurnEnded(status, reason))

    def _on_delta(self, note: wire.Delta) -> None:
        if self._is_mine(note):
            self.feed.put(self._items.delta(note))

    def _on_item(self, note: wire.ItemNote, starts: bool) -> None:
        if not self._is_mine(note):
            return
        event = self._items.started(note.item) if starts else self._items.completed(note.item)
        if event is not None:
            self.feed.put(event)

    def _on_usage(self, note: wire.UsageNote) -> None:
        if self._is_mine(note):
            last, total = note.token_usage.last, note.token_usage.total
            window = note.token_usage.model_context_window
            self.feed.put(
                Usage(last.input_tokens, last.cached_input_tokens, last.output_tokens, total.total_tokens, window)
            )

    def _on_error(self, note: wire.ErrorNote) -> None:
        if not self._is_mine(note):
            return
        if note.will_retry:
            self.feed.put(Notice(f"codex: {_explain(note.error)}; it tries again"))
        else:
            self._failure = _explain(note.error)


def _explain(error: wire.TurnError | None) -> str:
    if error is None:
        return ""
    return f"{error.message} ({error.additional_details})" if error.additional_details else error.message
