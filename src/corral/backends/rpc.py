"""JSON-RPC with an engine over a job's pipes: requests both ways, notifications, and what happens when it dies."""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
from collections.abc import Awaitable, Callable
from typing import Any, Protocol, TypeAlias

import msgspec

from corral.backends.errors import ConnectionEndedError, RequestError
from corral.backends.exchange import REQUEST_TIMEOUT, Exchange
from corral.backends.jsonl import TooLong, read_lines

log = logging.getLogger(__name__)

RequestId: TypeAlias = int | str

OVERLOADED = -32001  # the engine's queue is full: the same request may be sent again
METHOD_NOT_FOUND = -32601
INTERNAL_ERROR = -32603
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

    def on_too_long(self, size: int) -> None:
        """Hear that a message of so many bytes was dropped."""

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
        self.exchange = Exchange(writer)
        self._reader = reader
        self._handler = handler
        self._sleep = sleep
        self._ids = itertools.count(1)

    async def run(self) -> None:
        """Read and dispatch until the end of the engine's output; then every open request fails."""
        decoder = msgspec.json.Decoder(Message)
        try:
            async for line in read_lines(self._reader):
                if isinstance(line, TooLong):
                    self._handler.on_too_long(line)
                    continue
                try:
                    message = decoder.decode(line)
                except (ValueError, OverflowError, RecursionError) as error:
                    log.warning("skipped a line of %d bytes that is no message: %s", len(line), error)
                    continue
                self._dispatch(message)
        finally:
            self.exchange.close()

    async def request(self, method: str, params: object, *, timeout: float = REQUEST_TIMEOUT) -> msgspec.Raw:
        """Send a request and wait for its result, `timeout` seconds at the most (TimeoutError).

        A request that the engine was too busy to take is sent again, with growing, jittered pauses. Raises
        RequestError, or ConnectionEndedError.
        """
        pause = FIRST_RETRY
        async with asyncio.timeout(timeout):
            while True:
                number = next(self._ids)
                try:
                    return await self.exchange.ask(number, {"id": number, "method": method, "params": params})
                except RequestError as error:
                    if error.code != OVERLOADED:
                        raise RequestError(method, error.code, error.reason) from None
                await self._sleep(pause * random.uniform(0.5, 1.0))
                pause = min(pause * 2, LAST_RETRY)

    async def notify(self, method: str) -> None:
        """Send a notification without parameters."""
        await self.exchange.send({"method": method})

    def _dispatch(self, message: Message) -> None:
        if message.method is not None and message.id is not None:
            self.exchange.answer(message.id, self._answer(message.id, message.method, message.params))
        elif message.method is not None:
            self._handler.on_notification(message.method, message.params)
        elif message.id is not None and message.error is not None:
            self.exchange.settle(message.id, RequestError("request", message.error.code, message.error.message))
        elif message.id is not None:
            self.exchange.settle(message.id, message.result)

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
            await self.exchange.send({"id": request_id, **reply})
        except ConnectionEndedError as error:
            log.debug("the answer to %s came too late: %s", method, error)
