"""The queue of one front end: events wait here until it has shown them, and nobody else waits for it."""

from __future__ import annotations

import asyncio
import io
import sys
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import structlog

from corral.backends.bounds import text_bytes
from corral.backends.events import Reasoning, Text, ToolOutput, stream_of
from corral.service.front import Missed
from corral.tasks import Tasks

if TYPE_CHECKING:
    from corral.service.front import Front, Shown

log = structlog.get_logger(__name__)

# Bytes that may wait. Above the first, what an agent says and its tools print is left out, and the front end is told
# how much. Of all other events nothing is left out: above the second, which counts only them, the front end is dropped.
MOST_WAITING = 8 * 2**20
MOST_KEPT = 32 * 2**20
LITTLE_WAITING = 2**20  # bytes; a caller that asks for more than it reads is heard again below this
EACH = 512  # bytes of an event beside its text
MERGE_ABOVE = 1000  # events that wait; above it more of the same text makes the last event longer
AT_ONCE = 32  # events until the event loop serves others
CLOSE_TIMEOUT = 2.0  # seconds to show what waits, for a front end whose seat is taken away

_STREAMED = (Text, Reasoning, ToolOutput)
_EMPTY = sys.getsizeof("")


class FrontQueue:
    """Shows events to one front end, in their order, as fast as it takes them.

    A front end that raises is dropped: it is closed, that is logged, and `on_dropped` is called.
    """

    def __init__(self, front: Front, on_dropped: Callable[[], None]) -> None:
        self._front = front
        self._on_dropped = on_dropped
        self._items: deque[_Item] = deque()
        self._bytes = 0
        self._kept = 0
        """Those of `_bytes` that may not be left out."""
        self._behind = False
        self._arrived = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._closing: str | None = None
        """The reason, once the front end is to be closed."""
        self._showing = False
        """Whether the front end shows an event, or is not ready for the next."""
        self._over = False
        self._tasks = Tasks(self._ended)
        self._delivery = self._tasks.own(self._deliver())

    # What the service tells. None of it waits.

    def show(self, event: Shown) -> None:
        """Show an event after those that wait."""
        if self._over or self._closing is not None:
            return
        if isinstance(event, _STREAMED):
            if self._behind or self._bytes > MOST_WAITING:
                self._leave_out(event)
                return
            if len(self._items) >= MERGE_ABOVE and (more := self._items[-1].merge(event)):
                self._add_bytes(more)
                return
        elif self._kept > MOST_KEPT:
            log.warning("a front end does not read, and is dropped", front=type(self._front).__name__)
            self._drop("too much waited to be shown here")
            return
        self._put(_Item(event, EACH + text_bytes(event)))

    def idle(self) -> None:
        """Tell that nothing is to be done."""
        if not (self._over or self._closing is not None or (self._items and self._items[-1].event is None)):
            self._put(_Item(None, EACH))

    def closed(self, reason: str) -> None:
        """Close the front end once all that waits is shown.

        It has CLOSE_TIMEOUT seconds for that, unless it asked for its end itself, which an empty reason means.
        """
        if self._over or self._closing is not None:
            return
        self._closing = reason
        self._arrived.set()
        if not self._items and not self._showing:
            self._finish()
        elif reason:
            asyncio.get_running_loop().call_later(CLOSE_TIMEOUT, self._finish)

    def discard(self) -> None:
        """The front end has gone: show it nothing more."""
        self._stop()

    async def caught_up(self) -> None:
        """Wait until little waits to be shown; the front end bounds how long that takes."""
        await self._room.wait()

    async def settle(self, timeout: float) -> None:
        """Wait at most `timeout` seconds for what waits to be shown, if it is being closed; then close it."""
        if self._closing is not None and not self._over:
            await asyncio.wait([self._delivery], timeout=timeout)
            self._finish()

    # Internals.

    def _put(self, item: _Item) -> None:
        self._items.append(item)
        self._kept += item.kept
        self._add_bytes(item.size)
        self._arrived.set()

    def _add_bytes(self, count: int) -> None:
        self._bytes += count
        if self._bytes > LITTLE_WAITING:
            self._room.clear()

    def _leave_out(self, event: Text | Reasoning | ToolOutput) -> None:
        # Until half of the queue is shown: else every other piece would be left out.
        self._behind = True
        last = self._items[-1] if self._items else None
        if last is not None and isinstance(last.event, Missed):
            last.event = replace(last.event, characters=last.event.characters + len(event.delta))
        else:
            self._put(_Item(Missed(len(event.delta)), EACH))

    async def _deliver(self) -> None:
        while True:
            for _ in range(AT_ONCE):
                if not self._items:
                    break
                item = self._items.popleft()
                self._showing = True
                if item.event is None:
                    self._front.idle()
                else:
                    self._front.show(item.whole())
                await self._front.ready()
                self._showing = False
                self._took(item)
            if self._items:
                await asyncio.sleep(0)
            elif self._closing is not None:
                self._finish()
                return
            else:
                self._arrived.clear()
                await self._arrived.wait()

    def _took(self, item: _Item) -> None:
        self._bytes -= item.size
        self._kept -= item.kept
        if self._bytes <= LITTLE_WAITING:
            self._room.set()
        if self._bytes <= MOST_WAITING // 2:
            self._behind = False

    def _finish(self) -> None:
        """Close the front end, whatever waits."""
        if self._over:
            return
        reason = self._closing or ""
        self._stop()
        self._close(reason)

    def _ended(self, error: BaseException | None) -> None:
        if error is not None and not self._over:
            log.error("a front end failed, and is dropped", front=type(self._front).__name__, exc_info=error)
            self._drop(f"a fault in this front end: {error!r}")

    def _drop(self, reason: str) -> None:
        self._stop()
        self._close(reason)
        self._on_dropped()

    def _close(self, reason: str) -> None:
        try:
            self._front.closed(reason)
        except Exception:  # it has failed before, perhaps: the service goes on without it
            log.exception("a front end could not be closed", front=type(self._front).__name__)

    def _stop(self) -> None:
        self._over = True
        self._items.clear()
        self._bytes = self._kept = 0
        self._room.set()
        self._delivery.cancel()


@dataclass(slots=True)
class _Item:
    event: Shown | None
    """None: `idle`."""
    size: int
    more: io.StringIO | None = None
    """Text that belongs behind the event's own: joined once, for each time would be quadratic in its length."""

    @property
    def kept(self) -> int:
        """Its bytes, if it may not be left out."""
        return 0 if isinstance(self.event, _STREAMED) else self.size

    def merge(self, event: Text | Reasoning | ToolOutput) -> int:
        """Take in more of the same text; how many bytes that added, 0 if it is not the same."""
        if self.event is None or stream_of(self.event) != stream_of(event):
            return 0
        if self.more is None:
            self.more = io.StringIO()
        self.more.write(event.delta)
        added = sys.getsizeof(event.delta) - _EMPTY + 1
        self.size += added
        return added

    def whole(self) -> Shown:
        """The event with all of its text."""
        assert self.event is not None, "there is an event"
        if self.more is None:
            return self.event
        assert isinstance(self.event, _STREAMED), "only those are merged"
        return replace(self.event, delta=self.event.delta + self.more.getvalue())
