"""Tasks with an owner: it hears of each one's error, and waits for them at the end.

A task that nobody awaits dies unheard: asyncio logs its error when the task is collected, which may be never.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class Tasks:
    """Holds tasks until they are over. `on_done` is called for each: with its error, or None."""

    def __init__(self, on_done: Callable[[BaseException | None], None]) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()
        self._on_done = on_done

    def __len__(self) -> int:
        return len(self._tasks)

    def own(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Start it."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def cancel(self) -> None:
        """Cancel all."""
        for task in self._tasks:
            task.cancel()

    async def settle(self, timeout: float) -> None:
        """Wait for all, at most `timeout` seconds, and cancel the rest."""
        if self._tasks:
            await asyncio.wait(list(self._tasks), timeout=timeout)
        self.cancel()

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        self._on_done(None if task.cancelled() else task.exception())
