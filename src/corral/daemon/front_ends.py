"""The front ends of a service: which there are, their start, their failures and their end.

To add one: a package with `start(service)`, and its line in FRONT_ENDS (docs/how-to/front-end.md).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from corral.config import Config
from corral.remote import server as socket
from corral.service.front_end import FrontEnd, FrontEndError
from corral.tasks import Tasks

if TYPE_CHECKING:
    from corral.service.service import Service

log = structlog.get_logger(__name__)

START_TIMEOUT = 60.0  # seconds
CLOSE_TIMEOUT = 5.0  # seconds, for all of them together


@dataclass(frozen=True, slots=True)
class Entry:
    """One front end of the list."""

    name: str
    """For logs and messages."""
    wanted: Callable[[Config], bool]
    """Whether the configuration asks for it."""
    start: Callable[[Service], Awaitable[FrontEnd]]


FRONT_ENDS = (Entry("socket", lambda _config: True, socket.start),)


class FrontEnds:
    """Those that the configuration asked for at the start. One that fails later is closed, and the others go on."""

    def __init__(self, service: Service, entries: Sequence[Entry], changed: Callable[[], None]) -> None:
        """`changed`: called when `failed` has changed."""
        self._service = service
        self._entries = entries
        self._changed = changed
        self._running: dict[str, FrontEnd] = {}
        self._watching = Tasks(_log)
        self._work = Tasks(lambda _: None)  # starts and closes, whose errors are told where they are awaited
        self.failed: dict[str, str] = {}
        """Those that ended by themselves, each with its error."""

    async def start(self) -> None:
        """Start each that is wanted. Raises FrontEndError for the first that fails; the others are closed then."""
        try:
            for entry in self._wanted():
                self._running[entry.name] = await self._start(entry)
        except BaseException:
            await self.close()
            raise
        for name, front_end in self._running.items():
            self._watching.own(self._watch(name, front_end))

    def reloaded(self) -> None:
        """Tell each that the service has another configuration."""
        wanted = {entry.name for entry in self._wanted()}
        if changed := wanted ^ (self._running.keys() | self.failed.keys()):
            log.warning("front ends are started at the start only: restart the service", front_ends=sorted(changed))
        for name, front_end in self._running.items():
            try:
                front_end.reloaded()
            except Exception:  # the others, and the reload, go on
                log.exception("a front end failed at a reload", front_end=name)

    async def close(self) -> None:
        """Close all at once; one that hangs is left after CLOSE_TIMEOUT."""
        self._watching.cancel()
        running, self._running = self._running, {}
        for name, front_end in running.items():
            self._work.own(self._close(name, front_end))
        await self._work.settle(2 * CLOSE_TIMEOUT)

    # Internals.

    def _wanted(self) -> list[Entry]:
        return [entry for entry in self._entries if entry.wanted(self._service.config)]

    async def _start(self, entry: Entry) -> FrontEnd:
        starting = self._work.own(_run(entry.start(self._service)))
        # Not by cancelling alone: a front end that does not let itself be cancelled would hang the start.
        await asyncio.wait([starting], timeout=START_TIMEOUT)
        if not starting.done():
            starting.cancel()
            raise FrontEndError(f"{entry.name}: it did not start within {START_TIMEOUT:g} s")
        try:
            return starting.result()
        except FrontEndError as error:
            raise FrontEndError(f"{entry.name}: {error}") from error
        except Exception as error:
            log.exception("a front end failed to start", front_end=entry.name)
            raise FrontEndError(f"{entry.name}: a fault in this front end: {error!r}") from error

    async def _watch(self, name: str, front_end: FrontEnd) -> None:
        try:
            await front_end.wait_closed()
        except Exception as error:
            log.exception("a front end has failed; the others go on", front_end=name)
            self.failed[name] = str(error) or repr(error)
        else:
            log.error("a front end has ended by itself; the others go on", front_end=name)
            self.failed[name] = "it ended by itself"
        del self._running[name]
        self._work.own(self._close(name, front_end))
        self._changed()

    async def _close(self, name: str, front_end: FrontEnd) -> None:
        closing = self._work.own(front_end.close())
        await asyncio.wait([closing], timeout=CLOSE_TIMEOUT)
        if not closing.done():
            closing.cancel()
            log.error("a front end did not close in time, and is left", front_end=name, seconds=CLOSE_TIMEOUT)
        elif not closing.cancelled() and (error := closing.exception()) is not None:
            log.error("a front end could not be closed", front_end=name, exc_info=error)


async def _run(starting: Awaitable[FrontEnd]) -> FrontEnd:
    return await starting


def _log(error: BaseException | None) -> None:
    if error is not None:
        log.error("watching a front end failed", exc_info=error)
