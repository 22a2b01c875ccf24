"""The command's standard streams, where the supervisor asked for pipes."""

from __future__ import annotations

import asyncio
import subprocess
from typing import IO

_READ_LIMIT = 1 << 20
"""Bytes that are read ahead, and the longest line that `readline` takes."""


class Streams:
    """asyncio's ends of the pipes; None for a stream without one."""

    def __init__(self) -> None:
        self.stdin: asyncio.StreamWriter | None = None
        self.stdout: asyncio.StreamReader | None = None
        self.stderr: asyncio.StreamReader | None = None
        self._reading: list[asyncio.ReadTransport] = []

    async def connect(self, process: subprocess.Popen[bytes]) -> None:
        """Take over the pipes of a process. Raises OSError."""
        if process.stdin is not None:
            loop = asyncio.get_running_loop()
            # A protocol with a reader of its own, because StreamWriter.wait_closed asks it.
            transport, protocol = await loop.connect_write_pipe(
                lambda: asyncio.StreamReaderProtocol(asyncio.StreamReader()), process.stdin
            )
            self.stdin = asyncio.StreamWriter(transport, protocol, None, loop)
        if process.stdout is not None:
            self.stdout = await self._connect_reader(process.stdout)
        if process.stderr is not None:
            self.stderr = await self._connect_reader(process.stderr)

    async def _connect_reader(self, pipe: IO[bytes]) -> asyncio.StreamReader:
        reader = asyncio.StreamReader(limit=_READ_LIMIT)
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), pipe
        )
        self._reading.append(transport)
        return reader

    def close_input(self) -> None:
        if self.stdin is not None:
            self.stdin.close()

    def close(self) -> None:
        self.close_input()
        for transport in self._reading:
            transport.close()
