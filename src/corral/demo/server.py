"""The small web server that the agent leaves running in a session of its own, and whether it answers."""

from __future__ import annotations

import asyncio
import shlex
import shutil
import socket
from dataclasses import dataclass

ANSWER_TIMEOUT = 10.0  # seconds
TRY_TIMEOUT = 1.0  # seconds


@dataclass(frozen=True, slots=True)
class Server:
    """A server on a port of the loopback that was free a moment ago."""

    python: str
    port: int

    @classmethod
    def on_free_port(cls, python: str) -> Server:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            return cls(python, free.getsockname()[1])

    @property
    def command(self) -> str:
        """What the agent runs: setsid, so that no signal to its shell or its process group reaches the server."""
        serve = f"-m http.server --bind 127.0.0.1 {self.port}"
        if shutil.which("setsid"):
            start = f"setsid {shlex.quote(self.python)} {serve}"
        else:
            body = "import os, sys; os.setsid(); os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
            start = f"{shlex.quote(self.python)} -c {shlex.quote(body)} {serve}"
        return f"{start} </dev/null >/dev/null 2>&1 &"

    async def answers(self) -> bool:
        """Whether it answers now."""
        try:
            async with asyncio.timeout(TRY_TIMEOUT):
                reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
                try:
                    writer.write(b"GET / HTTP/1.0\r\n\r\n")
                    return (await reader.readline()).startswith(b"HTTP/")
                finally:
                    writer.close()
        except (OSError, TimeoutError):
            return False

    async def starts_to_answer(self) -> bool:
        """Whether it answers within ANSWER_TIMEOUT seconds."""
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT):
                while not await self.answers():  # noqa: ASYNC110 - another process: it sets no event here
                    await asyncio.sleep(0.05)
        except TimeoutError:
            return False
        return True
