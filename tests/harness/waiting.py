"""Waiting for a condition, bounded, with a picture of what was there when it never came."""

import asyncio
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
PAUSE = 0.005


def _fail(what: str, timeout: float, picture: Callable[[], str] | None) -> AssertionError:
    left = f"\n{picture()}" if picture else ""
    return AssertionError(f"waited {timeout} s in vain until {what}{left}")


def wait_until(
    condition: Callable[[], T | None],
    timeout: float = 10.0,
    what: str = "it held",
    picture: Callable[[], str] | None = None,
) -> T:
    """Return the first true value of the condition; fail with the picture when none came in `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise _fail(what, timeout, picture)
        time.sleep(PAUSE)


async def until(
    condition: Callable[[], T | None],
    timeout: float = 10.0,
    what: str = "it held",
    picture: Callable[[], str] | None = None,
) -> T:
    """`wait_until` for async tests."""
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise _fail(what, timeout, picture)
        await asyncio.sleep(PAUSE)
