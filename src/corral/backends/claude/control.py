"""stream-json with claude over a job's pipes: user messages, and control requests both ways."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Mapping
from typing import Any, Protocol

import msgspec

from corral.backends.claude import wire
from corral.backends.errors import ConnectionEndedError, RefusedError
from corral.backends.exchange import REQUEST_TIMEOUT, Exchange
from corral.backends.jsonl import TooLong, read_lines

log = logging.getLogger(__name__)


class Handler(Protocol):
    """What the owner of a connection does with what claude sends by itself."""

    def on_line(self, head: wire.Head, line: bytes) -> None:
        """Take a line that is no control message; it must not wait. msgspec.DecodeError: it is skipped."""

    def on_too_long(self, size: int) -> None:
        """Hear that a line of so many bytes was dropped."""

    async def on_request(self, request_id: str, request: msgspec.Raw) -> object:
        """Answer a control request of claude with a JSON value, or raise RefusedError."""


class ControlConnection:
    """Claude's peer. `run` reads until claude ends its output; its owner holds that task."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, handler: Handler) -> None:
        self.exchange = Exchange(writer)
        self._reader = reader
        self._handler = handler

    async def run(self) -> None:
        """Read and dispatch until the end of claude's output; then every open request fails."""
        heads = msgspec.json.Decoder(wire.Head)
        try:
            async for line in read_lines(self._reader):
                if isinstance(line, TooLong):
                    self._handler.on_too_long(line)
                    continue
                try:
                    self._dispatch(heads.decode(line), line)
                except (ValueError, OverflowError, RecursionError) as error:
                    log.warning("skipped a line of %d bytes that is not as expected: %s", len(line), error)
        finally:
            self.exchange.close()

    async def request(self, subtype: str, timeout: float = REQUEST_TIMEOUT, **fields: object) -> msgspec.Raw:
        """Send a control request and wait for its result, `timeout` seconds at the most (TimeoutError).

        Raises RefusedError, or ConnectionEndedError.
        """
        key = uuid.uuid4().hex
        message = {"type": "control_request", "request_id": key, "request": {"subtype": subtype, **fields}}
        async with asyncio.timeout(timeout):
            return await self.exchange.ask(key, message)

    async def say(self, message_id: str, content: object) -> None:
        """Send a user message under a uuid, by which claude tells what becomes of it."""
        message = {"role": "user", "content": content}
        await self.exchange.send({"type": "user", "uuid": message_id, "message": message})

    def _dispatch(self, head: wire.Head, line: bytes) -> None:
        match head.type:
            case "control_response":
                reply = msgspec.json.decode(line, type=wire.ReplyLine).response
                failed = reply.subtype == "error"
                self.exchange.settle(reply.request_id, RefusedError(reply.error) if failed else reply.response)
            case "control_request":
                request = msgspec.json.decode(line, type=wire.RequestLine)
                self.exchange.answer(request.request_id, self._answer(request))
            case "control_cancel_request":
                self.exchange.drop(msgspec.json.decode(line, type=wire.RequestLine).request_id)
            case _:
                self._handler.on_line(head, line)

    async def _answer(self, request: wire.RequestLine) -> None:
        reply: Mapping[str, Any]
        try:
            reply = {
                "subtype": "success",
                "response": await self._handler.on_request(request.request_id, request.request),
            }
        except RefusedError as error:
            reply = {"subtype": "error", "error": str(error)}
        except Exception as error:  # noqa: BLE001 - whatever fails in answering, claude waits until it is answered
            log.warning("could not answer a request of claude's: %r", error)
            reply = {"subtype": "error", "error": "the client could not answer"}
        try:
            await self.exchange.send(
                {"type": "control_response", "response": {"request_id": request.request_id, **reply}}
            )
        except ConnectionEndedError as error:
            log.debug("an answer came too late: %s", error)
