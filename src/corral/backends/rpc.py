"""JSON-RPC with an engine over a job's pipes: requests both ways, notifications, and what happens when it dies."""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
import time
from collections.abc import Awaitable, Callable
from typing import Any, Protocol, TypeAlias

import msgspec

from corral.backends.errors import ConnectionEndedError, RequestError
from corral.backends.jsonl import read_lines

log = logging.getLogger(__name__)

RequestId: TypeAlias = int | str

OVERLOADED = -32001  # the engine's queue is full: the same request may be sent again
METHOD_NOT_FOUND = -32601
INTERNAL_ERROR = -32603
REQUEST_TIMEOUT = 30.0  # seconds, retries included
WRITE_TIMEOUT = 10.0  # seconds that the engine may leave its input unread
FIRST_RETRY, LAST_RETRY = 0.1, 2.0  # seconds


class Failure(msgspec.Struct):
    """The `error` of a reply."""

    code: int
    message: str = ""


class Message(msgspec.Struct):
    """Any line of the protocol. `params` and `result` stay raw until somebody needs them."""

    id: RequestId | None = None
    method: str | None = None
    params: msgspec.Raw = msgspec.Raw(b"null")
    result: msgspec.Raw = msgspec.Raw(b"null")
    error: Failure | None = None


class Handler(Protocol):
    """What the owner of a connection does with what the engine sends by itself."""

    def on_notification(self, method: str, params: msgspec.Raw) -> None:
        """Take a notification; it must not wait."""

    async def on_request(self, request_id: RequestId, method: str, params: msgspec.Raw) -> object:
        """Answer a request of the engine with a JSON value, or raise RequestError to refuse it."""


Sleep: TypeAlias = Callable[[float], Awaitable[None]]


class RpcConnection:
    """A JSON-RPC peer. `run` reads until the engine ends its output; its owner holds that task."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        handler: Handler,
        *,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self.last_read = time.monotonic()
        self.ended = False
        self._reader = reader
        self._writer = writer
        self._handler = handler
        self._sleep = sleep
        self._ids = itertools.count(1)
        self._waiting: dict[RequestId, asyncio.Future[msgspec.Raw]] = {}
        self._answering: dict[RequestId, asyncio.Task[None]] = {}

    async def run(self) -> None:
        """Read and dispatch until the end of the engine's output; then every open request fails."""
        decoder = msgspec.json.Decoder(Message)
        try:
            async for line in read_lines(self._reader):
                self.last_read = time.monotonic()
                try:
                    message = decoder.decode(line)
                except (msgspec.DecodeError, UnicodeDecodeError) as error:
                    log.warning("skipped a line that is no message: %s: %.200r", error, line)
                    continue
                self._dispatch(message)
        finally:
            self.close()

    def close(self) -> None:
        """Fail the open requests and drop the open answers; the pipes stay the owner's."""
        self.ended = True
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(ConnectionEndedError("the engine ended before it answered"))
        self._waiting.clear()
        for task in self._answering.values():
            task.cancel()

    async def request(self, method: str, params: object, *, timeout: float = REQUEST_TIMEOUT) -> msgspec.Raw:
        """Send a request and wait for its result, `timeout` seconds at the most (TimeoutError).

        A request that the engine was too busy to take is sent again, with growing, jittered pauses. Raises
        RequestError, or ConnectionEndedError.
        """
        pause = FIRST_RETRY
        async with asyncio.timeout(timeout):
            while True:
                try:
                    return await self._request_once(method, params)
                except RequestError as error:
                    if error.code != OVERLOADED:
                        raise
                await self._sleep(pause * random.uniform(0.5, 1.0))
                pause = min(pause * 2, LAST_RETRY)

    async def notify(self, method: str) -> None:
        """Send a notification without parameters."""
        await self._send({"method": method})

    def drop_request(self, request_id: RequestId) -> None:
        """Stop working on an answer that the engine waits for no more."""
        if task := self._answering.get(request_id):
            task.cancel()

    async def settle(self, timeout: float) -> None:
        """Wait for the cancelled answers to be gone, `timeout` seconds at the most."""
        if self._answering:
            await asyncio.wait(list(self._answering.values()), timeout=timeout)

    async def _request_once(self, method: str, params: object) -> msgspec.Raw:
        if self.ended:
            raise ConnectionEndedError("the engine has ended")
        number = next(self._ids)
        future: asyncio.Future[msgspec.Raw] = asyncio.get_running_loop().create_future()
        self._waiting[number] = future
        try:
            await self._send({"id": number, "method": method, "params": params})
            return await future
        except RequestError as error:
            raise RequestError(method, error.code, error.reason) from None
        finally:
            self._waiting.pop(number, None)

    async def _send(self, message: dict[str, Any]) -> None:
        try:
            self._writer.write(msgspec.json.encode(message) + b"\n")
            async with asyncio.timeout(WRITE_TIMEOUT):
                await self._writer.drain()
        except TimeoutError as error:
            raise ConnectionEndedError(f"the engine has not read its input for {WRITE_TIMEOUT:g} s") from error
        except (OSError, RuntimeError) as error:  # RuntimeError: the transport is closed already
            raise ConnectionEndedError(f"the engine takes no more input: {error}") from error

    def _dispatch(self, message: Message) -> None:
        if message.method is not None and message.id is not None:
            self._start_answer(message.id, message.method, message.params)
        elif message.method is not None:
            self._handler.on_notification(message.method, message.params)
        elif message.id is not None:
            self._settle_request(message.id, message)

    def _settle_request(self, request_id: RequestId, message: Message) -> None:
        future = self._waiting.get(request_id)
        if future is None or future.done():
            log.debug("a reply to %r, which nobody waits for", request_id)
        elif message.error is not None:
            future.set_exception(RequestError("request", message.error.code, message.error.message))
        else:
            future.set_result(message.result)

    def _start_answer(self, request_id: RequestId, method: str, params: msgspec.Raw) -> None:
        task = asyncio.get_running_loop().create_task(self._answer(request_id, method, params))
        self._answering[request_id] = task
        task.add_done_callback(lambda _: self._answering.pop(request_id, None))

    async def _answer(self, request_id: RequestId, method: str, params: msgspec.Raw) -> None:
        reply: dict[str, Any]
        try:
            reply = {"result": await self._handler.on_request(request_id, method, params)}
        except RequestError as error:
            reply = {"error": {"code": error.code, "message": error.reason}}
        except Exception as error:  # noqa: BLE001 - whatever fails in answering, the engine waits until it is answered
            log.warning("could not answer %s: %r", method, error)
            reply = {"error": {"code": INTERNAL_ERROR, "message": f"the client could not answer {method}"}}
        try:
            await self._send({"id": request_id, **reply})
        except ConnectionEndedError as error:
            log.debug("the answer to %s came too late: %s", method, error)
