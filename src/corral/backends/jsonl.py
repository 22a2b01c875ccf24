"""Lines of JSON from a pipe, whatever their length: no stream limit of asyncio's that would end a turn."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio

log = logging.getLogger(__name__)

MAX_LINE = 256 * 1024 * 1024  # bytes; a longer line is dropped, and the stream goes on behind it
READ_SIZE = 64 * 1024  # bytes


async def read_lines(reader: asyncio.StreamReader, *, max_line: int = MAX_LINE) -> AsyncIterator[bytes]:
    """Yield the lines that hold something, without their ends; what follows the last line end counts as a line.

    It reads by `read(n)`: `readline` would raise at the reader's own limit (64 KiB by default) and lose its place. It
    ends at the end of input; the caller bounds how long it listens.
    """
    parts: list[bytes] = []
    length = 0
    while chunk := await reader.read(READ_SIZE):
        *ended, rest = chunk.split(b"\n")
        for piece in ended:
            line = _join(parts, length + len(piece), piece, max_line)
            parts, length = [], 0
            if line:
                yield line
        length += len(rest)
        if length > max_line:
            parts.clear()  # memory stays bounded; `length` remembers that this line is too long
        else:
            parts.append(rest)
    if line := _join(parts, length, b"", max_line):
        yield line


def _join(parts: list[bytes], length: int, piece: bytes, max_line: int) -> bytes:
    if length > max_line:
        log.warning("a line of %d bytes was dropped: over the bound of %d", length, max_line)
        return b""
    return b"".join([*parts, piece]).strip()
