"""One turn: what the engine's wire says of it, its clock, and how it will have ended."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from corral.backends.bounds import NOTICE_LENGTH, bounded
from corral.backends.events import Notice, ToolEnded, ToolStarted, TurnEnded, TurnStarted, Usage
from corral.backends.feed import TurnFeed
from corral.printable import shortened

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from corral.backends.backend import Limits
    from corral.backends.events import TurnEvent


class Turn:
    """A turn from the moment it was claimed to its TurnEnded. Engines `begin` it, `put` events and `end` it."""

    def __init__(self, limits: Limits, preface: Callable[[], Sequence[str]] = tuple) -> None:
        """`preface`: asked when the engine takes the message; notices of before the turn, told first of all."""
        self.id: str | None = None
        self.limits = limits
        self.feed = TurnFeed()
        self._preface = preface
        self.stopped: TurnEnded | None = None
        """What the turn's end will be, if it was stopped from here and does not complete nevertheless."""
        self._clock = Clock(limits)
        self._taken = asyncio.Event()
        self._ended = asyncio.Event()
        self._wake = asyncio.Event()

    @property
    def over(self) -> bool:
        """Whether its end is in the feed."""
        return self.feed.over

    def begin(self, turn_id: str) -> None:
        """The engine took the message."""
        if self.id is None and not self.over:
            self.id = turn_id
            self.put(TurnStarted(turn_id))
            for said in self._preface():
                self.put(Notice(said))
            self._taken.set()

    def put(self, event: TurnEvent) -> None:
        """Add an event that does not end the turn."""
        kept = bounded(event)
        if kept is not None and self.feed.put(kept) and self._clock.note(kept):
            self._wake.set()

    def touch(self) -> None:
        """The engine is at work, though there is nothing to tell."""
        self._clock.last_life = time.monotonic()

    def stop(self, end: TurnEnded) -> None:
        """Say how it will have ended, if the engine stops it; the first word counts."""
        self.stopped = self.stopped or _shortened(end)

    def end(self, end: TurnEnded) -> None:
        """It is over. Where it was stopped from here, that is how it ended, unless it completed."""
        completed = end.status == "completed" and (self.stopped is None or self.stopped.status != "failed")
        self.feed.put(_shortened(end) if self.stopped is None or completed else self.stopped)
        self._taken.set()
        self._ended.set()
        self._wake.set()

    def fail(self, reason: str) -> None:
        """It cannot go on."""
        self.end(TurnEnded("failed", reason))

    def pause_clock(self) -> None:
        """An approval is open: the silence of a person is not the engine's."""
        self._clock.pause()

    def resume_clock(self) -> None:
        """It is closed."""
        self._clock.resume()
        self._wake.set()

    async def taken(self, timeout: float) -> str | None:
        """Wait for the engine to take the message; its id, or None if it has none after `timeout` seconds."""
        return self.id if await _within(self._taken, timeout) else None

    async def ended(self, timeout: float) -> bool:
        """Wait for the end, read or unread; False if it did not come in `timeout` seconds."""
        return await _within(self._ended, timeout)

    async def outlasted(self) -> str:
        """Wait for the end, or for one of the limits; the limit's name, or '' at the end."""
        while not self.over:
            left, timer = self._clock.left()
            if left <= 0:
                return timer
            self._wake.clear()
            await _within(self._wake, left)
        return ""


@dataclass(frozen=True, slots=True)
class Deadline:
    """A limit of a turn, and when it is reached."""

    name: Literal["silence", "tool", "turn"]
    left: float
    """Seconds from now; below 0 when it is over."""
    limit: float
    tool: str = ""
    """The title of the tool that it is about."""


class Clock:
    """When a turn has gone on for too long, or without a sign of life."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.approvals = 0
        self._paused = 0.0
        self.began = self.last_life = time.monotonic()
        self._tools: dict[str, tuple[float, str]] = {}

    def pause(self) -> None:
        """An approval is open."""
        if not self.approvals:
            self._paused = time.monotonic()
        self.approvals += 1

    def resume(self) -> None:
        """It is closed: the time a tool waited for permission is not its running time."""
        self.approvals -= 1
        self.last_life = time.monotonic()
        if not self.approvals:
            waited = self.last_life - self._paused
            self._tools = {key: (since + waited, title) for key, (since, title) in self._tools.items()}

    def note(self, event: TurnEvent) -> bool:
        """Take an event for a sign of life, if it is one; whether a deadline may have come nearer by it."""
        # An engine that only tells of its retries, or of a bill, is as good as silent.
        if isinstance(event, Notice | Usage):
            return False
        self.last_life = time.monotonic()
        if isinstance(event, ToolStarted):
            self._tools[event.tool_id] = (self.last_life, event.title)
        elif isinstance(event, ToolEnded):
            return self._tools.pop(event.tool_id, None) is not None
        return False

    def next(self) -> Deadline:
        """The limit that comes next."""
        now, limits = time.monotonic(), self.limits
        overall = Deadline("turn", self.began + limits.turn - now, limits.turn)
        if self.approvals:
            return overall
        silence = Deadline("silence", self.last_life + limits.silence - now, limits.silence)
        if self._tools:
            since, title = max(self._tools.values())
            tool = Deadline("tool", since + limits.tool - now, limits.tool, title)
            silence = max(silence, tool, key=lambda one: one.left)
        return min(overall, silence, key=lambda one: one.left)

    def left(self) -> tuple[float, str]:
        """Seconds until a limit is reached, and that limit as a sentence has it."""
        due = self.next()
        match due.name:
            case "turn":
                return due.left, f"the turn's limit of {due.limit:g} s"
            case "tool":
                return due.left, f"{due.limit:g} s, a tool's limit, in {due.tool[:80]!r}"
            case _:
                return due.left, f"{due.limit:g} s of silence"


def _shortened(end: TurnEnded) -> TurnEnded:
    return replace(end, reason=shortened(end.reason, NOTICE_LENGTH))


async def _within(event: asyncio.Event, timeout: float) -> bool:
    try:
        async with asyncio.timeout(timeout):
            await event.wait()
    except TimeoutError:
        return False
    return True
