"""Which limit of a turn comes next, and when it is reached."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from corral.backends.events import Limit, Timer

if TYPE_CHECKING:
    from corral.backends.backend import Limits

NEAR = 1 / 3  # of a limit
MOST_TITLE = 80  # characters of a tool's title


def next_limit(limits: Limits, *, ran: float, silent: float, tool: tuple[str, float] | None, paused: bool) -> Limit:
    """The limit that comes next, if nothing happens before.

    `ran` and `silent`: seconds since the turn began, and since its last sign of life. `tool`: the title of the running
    tool that started last, and the seconds it has run. `paused`: an approval is open.
    """
    overall = _limit("turn", limits.turn - ran, limits.turn)
    if paused:
        return replace(overall, paused=True)
    silence = _limit("silence", limits.silence - silent, limits.silence)
    if tool is not None:
        title, running = tool
        silence = max(silence, _limit("tool", limits.tool - running, limits.tool, title[:MOST_TITLE]), key=_left)
    return min(overall, silence, key=_left)


def until_news(limit: Limit) -> float:
    """Seconds until it is near or, once it is, until it is reached."""
    return limit.seconds_left if limit.near else limit.seconds_left - limit.limit * NEAR


def sentence(limit: Limit) -> str:
    """The limit as the reason of a turn's end has it."""
    match limit.timer:
        case "turn":
            return f"the turn's limit of {limit.limit:g} s"
        case "tool":
            return f"{limit.limit:g} s, a tool's limit, in {limit.tool!r}"
        case "silence":
            return f"{limit.limit:g} s of silence"


def _limit(timer: Timer, seconds_left: float, limit: float, tool: str = "") -> Limit:
    return Limit(timer, seconds_left, limit, near=seconds_left <= limit * NEAR, tool=tool)


def _left(limit: Limit) -> float:
    return limit.seconds_left
