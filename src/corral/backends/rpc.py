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
from corral.backends.peer import REQUEST_TIMEOUT, Peer, read_messages
from corral.backends.unicode import Altered

log = logging.getLogger(__name__)

RequestId: TypeAlias = int | str

OVERLOADED = -32001  # the engine's queue is full: the same request may be sent again
METHOD_NOT_FOUND = -32601
INTERNAL_ERROR = -32603
MOST_NAME = 100  # characters of a method in the log
FIRST_RETRY, LAST_RETRY = 0.1, 2.0  # seconds


class Failure(msgspec.Struct):
    """The `error` of a reply."""

    code: int
    message: str = ""


class Message(msgspec.Struct):
    """Any line of the protocol. `params` and `result` stay raw until they are needed."""

    id: RequestId | None = None
    method: str | None = None
    params: msgspec.Raw = msgspec.Raw(b"null")
    result: msgspec.Raw = msgspec.Raw(b"null")
    error: Failure | None = None


class Handler(Protocol):
    """What the owner of a connection does with what the engine sends by itself."""

    def on_notification(self, method: str, params: msgspec.Raw, line: bytes) -> None:
        """Handle a notification, and the line that it came in, without waiting."""

    def on_lost(self, why: str) -> None:
        """Called for a message that was dropped."""

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
        self.peer = Peer(writer)
        self._reader = reader
        self._handler = handler
        self._sleep = sleep
        self._ids = itertools.count(1)
        self._decoder = msgspec.json.Decoder(Message)

    async def run(self) -> None:
        """Read and dispatch until the end of the engine's output; then every open request fails."""
        try:
            await read_messages(self._reader, self._dispatch, self._handler.on_lost)
        finally:
            self.peer.close()

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
                    return await self.peer.ask(number, {"id": number, "method": method, "params": params})
                except RequestError as error:
                    if error.code != OVERLOADED:
                        raise RequestError(method, error.code, error.reason) from None
                await self._sleep(pause * random.uniform(0.5, 1.0))
                pause = min(pause * 2, LAST_RETRY)

    async def notify(self, method: str) -> None:
        """Send a notification without parameters."""
        await self.peer.send({"method": method})

    def _dispatch(self, line: bytes) -> None:
        message = self._decoder.decode(line)
        if message.method is not None and message.id is not None:
            # What a request asks for is not known once it was cut.
            params = None if isinstance(line, Altered) and line.cut else message.params
            self.peer.answer(message.id, self._answer(message.id, message.method, params))
        elif message.method is not None:
            self._handler.on_notification(message.method, message.params, line)
        elif message.id is not None and message.error is not None:
            self.peer.settle(message.id, RequestError("request", message.error.code, message.error.message))
        elif message.id is not None:
            self.peer.settle(message.id, message.result)

    async def _answer(self, request_id: RequestId, method: str, params: msgspec.Raw | None) -> None:
        reply: dict[str, Any]
        try:
            if params is None:
                raise RequestError(method, INTERNAL_ERROR, "the request is too large for this client")
            reply = {"result": await self._handler.on_request(request_id, method, params)}
        except RequestError as error:
            reply = {"error": {"code": error.code, "message": error.reason}}
        except Exception as error:  # noqa: BLE001 - whatever fails in answering, the engine waits until it is answered
            log.warning("could not answer %s: %r", method[:MOST_NAME], error)
            reply = {"error": {"code": INTERNAL_ERROR, "message": f"the client could not answer {method}"}}
        try:
            await self.peer.send({"id": request_id, **reply})
        except ConnectionEndedError as error:
            log.debug("the answer to %s came too late: %s", method, error)
