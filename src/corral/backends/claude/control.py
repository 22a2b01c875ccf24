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
from corral.backends.peer import REQUEST_TIMEOUT, Peer, read_messages
from corral.backends.unicode import Altered

log = logging.getLogger(__name__)


class Handler(Protocol):
    """What the owner of a connection does with what claude sends by itself."""

    def on_line(self, head: wire.Head, line: bytes) -> None:
        """Handle a line that is not a control message, without waiting. msgspec.DecodeError: it is skipped."""

    def on_lost(self, why: str) -> None:
        """Called for a line that was dropped."""

    async def on_request(self, request_id: str, request: msgspec.Raw) -> object:
        """Answer a control request of claude with a JSON value, or raise RefusedError."""


class ControlConnection:
    """Claude's peer. `run` reads until claude ends its output; its owner holds that task."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, handler: Handler) -> None:
        self.peer = Peer(writer)
        self._reader = reader
        self._handler = handler
        self._heads = msgspec.json.Decoder(wire.Head)

    async def run(self) -> None:
        """Read and dispatch until the end of claude's output; then every open request fails."""
        try:
            await read_messages(self._reader, self._dispatch, self._handler.on_lost)
        finally:
            self.peer.close()

    async def request(self, subtype: str, timeout: float = REQUEST_TIMEOUT, **fields: object) -> msgspec.Raw:
        """Send a control request and wait for its result, `timeout` seconds at the most (TimeoutError).

        Raises RefusedError, or ConnectionEndedError.
        """
        key = uuid.uuid4().hex
        message = {"type": "control_request", "request_id": key, "request": {"subtype": subtype, **fields}}
        async with asyncio.timeout(timeout):
            return await self.peer.ask(key, message)

    async def say(self, message_id: str, content: object) -> None:
        """Send a user message under a uuid, by which claude tells what becomes of it."""
        message = {"role": "user", "content": content}
        await self.peer.send({"type": "user", "uuid": message_id, "message": message})

    def _dispatch(self, line: bytes) -> None:
        head = self._heads.decode(line)
        match head.type:
            case "control_response":
                reply = msgspec.json.decode(line, type=wire.ReplyLine).response
                failed = reply.subtype == "error"
                self.peer.settle(reply.request_id, RefusedError(reply.error) if failed else reply.response)
            case "control_request":
                request = msgspec.json.decode(line, type=wire.RequestLine)
                # What a request asks for is not known once it was cut.
                is_cut = isinstance(line, Altered) and line.cut
                self.peer.answer(request.request_id, self._answer(request, is_cut=is_cut))
            case "control_cancel_request":
                self.peer.drop(msgspec.json.decode(line, type=wire.RequestLine).request_id)
            case _:
                self._handler.on_line(head, line)

    async def _answer(self, request: wire.RequestLine, *, is_cut: bool) -> None:
        reply: Mapping[str, Any]
        try:
            if is_cut:
                raise RefusedError("the request is too large for this client")
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
            await self.peer.send({"type": "control_response", "response": {"request_id": request.request_id, **reply}})
        except ConnectionEndedError as error:
            log.debug("an answer came too late: %s", error)
