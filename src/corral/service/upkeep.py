"""What the service does by itself: it takes in what a dead one left, ends what is idle, and forgets what is old."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import structlog

from corral.service import recovery
from corral.service.store.store import StoreError
from corral.tasks import Tasks

if TYPE_CHECKING:
    from corral.config import Config
    from corral.service.conversation import Conversation
    from corral.service.store.store import Store

log = structlog.get_logger(__name__)

PRUNE_EVERY = 86400.0  # seconds
SETTLE_TIMEOUT = 1.0  # seconds for what is cancelled to be gone
SOONEST, LATEST = 0.02, 30.0  # seconds between two looks at what is idle or old
LOOKS = 20.0
"""Looks in the time after which a backend is idle: it is ended that much later at the most."""


class Upkeep:
    """Owns these tasks, from `start` to `stop`."""

    def __init__(
        self,
        store: Store,
        config: Callable[[], Config],
        live: Callable[[], list[Conversation]],
        forget_if_unused: Callable[[Conversation], None],
    ) -> None:
        self._store = store
        self._config = config
        self._live = live
        self._forget_if_unused = forget_if_unused
        self._tasks = Tasks(_log)

    async def start(self, *, patient: bool) -> None:
        """Begin. `patient`: return only when what a dead service left is ended."""
        recovering = self._tasks.own(recovery.recover(self._config().service.state_dir, self._store))
        if patient:
            await asyncio.wait([recovering])
        self._tasks.own(self._recycle())
        self._tasks.own(self._prune())

    async def stop(self) -> None:
        """Stop, within a bound."""
        self._tasks.cancel()
        await self._tasks.settle(SETTLE_TIMEOUT)

    async def _recycle(self) -> None:
        """Look now and then for backends that are idle or old, and for conversations that nobody follows."""
        while True:
            recycle = self._config().recycle
            await asyncio.sleep(min(max(min(recycle.idle, recycle.age) / LOOKS, SOONEST), LATEST))
            await asyncio.gather(*(self._recycle_one(conversation) for conversation in self._live()))

    async def _recycle_one(self, conversation: Conversation) -> None:
        try:
            reason = await conversation.recycle(time.monotonic())
        except Exception:  # whatever it is, the others get old as well
            log.exception("recycling failed", person=conversation.ref.person)
            return
        if reason:
            log.info("recycled", person=conversation.ref.person, reason=reason)
        self._forget_if_unused(conversation)

    async def _prune(self) -> None:
        while True:
            config = self._config()
            try:
                await self._store.prune(time.time() - config.service.keep)
            except StoreError as error:
                log.error("the store failed", error=str(error))
            await asyncio.sleep(PRUNE_EVERY)
            await recovery.take_in_reports(config.service.state_dir, self._store)


def _log(error: BaseException | None) -> None:
    if error is not None:
        log.error("a task of the service failed", exc_info=error)
