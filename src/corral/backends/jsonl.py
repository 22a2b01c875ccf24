"""Lines of JSON from a pipe, whatever their length: no stream limit of asyncio's that would end a turn."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio

MAX_LINE = 64 * 1024 * 1024  # bytes; a longer line is dropped, and the stream goes on behind it
READ_SIZE = 64 * 1024  # bytes
# JavaScript writes half a surrogate pair as it is; msgspec then refuses the whole line, be it the end of a turn.
SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


class TooLong(int):
    """Stands for a line that was dropped: its length in bytes."""


async def read_lines(reader: asyncio.StreamReader, *, max_line: int = MAX_LINE) -> AsyncIterator[bytes | TooLong]:
    """Yield the lines that hold something, without their ends; what follows the last line end counts as a line.

    A line of more than `max_line` bytes takes no more memory than that, and a TooLong its place.

    It reads by `read(n)`: `readline` would raise at the reader's own limit (64 KiB by default) and lose its place. It
    ends at the end of input; the caller bounds how long it listens.
    """
    parts: list[bytes] = []
    length = 0
    while chunk := await reader.read(READ_SIZE):
        *ended, rest = chunk.split(b"\n")
        for piece in ended:
            size = length + len(piece)
            line = b"".join([*parts, piece]).strip() if size <= max_line else TooLong(size)
            parts, length = [], 0
            if line:
                yield line if isinstance(line, TooLong) else readable(line)
        length += len(rest)
        if length > max_line:
            parts.clear()  # memory stays bounded; `length` remembers that this line is too long
        else:
            parts.append(rest)
    line = b"".join(parts).strip() if length <= max_line else TooLong(length)
    if line:
        yield line if isinstance(line, TooLong) else readable(line)


def readable(line: bytes) -> bytes:
    """The line with U+FFFD or "?" for what is no Unicode; as it is, where that is not its fault."""
    try:
        line.decode()
        if SURROGATE.search(line) is None:
            return line
    except UnicodeDecodeError:
        pass
    try:
        return json.dumps(json.loads(line.decode(errors="replace")), ensure_ascii=False).encode(errors="replace")
    except (ValueError, RecursionError):
        return line
