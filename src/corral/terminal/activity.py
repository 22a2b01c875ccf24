"""What is going on, in one line: what runs, for how long, and the limit that comes next."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from prompt_toolkit.formatted_text import StyleAndTextTuples
from prompt_toolkit.formatted_text.utils import fragment_list_width

from corral.backends.events import Limit, Reasoning, Text, ToolEnded, ToolStarted, TurnEnded, TurnStarted
from corral.display.wording import took
from corral.display.wording import tool as tool_title
from corral.service.front import Shown
from corral.terminal.render import in_columns

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
    """Follows the events of a conversation; `line` is the status line for them."""

    def __init__(self, asking: Callable[[], bool]) -> None:
        """`asking`: whether an approval waits for the person."""
        self._asking = asking
        self._doing = STARTING
        self._since = time.monotonic()
        self._tools: dict[str, _Tool] = {}
        self._limit: Limit | None = None
        self._told_at = 0.0
        """When the limit event came (monotonic seconds)."""
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
        self._limit = None
        self.do("")

    def note(self, event: Shown) -> None:
        """Take notice of what is shown."""
        match event:
            case TurnStarted():
                self.do("working")
            case Limit():
                self._limit, self._told_at = event, time.monotonic()
            case Text():
                self.do("answering")
            case Reasoning():
                self.do("thinking")
            case ToolStarted():
                self._tools[event.tool_id] = _Tool(tool_title(event.title), time.monotonic())
            case ToolEnded():
                self._tools.pop(event.tool_id, None)
                self.do("working")
            case TurnEnded():
                self._tools.clear()
                self._limit = None
                self.do(WAITING)
            case _:
                pass

    def line(self, width: int) -> Fragments:
        """What goes on, in less than `width` columns; empty if nothing does."""
        if not self.running:
            return []
        now = time.monotonic()
        asked = self._asking() and not self._fixed
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
        """The limit that comes next, and how far off it is where it is near."""
        limit = self._limit
        if limit is None or self._fixed:
            return []
        if not limit.near:
            return [("class:dim", f" · next limit: {limit.timer}")]
        left = limit.seconds_left - (time.monotonic() - self._told_at)
        return [("ansiyellow", f" · {limit.timer} limit in {_seconds(max(left, 0))}")]


def _seconds(seconds: float) -> str:
    """Whole seconds: a digit that changes ten times a second is a distraction."""
    return f"{int(seconds)} s" if seconds < 60 else took(seconds)
