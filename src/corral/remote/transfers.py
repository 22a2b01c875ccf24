"""The service's side of a file over the socket, which has a connection of its own beside that of its seat.

After its first line (`put_file`) a client sends pieces, each behind its length in four bytes, and a length of 0; the
answer is a line with the `path`. To a `get_file` the answer is a line with `name` and `size`, followed by the bytes of
the file. A refusal is a `closed` line with the reason.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import TYPE_CHECKING

from corral.remote import wire
from corral.service.files import MOST_BYTES, STALL_TIMEOUT, FilesError
from corral.service.files_as_account import PIECE, PIECE_BYTES

if TYPE_CHECKING:
    from corral.service.seats import LocalSeat

LINGER_TIMEOUT = 2.0  # seconds for a client to read a refusal, while it may still be sending


async def serve(
    seat: LocalSeat, first: wire.PutFile | wire.GetFile, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    """Hand one file over. A client that goes away leaves nothing. Raises OSError if the connection is lost."""
    try:
        if isinstance(first, wire.PutFile):
            path = await seat.put_file(first.name, _pieces(reader))
            await _write(writer, wire.encode({"event": "file", "path": path}))
        else:
            async with seat.get_file(first.path, most=min(first.most, MOST_BYTES)) as file:
                await _write(writer, wire.encode({"event": "file", "name": file.name, "size": file.size}))
                async for piece in file.pieces:
                    await _write(writer, piece)
    except FilesError as error:
        await refuse(str(error), reader, writer)
    except asyncio.IncompleteReadError:
        return  # the client has gone


async def refuse(reason: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Say why, and read on for a moment: closed with unread bytes, a socket would take the reason with it."""
    await _write(writer, wire.encode({"event": "closed", "reason": reason}))
    with suppress(TimeoutError, OSError):
        async with asyncio.timeout(LINGER_TIMEOUT):
            while await reader.read(PIECE_BYTES):
                pass


async def _pieces(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """What the client sends. Raises IncompleteReadError if it ends before the last piece."""
    while length := PIECE.unpack(await reader.readexactly(PIECE.size))[0]:
        if length > PIECE_BYTES:
            raise FilesError(f"a piece has at most {PIECE_BYTES} bytes")
        yield await reader.readexactly(length)


async def _write(writer: asyncio.StreamWriter, data: bytes) -> None:
    writer.write(data)
    try:
        async with asyncio.timeout(STALL_TIMEOUT):
            await writer.drain()
    except TimeoutError:
        raise ConnectionAbortedError(f"the client read nothing for {STALL_TIMEOUT:g} s") from None
