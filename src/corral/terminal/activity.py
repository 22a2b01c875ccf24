"""What is going on, in one line: what runs, for how long, and the limit that comes next."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TypeAlias

from prompt_toolkit.formatted_text import StyleAndTextTuples
from prompt_toolkit.formatted_text.utils import fragment_list_width

from corral.backends.backend import Limits
from corral.backends.events import (
    ApprovalClosed,
    ApprovalRequested,
    BackendEnded,
    BackendStarted,
    Reasoning,
    Text,
    ToolEnded,
    ToolStarted,
    TurnEnded,
    TurnStarted,
)
from corral.backends.turn import Clock
from corral.display.wording import in_columns, took
from corral.display.wording import tool as tool_title
from corral.service.front import Missed, Reply, Shown

FRAMES = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
FRAME = 0.1  # seconds
STARTING = "starting the agent"
WAITING = "waiting for the agent"
STOPPING = "stopping the turn (Ctrl-C again leaves)"
LEAVING = "ending the agent (Ctrl-C hurries)"
ASKING = "waiting for you"

Fragments: TypeAlias = StyleAndTextTuples
"""Text with styles."""


@dataclass(slots=True)
class _Tool:
    title: str
    since: float


class Activity:
    """Fed with what a conversation shows; `line` is what to show of it now."""

    def __init__(self) -> None:
        self.limits = Limits()
        """Those of a turn here."""
        self._doing = STARTING
        self._since = time.monotonic()
        self._tools: dict[str, _Tool] = {}
        self._ended: dict[str, float] = {}
        self._clock: Clock | None = None
        self._fixed = False

    @property
    def running(self) -> bool:
        """Whether something goes on."""
        return bool(self._doing)

    def do(self, what: str, *, last: bool = False) -> None:
        """Something begins that no event tells; after the `last` nothing else is told."""
        if what != self._doing and not self._fixed:
            self._doing, self._since = what, time.monotonic()
        self._fixed = self._fixed or last

    def idle(self) -> None:
        """Nothing goes on."""
        self._tools.clear()
        self._clock = None
        self.do("")

    def note(self, event: Shown) -> None:
        """Take notice of what is shown."""
        match event:
            case TurnStarted():
                self._clock = Clock(self.limits)
                self.do("working")
            case Text():
                self.do("answering")
            case Reasoning():
                self.do("thinking")
            case ToolStarted():
                self._tools[event.tool_id] = _Tool(tool_title(event.title), time.monotonic())
            case ToolEnded():
                tool = self._tools.pop(event.tool_id, None)
                self._ended = {event.tool_id: time.monotonic() - tool.since} if tool else {}
                self.do("working")
            case TurnEnded():
                self._tools.clear()
                self._clock = None
                self.do(WAITING)
            case _:
                pass
        self._tick(event)

    def tool_seconds(self, tool_id: str) -> float:
        """How long the tool ran that ended just now."""
        return self._ended.get(tool_id, 0.0)

    def _tick(self, event: Shown) -> None:
        clock = self._clock
        if clock is None or isinstance(event, BackendStarted | BackendEnded | TurnStarted | TurnEnded | Reply | Missed):
            return
        clock.note(event)
        if isinstance(event, ApprovalRequested):
            clock.pause()
        elif isinstance(event, ApprovalClosed) and clock.approvals:
            clock.resume()

    def line(self, width: int) -> Fragments:
        """What goes on, in less than `width` columns; empty if nothing does."""
        if not self.running:
            return []
        now = time.monotonic()
        asked = self._clock is not None and self._clock.approvals and not self._fixed
        tool = max(self._tools.values(), key=lambda one: one.since) if self._tools and not self._fixed else None
        more = f" (and {len(self._tools) - 1} more)" if tool and len(self._tools) > 1 else ""
        what, since = (tool.title + more, tool.since) if tool else (self._doing, self._since)
        if asked:
            what = ASKING
        mark = "?" if asked else FRAMES[int(now / FRAME) % len(FRAMES)]
        due = self._due()
        taken = f" · {_seconds(now - since)}"
        room = width - 4 - len(taken) - fragment_list_width(due)
        what = in_columns(what, room)
        style = "ansiyellow" if asked else "ansicyan"
        return [(style, f"{mark} "), ("", what), ("class:dim", taken), *due]

    def _due(self) -> Fragments:
        """The limit that comes next, and how far off it is where that is below a third of it."""
        if self._clock is None or self._fixed:
            return []
        due = self._clock.next()
        if due.left * 3 > due.limit:
            return [("class:dim", f" · next limit: {due.name}")]
        return [("ansiyellow", f" · {due.name} limit in {_seconds(max(due.left, 0))}")]


def _seconds(seconds: float) -> str:
    """Whole seconds: a digit that changes ten times a second is a distraction."""
    return f"{int(seconds)} s" if seconds < 60 else took(seconds)
