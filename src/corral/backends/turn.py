"""One turn, and the one place of what is open in it: its tools, its approvals, and the limit that comes next."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from corral.backends import deadline
from corral.backends.backend import Answer
from corral.backends.bounds import NOTICE_LENGTH, bounded, bounded_approval, text_bytes
from corral.backends.events import (
    ApprovalClosed,
    ApprovalRequested,
    Decision,
    Notice,
    ToolEnded,
    ToolOutput,
    ToolStarted,
    TurnEnded,
    TurnStarted,
    Usage,
)
from corral.backends.feed import TurnFeed
from corral.printable import shortened

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from corral.backends.backend import Limits
    from corral.backends.events import EngineEvent, Limit

DECLINE = Answer("decline")
MOST_EARLY = 1 << 20  # bytes of text that come before the turn's start; what comes beyond is dropped


@dataclass(slots=True)
class _Tool:
    """A tool that runs."""

    started: ToolStarted
    since: float
    """`time.monotonic` of its start, later by the time that approvals were open."""


@dataclass(frozen=True, slots=True)
class _Approval:
    """An approval that is open."""

    requested: ApprovalRequested
    answer: asyncio.Future[Answer]


class Turn:
    """A turn from the moment it was claimed to its TurnEnded.

    Engines `begin` it, `put` events, `ask` the person and `end` it. It holds the invariants of `backend`: one start,
    one end, and before the end every tool has ended and every approval is closed. What comes after the end is dropped.
    """

    def __init__(self, limits: Limits, preface: Callable[[], Sequence[str]] = tuple) -> None:
        """`preface`: asked when the engine takes the message; notices of before the turn, told first of all."""
        self.id: str | None = None
        self.limits = limits
        self.feed = TurnFeed()
        self.over = False
        """Whether its end is in the feed."""
        self.stopped: TurnEnded | None = None
        """What the turn's end will be, if it was stopped from here and does not complete nevertheless."""
        self.engine_stops = False
        """Whether the engine stops it by itself: the answer that stopped the turn tells it so."""
        self.unread = False
        """Whether its reader has left."""
        self._preface = preface
        self._early: list[EngineEvent] = []
        self._early_bytes = 0
        self._tools: dict[str, _Tool] = {}
        self._ended_tools: set[str] = set()
        self._approvals: dict[str, _Approval] = {}
        self._began = self._last_life = time.monotonic()
        self._paused = 0.0
        """When the first of the open approvals was asked for."""
        self._told: Limit | None = None
        """The limit that the reader was told of last."""
        self._near = False
        """Whether little is left of that."""
        self._taken = asyncio.Event()
        self._ended = asyncio.Event()
        self._wake = asyncio.Event()

    # What the engine says.

    def begin(self, turn_id: str) -> None:
        """The engine took the message."""
        if self.id is None and not self.over:
            self._start(turn_id)
            self._taken.set()
            self._wake.set()

    def put(self, event: EngineEvent) -> None:
        """Add an event."""
        if self.over:
            return
        kept = bounded(event)
        if kept is None:
            return
        if self.id is None:
            self._keep_early(kept)
        else:
            self._add(kept)

    def touch(self) -> None:
        """The engine is at work, though there is nothing to tell."""
        self._last_life = time.monotonic()
        if self._near:
            self._wake.set()

    def title_of(self, tool_id: str) -> str:
        """What a running tool is called; '' for one that is not known."""
        tool = self._tools.get(tool_id)
        return tool.started.title if tool is not None else ""

    def running_tool(self, tool_id: str) -> ToolStarted | None:
        """The start of a tool that has not ended."""
        tool = self._tools.get(tool_id)
        return tool.started if tool is not None else None

    def end(self, end: TurnEnded) -> None:
        """It is over. Where it was stopped from here, that is how it ended, unless it completed."""
        if self.over:
            return
        if self.id is None:
            self._start("")
        for tool in self._tools.values():
            start = tool.started
            self.feed.add(
                ToolEnded(start.tool_id, start.kind, start.title, "interrupted", seconds=self._seconds_of(tool))
            )
        for approval_id, approval in self._approvals.items():
            self.feed.add(ApprovalClosed(approval_id, None))
            if not approval.answer.done():
                approval.answer.set_result(DECLINE)  # the engine, should it still wait, is told no
        self._tools.clear()
        self._approvals.clear()
        completed = end.status == "completed" and (self.stopped is None or self.stopped.status != "failed")
        self.feed.add(_shortened(end) if self.stopped is None or completed else self.stopped)
        self.over = True
        for event in (self._taken, self._ended, self._wake):
            event.set()

    def fail(self, reason: str) -> None:
        """It cannot go on."""
        self.end(TurnEnded("failed", reason))

    # Approvals.

    @property
    def approvals(self) -> tuple[ApprovalRequested, ...]:
        """The open ones that the reader has been told of, oldest first."""
        asked = [approval.requested for approval in self._approvals.values()]
        return tuple(one for one in asked if not self.feed.holds(one))

    async def ask(self, approval: ApprovalRequested) -> Answer:
        """Ask the person, and wait for the answer as long as the limits allow; then it is declined.

        Declined at once before the turn's start, after its end, and for one that cannot be kept. Cancelled, it is
        withdrawn.
        """
        requested = bounded_approval(approval)
        if self.over or self.id is None or requested is None or requested.approval_id in self._approvals:
            return DECLINE
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        if not self._approvals:
            self._paused = time.monotonic()
        self._approvals[requested.approval_id] = _Approval(requested, answer)
        self.feed.add(requested)
        self._wake.set()
        timeout = self.limits.approval
        try:
            async with asyncio.timeout(timeout):
                return await answer
        except TimeoutError:
            if answer.done() and not answer.cancelled():  # it came in the same moment, and was told
                return answer.result()
            self.put(Notice(f"declined: nobody answered within {timeout:g} s: {requested.what}"))
            self._close(requested.approval_id, "decline")
            return DECLINE
        finally:
            self._close(requested.approval_id, None)

    def answer(self, approval_id: str, answer: Answer) -> bool:
        """Decide an open approval; False if it waits no more."""
        approval = self._approvals.get(approval_id)
        if approval is None:
            return False
        decision = _allowed(answer.decision, approval.requested.decisions)
        approval.answer.set_result(replace(answer, decision=decision))
        self._close(approval_id, decision, answer.by)
        if decision == "cancel":
            self.engine_stops = self.stopped is None
            self.stop(TurnEnded("interrupted", "stopped by the answer to an approval"))
        return True

    def _close(self, approval_id: str, decision: Decision | None, by: str = "") -> None:
        if self._approvals.pop(approval_id, None) is None:
            return
        self.feed.add(ApprovalClosed(approval_id, decision, by))
        self._last_life = time.monotonic()
        if not self._approvals:
            # The time that a tool waited for permission is not its running time.
            for tool in self._tools.values():
                tool.since += self._last_life - max(self._paused, tool.since)
        self._wake.set()

    # Its end, and what comes before it.

    def stop(self, end: TurnEnded) -> None:
        """Say how it will have ended, once the engine has stopped it; the first word counts."""
        self.stopped = self.stopped or _shortened(end)
        self._wake.set()

    def limit(self) -> Limit:
        """The limit that comes next, and what is left of it now."""
        now = time.monotonic()
        last = max(self._tools.values(), key=lambda tool: tool.since, default=None)
        return deadline.next_limit(
            self.limits,
            ran=now - self._began,
            silent=now - self._last_life,
            tool=(last.started.title, now - last.since) if last is not None else None,
            paused=bool(self._approvals),
        )

    async def run(self) -> None:
        """Start its clock, and wait until it is over or stopped. Reaching a limit stops it.

        The reader is told meanwhile which limit comes next.
        """
        self._began = self._last_life = time.monotonic()
        while not (self.over or self.stopped):
            limit = self.limit()
            if limit.seconds_left <= 0:
                self.stop(TurnEnded("timed_out", f"the turn reached {deadline.sentence(limit)}"))
                return
            self._tell(limit)
            self._wake.clear()
            await _within(self._wake, deadline.until_news(limit))

    async def taken(self, timeout: float) -> str | None:
        """Wait for the engine to take the message; its id, or None if it has none after `timeout` seconds."""
        return self.id if await _within(self._taken, timeout) else None

    async def ended(self, timeout: float) -> bool:
        """Wait for the end, read or unread; False if it did not come in `timeout` seconds."""
        return await _within(self._ended, timeout)

    # Internals.

    def _start(self, turn_id: str) -> None:
        self.id = turn_id
        self.feed.add(TurnStarted(turn_id))
        self._last_life = time.monotonic()
        if turn_id:
            for notice in self._preface():
                self.put(Notice(notice))
        early, self._early = self._early, []
        for event in early:
            self.put(event)

    def _keep_early(self, event: EngineEvent) -> None:
        self._early_bytes += text_bytes(event)
        if self._early_bytes <= MOST_EARLY:
            self._early.append(event)

    def _add(self, event: EngineEvent) -> None:
        """Add an event that goes with what is open; note what it opens and ends, and whether it is a sign of life."""
        # An engine that only tells of its retries, or of a bill, is as good as silent.
        if isinstance(event, Notice | Usage):
            self.feed.add(event)
            return
        now = self._last_life = time.monotonic()
        if self._near:
            self._wake.set()
        match event:
            case ToolStarted(tool_id=tool_id):
                if tool_id in self._tools or tool_id in self._ended_tools:
                    return
                self._tools[tool_id] = _Tool(event, now)
                self._wake.set()
            case ToolEnded(tool_id=tool_id):
                if tool_id in self._ended_tools:
                    return
                self._ended_tools.add(tool_id)
                tool = self._tools.pop(tool_id, None)
                if tool is None:
                    self.feed.add(ToolStarted(tool_id, event.kind, event.title))
                else:
                    event = replace(event, seconds=self._seconds_of(tool))
                self._wake.set()
            case ToolOutput(tool_id=tool_id) if tool_id not in self._tools:
                return
        self.feed.add(event)

    def _seconds_of(self, tool: _Tool) -> float:
        """How long it has run."""
        return round(max(time.monotonic() - tool.since, 0.0), 3)

    def _tell(self, limit: Limit) -> None:
        """Tell the reader of a limit, if that is news."""
        self._near = limit.near
        if self.id is None:
            return
        told, self._told = self._told, limit
        if told is None or replace(told, seconds_left=limit.seconds_left) != limit:
            self.feed.add(replace(limit, seconds_left=round(limit.seconds_left, 1)))


def _allowed(decision: Decision, offered: Sequence[Decision]) -> Decision:
    """The decision, or the nearest that was offered; never one that allows more."""
    if decision in offered:
        return decision
    return "accept" if decision == "accept_for_session" and "accept" in offered else "decline"


def _shortened(end: TurnEnded) -> TurnEnded:
    return replace(end, reason=shortened(end.reason, NOTICE_LENGTH))


async def _within(event: asyncio.Event, timeout: float) -> bool:
    try:
        async with asyncio.timeout(timeout):
            await event.wait()
    except TimeoutError:
        return False
    return True
