"""A queue of one turn's events, from the engine to the reader; it holds the invariants of `backend`."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING

from corral.backends.events import (
    ApprovalClosed,
    ApprovalRequested,
    Reasoning,
    Text,
    ToolEnded,
    ToolOutput,
    ToolStarted,
    TurnEnded,
    TurnStarted,
)

if TYPE_CHECKING:
    from corral.backends.events import TurnEvent

# A reader that lags this far behind gets its text in larger pieces, so that a flood of words takes no more memory than
# the words; the wire must be read on meanwhile, or an interrupt would not get through.
LAG = 1000
AT_ONCE = 256  # events that are taken without a pause
MAX_LAG_OUTPUT = 1 << 20  # characters of one tool's output that wait for a reader; what comes beyond is left out


class TurnFeed:
    """The queue of a turn: one start, one end; before it every tool has ended and every approval is closed.

    What comes after the end is dropped.
    """

    def __init__(self) -> None:
        self.over = False
        self.begun = False
        self._events: deque[TurnEvent] = deque()
        self._early: list[TurnEvent] = []
        self._tools: dict[str, ToolStarted] = {}
        self._ended: set[str] = set()
        self._approvals: set[str] = set()
        self._arrived = asyncio.Event()
        self._parts: list[str] = []
        self._waiting = 0
        self._taken = 0
        """How many were taken since there was none."""

    def put(self, event: TurnEvent) -> bool:
        """Add an event, and whatever must come before it; False if it was dropped."""
        if self.over:
            return False
        if not self.begun and not isinstance(event, TurnStarted | TurnEnded):
            self._early.append(event)
            return True
        if isinstance(event, TurnStarted):
            return self._begin(event)
        if isinstance(event, TurnEnded):
            self._close()
        elif not self._fits(event):
            return False
        self._add(event)
        return True

    async def get(self) -> TurnEvent:
        """The next event, when there is one; the turn's own limits bound how long that takes."""
        if not self._events:
            self._taken = 0
        while not self._events:
            self._arrived.clear()
            await self._arrived.wait()
        self._taken += 1
        if not self._taken % AT_ONCE:
            await asyncio.sleep(0)  # a backlog would keep all others waiting
        if len(self._events) == 1:
            self._flush()
        return self._events.popleft()

    def _fits(self, event: TurnEvent) -> bool:
        """Whether the event goes with what is open; note what it opens and closes."""
        match event:
            case ToolStarted():
                if event.tool_id in self._tools or event.tool_id in self._ended:
                    return False
                self._tools[event.tool_id] = event
            case ToolEnded():
                if event.tool_id in self._ended:
                    return False
                self._ended.add(event.tool_id)
                if self._tools.pop(event.tool_id, None) is None:
                    self._add(ToolStarted(event.tool_id, event.kind, event.title))
            case ToolOutput():
                return event.tool_id in self._tools
            case ApprovalRequested():
                if event.approval_id in self._approvals:
                    return False
                self._approvals.add(event.approval_id)
            case ApprovalClosed():
                if event.approval_id not in self._approvals:
                    return False
                self._approvals.remove(event.approval_id)
        return True

    def _begin(self, start: TurnStarted) -> bool:
        if self.begun:
            return False
        self.begun = True
        self._add(start)
        early, self._early = self._early, []
        for event in early:
            self.put(event)
        return True

    def _close(self) -> None:
        self._begin(TurnStarted(""))
        for tool in self._tools.values():
            self._add(ToolEnded(tool.tool_id, tool.kind, tool.title, "interrupted"))
        for approval_id in self._approvals:
            self._add(ApprovalClosed(approval_id, None))
        self.over = True

    def _add(self, event: TurnEvent) -> None:
        if len(self._events) < LAG or not self._merge(event):
            self._flush()
            self._events.append(event)
        self._arrived.set()

    def _merge(self, event: TurnEvent) -> bool:
        """Whether the event is more of the last one's text, and was added to that."""
        if not isinstance(event, Text | Reasoning | ToolOutput) or _stream(event) != _stream(self._events[-1]):
            return False
        if isinstance(event, Text | Reasoning) or self._waiting < MAX_LAG_OUTPUT:
            self._parts.append(event.delta)
            self._waiting += len(event.delta)
        return True

    def _flush(self) -> None:
        """Join the parts that were added to the last event: once, for each time would be quadratic in its length."""
        if self._parts:
            last = self._events[-1]
            assert isinstance(last, Text | Reasoning | ToolOutput), "only those are merged"
            self._events[-1] = replace(last, delta="".join([last.delta, *self._parts]))
            self._parts = []
        self._waiting = 0


def _stream(event: TurnEvent) -> tuple[type[TurnEvent], str] | None:
    match event:
        case Text() | Reasoning():
            return type(event), event.message_id
        case ToolOutput():
            return type(event), event.tool_id
    return None
