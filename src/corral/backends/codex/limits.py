"""What codex tells of the account's rate limits, as sentences for a person, where they begin to matter."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from corral.backends.numbers import moment

if TYPE_CHECKING:
    from corral.backends.codex import wire

TELL_FROM = 80  # percent
LONGEST = 10 * 366 * 24 * 60  # minutes: a window of more is a fault of the engine's
STEP = 10  # percent: how much more must be used until it is told again


def warnings(note: wire.RateLimitsNote) -> Iterator[str]:
    """A sentence for each window that is nearly used up; equal sentences are the same news."""
    for window in (note.rate_limits.primary, note.rate_limits.secondary):
        if window is not None and window.used_percent >= TELL_FROM:
            used = min(int(min(window.used_percent, 100)) // STEP * STEP, 100)
            amount = "all" if used == 100 else f"over {used} %"
            yield f"codex: {amount} of {_length(window)} is used{_reset(window)}"


def _length(window: wire.RateLimitWindow) -> str:
    minutes = window.window_duration_mins
    if not minutes or not 0 < minutes <= LONGEST:
        return "the account's limit"
    hours = minutes / 60
    return f"the account's limit of {f'{hours / 24:g} days' if hours >= 48 else f'{hours:g} hours'}"


def _reset(window: wire.RateLimitWindow) -> str:
    when = moment(window.resets_at)
    return f"; it begins anew at {when}" if when else ""
