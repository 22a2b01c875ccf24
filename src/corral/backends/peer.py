"""Lines of JSON to an engine, and what both sides wait for: replies to our requests, and our answers to its own."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Coroutine, Hashable
from typing import Any, TypeVar

import msgspec

from corral.backends.errors import BackendError, ConnectionEndedError
from corral.backends.jsonl import TooLong, read_lines
from corral.tasks import Tasks

log = logging.getLogger(__name__)

T = TypeVar("T")

TOLD_SKIPS = 10
REQUEST_TIMEOUT = 30.0  # seconds for a reply, retries included
OPENING_TIMEOUT = 120.0  # seconds for a reply before the first turn; `EngineProcess.open` waits for less
WRITE_TIMEOUT = 10.0  # seconds that the engine may leave its input unread


class Skipped:
    """Tells the log what was skipped of an engine's output: the first few times, and then how often so far."""

    def __init__(self) -> None:
        self._count = 0

    def note(self, what: str, *args: object) -> None:
        """Something was skipped; `what` and `args` as for `logging`."""
        self._count += 1
        if self._count <= TOLD_SKIPS:
            log.warning(f"skipped {what}", *args)  # noqa: G004 - `what` is a format of ours
        elif self._count & (self._count - 1) == 0:
            log.warning("skipped %d messages so far", self._count)


async def read_messages(
    reader: asyncio.StreamReader, take: Callable[[bytes], None], on_lost: Callable[[str], None]
) -> None:
    """Read lines until the end of the engine's output, and hand each to `take`, which must not wait.

    A line that `take` does not understand (ValueError) is skipped; `on_lost` is called for one that is too long, and
    for one that could not be handled.
    """
    skipped = Skipped()
    async for line in read_lines(reader, decodable=True):
        if isinstance(line, TooLong):
            on_lost(f"a line of {line:,} bytes, more than is read")
            continue
        try:
            take(line)
        except (ValueError, OverflowError, RecursionError) as error:
            skipped.note("a line of %d bytes that is not as expected: %s", len(line), error)
        except Exception as error:  # whatever one line brings about, the engine is read on
            log.exception("a line of the engine could not be handled")
            on_lost(f"a line that could not be handled: {error!r:.200}")


def decode_reply(engine: str, reply: msgspec.Raw, kind: type[T]) -> T:
    """The reply as what it should be. Raises BackendError."""
    try:
        return msgspec.json.decode(reply, type=kind)
    except msgspec.DecodeError as error:
        raise BackendError(f"{engine} sent a reply that is not understood: {error}") from error


class Peer:
    """The writing half of a connection, whichever protocol is spoken over it."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self.ended = False
        self._writer = writer
        self._waiting: dict[Hashable, asyncio.Future[msgspec.Raw]] = {}
        self._answering: dict[Hashable, asyncio.Task[None]] = {}
        self._tasks = Tasks(_log_fault)

    async def send(self, message: object) -> None:
        """Write one line. Raises ConnectionEndedError if the engine does not take it."""
        try:
            self._writer.write(_line(message))
            async with asyncio.timeout(WRITE_TIMEOUT):
                await self._writer.drain()
        except TimeoutError as error:
            raise ConnectionEndedError(f"the engine has not read its input for {WRITE_TIMEOUT:g} s") from error
        except (OSError, RuntimeError) as error:  # RuntimeError: the transport is closed already
            raise ConnectionEndedError(f"the engine takes no more input: {error}") from error

    async def ask(self, key: Hashable, message: object) -> msgspec.Raw:
        """Send a request and wait for `settle(key)`; the caller bounds that. Raises what it is settled with."""
        if self.ended:
            raise ConnectionEndedError("the engine has ended")
        future: asyncio.Future[msgspec.Raw] = asyncio.get_running_loop().create_future()
        self._waiting[key] = future
        try:
            await self.send(message)
            return await future
        finally:
            self._waiting.pop(key, None)

    def settle(self, key: Hashable, result: msgspec.Raw | Exception) -> None:
        """The reply to a request came."""
        future = self._waiting.get(key)
        if future is None or future.done():
            log.debug("a late reply to %r", key)
        elif isinstance(result, Exception):
            future.set_exception(result)
        else:
            future.set_result(result)

    def answer(self, key: Hashable, work: Coroutine[Any, Any, None]) -> None:
        """Answer a request of the engine in a task of its own."""
        task = self._tasks.own(work)
        self._answering[key] = task
        task.add_done_callback(lambda _: self._answering.pop(key, None))

    def drop(self, key: Hashable) -> None:
        """Stop working on an answer that the engine no longer waits for."""
        if task := self._answering.get(key):
            task.cancel()

    def close(self) -> None:
        """Fail the open requests and drop the open answers; the pipe stays its owner's."""
        self.ended = True
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(ConnectionEndedError("the engine ended before it answered"))
        self._waiting.clear()
        self._tasks.cancel()

    async def finish(self, timeout: float) -> None:
        """Wait for the cancelled answers to be gone, `timeout` seconds at the most."""
        await self._tasks.settle(timeout)


def _log_fault(error: BaseException | None) -> None:
    if error is not None:
        log.error("a request of the engine was not answered", exc_info=error)


def _line(message: object) -> bytes:
    try:
        return msgspec.json.encode(message) + b"\n"
    except UnicodeEncodeError:  # half a surrogate pair, as in a file name that is not UTF-8
        return json.dumps(message, ensure_ascii=False).encode(errors="replace") + b"\n"
