"""Tasks that somebody owns: who began them hears of their faults, and waits for them at the end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any


class Tasks:
    """Holds tasks until they are over. `on_done` is called for each: with its error, or None."""

    def __init__(self, on_done: Callable[[BaseException | None], None]) -> None:
        self._tasks: set[asyncio.Task[None]] = set()
        self._on_done = on_done

    def own(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Begin it."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def cancel(self) -> None:
        """Cancel all."""
        for task in self._tasks:
            task.cancel()

    async def settle(self, timeout: float) -> None:
        """Wait for all, `timeout` seconds at the most, and cancel the rest."""
        if self._tasks:
            await asyncio.wait(list(self._tasks), timeout=timeout)
        self.cancel()

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._on_done(None if task.cancelled() else task.exception())
