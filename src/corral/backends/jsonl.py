"""Lines of JSON from a pipe, whatever their length: no stream limit of asyncio's that would end a turn."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from corral.backends.oversize import LARGE, cut
from corral.backends.pace import Pace
from corral.backends.unicode import Altered, is_plain, repaired

if TYPE_CHECKING:
    import asyncio

MAX_LINE = 64 * 1024 * 1024  # bytes; a longer line is dropped, and the stream goes on behind it
READ_SIZE = 64 * 1024  # bytes
LINES_AT_ONCE = 32  # between two looks at the clock


class TooLong(int):
    """Stands for a line that was dropped: its length in bytes."""


async def read_lines(
    reader: asyncio.StreamReader, *, max_line: int = MAX_LINE, decodable: bool = False
) -> AsyncIterator[bytes | TooLong]:
    """Yield the lines that hold something, without their ends; what follows the last line end counts as a line.

    A line of more than `max_line` bytes takes no more memory than that, and a TooLong its place. `decodable`: the lines
    are JSON, and are made fit for the decoder (`prepared`).

    However much there is to read, other tasks get the loop in between.

    It reads by `read(n)`: `readline` would raise at the reader's own limit (64 KiB by default) and lose its place. It
    ends at the end of input; the caller bounds how long it listens.
    """
    pace = Pace()
    before = bytearray()  # of a line that did not end in the chunk that it began in
    length = 0
    while chunk := await reader.read(READ_SIZE):
        *ended, rest = chunk.split(b"\n")
        for number, piece in enumerate(ended):
            if length:
                line = await _whole(before, length, piece, max_line, pace if decodable else None)
                before, length = bytearray(), 0
            elif (line := piece.strip()) and decodable and not is_plain(line):
                line = await prepared(line, pace)
            if line:
                yield line
            if not number % LINES_AT_ONCE:
                await pace.rest()
        length += len(rest)
        if length > max_line:
            before = bytearray()  # memory stays bounded; `length` remembers that this line is too long
        else:
            before += rest
        await pace.rest()
    if length and (line := await _whole(before, length, b"", max_line, pace if decodable else None)):
        yield line


async def _whole(before: bytearray, length: int, piece: bytes, max_line: int, pace: Pace | None) -> bytes | TooLong:
    """The line that began with `before`, of which there were `length` bytes; made fit for the decoder, with a pace."""
    size = length + len(piece)
    if size > max_line:
        return TooLong(size)
    before += piece
    if pace is not None and size > LARGE:
        return await prepared(before, pace)
    line = bytes(before).strip()
    return line if pace is None or is_plain(line) else await prepared(line, pace)


async def prepared(whole: bytes | bytearray, pace: Pace) -> bytes | TooLong:
    """The line as the decoder takes it, however long, in slices; Altered, if that is not as it was."""
    line = bytes(whole) if len(whole) <= LARGE else await cut(whole, pace)
    if line is None:
        return TooLong(len(whole))
    is_cut = len(line) < len(whole)
    line = await repaired(line, pace)
    if len(line) > MAX_LINE:
        return TooLong(len(line))  # U+FFFD takes more bytes than what it stands for
    if is_cut:
        line = line if isinstance(line, Altered) else Altered(line)
        line.cut = True
    return line
