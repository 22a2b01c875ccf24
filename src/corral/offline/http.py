"""As much of HTTP/1.1 as a loopback model needs: one bounded request a connection, a plain or a streamed reply."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

MAX_HEAD = 64 * 1024  # bytes
MAX_BODY = 64 * 1024 * 1024  # bytes; agents send the whole conversation, pictures included, each time
IO_TIMEOUT = 30.0  # seconds without progress in reading a request or in writing a reply

REASONS = {200: "OK", 400: "Bad Request", 404: "Not Found", 411: "Length Required", 413: "Content Too Large"}


class BadRequest(Exception):
    """A request that gets an error reply."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class HungUp(Exception):
    """The agent closed the connection."""


@dataclass(frozen=True, slots=True)
class Request:
    """One request; header names are in lower case."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> dict[str, Any]:
        """The body as a JSON object; BadRequest if it is none."""
        try:
            value = json.loads(self.body)
        except ValueError as error:
            raise BadRequest(400, f"the body is not JSON: {error}") from error
        if not isinstance(value, dict):
            raise BadRequest(400, "the body is not a JSON object")
        return value


async def read_request(reader: asyncio.StreamReader) -> Request | None:
    """Read one request within the bounds; None where the connection is closed before one begins.

    Raises BadRequest, or TimeoutError when nothing comes for IO_TIMEOUT seconds.
    """
    try:
        async with asyncio.timeout(IO_TIMEOUT):
            head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.LimitOverrunError as error:
        raise BadRequest(413, f"the request head is over {MAX_HEAD} bytes") from error
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
    first, *lines = head.decode("latin-1").split("\r\n")
    parts = first.split(" ")
    if len(parts) != 3:
        raise BadRequest(400, "the request line is malformed")
    fields = (line.partition(":") for line in lines if line)
    headers = {name.strip().lower(): value.strip() for name, _, value in fields}
    body = await _read_body(reader, headers)
    return Request(parts[0], parts[1].partition("?")[0], headers, body)


async def _read_body(reader: asyncio.StreamReader, headers: Mapping[str, str]) -> bytes:
    if "transfer-encoding" in headers:
        raise BadRequest(411, "send a Content-Length: chunked requests are not read here")
    length = headers.get("content-length", "0")
    if not length.isdecimal():
        raise BadRequest(400, "Content-Length is not a number")
    if int(length) > MAX_BODY:
        raise BadRequest(413, f"the body is over {MAX_BODY} bytes")
    body = bytearray()
    while len(body) < int(length):
        try:
            async with asyncio.timeout(IO_TIMEOUT):
                chunk = await reader.read(int(length) - len(body))
        except ConnectionError as error:
            raise HungUp from error
        if not chunk:
            raise HungUp
        body += chunk
    return bytes(body)


async def send_json(writer: asyncio.StreamWriter, status: int, value: object) -> None:
    """Send a whole reply."""
    body = json.dumps(value).encode()
    await _send(writer, _head(status, "application/json", f"content-length: {len(body)}\r\n") + body)


async def send_head(writer: asyncio.StreamWriter) -> None:
    """Answer a HEAD request."""
    await _send(writer, _head(200, "text/plain", "content-length: 0\r\n"))


async def start_stream(writer: asyncio.StreamWriter) -> None:
    """Begin a reply of server-sent events; it ends when the connection is closed."""
    await _send(writer, _head(200, "text/event-stream", "cache-control: no-store\r\n"))


async def send_event(writer: asyncio.StreamWriter, kind: str, data: Mapping[str, Any]) -> None:
    """Send one server-sent event, at once."""
    await _send(writer, f"event: {kind}\ndata: {json.dumps({'type': kind, **data})}\n\n".encode())


async def pause(reader: asyncio.StreamReader, seconds: float) -> None:
    """Wait, but no longer than the agent holds the connection: HungUp if it closes it."""
    if seconds <= 0:
        return
    try:
        async with asyncio.timeout(seconds):
            # One request a connection: whatever comes now is not read, and the end of input is the agent hanging up.
            while await reader.read(4096):
                pass
    except TimeoutError:
        return
    except ConnectionError as error:
        raise HungUp from error
    raise HungUp


def _head(status: int, kind: str, more: str) -> bytes:
    reason = REASONS.get(status, "Status")
    return f"HTTP/1.1 {status} {reason}\r\ncontent-type: {kind}\r\n{more}connection: close\r\n\r\n".encode()


async def _send(writer: asyncio.StreamWriter, data: bytes) -> None:
    try:
        writer.write(data)
        async with asyncio.timeout(IO_TIMEOUT):
            await writer.drain()
    except (ConnectionError, TimeoutError) as error:
        raise HungUp from error
