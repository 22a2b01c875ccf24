"""Numbers that an engine chose, brought into the range of what is done with them here."""

from __future__ import annotations

import math
from datetime import UTC, datetime

from corral.backends.events import Usage

MOST_TOKENS = 10**12  # of one event: the store adds them up in 64 bits
MOST_DOLLARS = 1e6  # of one event
LEAST_EXIT_CODE, MOST_EXIT_CODE = -(2**31), 2**32  # signed or not, whatever the host has


def usage(
    input_tokens: int,
    cached_input_tokens: int,
    output_tokens: int,
    conversation_tokens: int,
    context_window: int | None = None,
    cost: float | None = None,
) -> Usage:
    """The event, with counts that the store and every front end can hold."""
    return Usage(
        _tokens(input_tokens),
        _tokens(cached_input_tokens),
        _tokens(output_tokens),
        _tokens(conversation_tokens),
        None if context_window is None else _tokens(context_window),
        None if cost is None or not math.isfinite(cost) else min(max(cost, 0.0), MOST_DOLLARS),
    )


def exit_code(number: int | None) -> int | None:
    """The exit code, or None for a number that is not one."""
    return number if number is not None and LEAST_EXIT_CODE <= number < MOST_EXIT_CODE else None


def moment(seconds: float | None) -> str:
    """Seconds since 1970 as a date and time; empty if there are none, or if the calendar does not reach that far."""
    if not seconds or seconds < 0:
        return ""
    try:
        return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M} UTC"
    except (ValueError, OverflowError, OSError):  # OSError: the C library's own limit, of years in 32 bits
        return ""


def _tokens(count: int) -> int:
    return min(max(count, 0), MOST_TOKENS)
