"""Standard output through a thread: a reader that stalls must not keep a signal from ending the tree."""

from __future__ import annotations

import asyncio
import io
import os
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import IO, cast

MOST_WAITING = 1 << 20  # characters not yet written, above which `ready` waits
FLUSH_TIMEOUT = 2.0  # seconds


class Output(io.TextIOBase):
    """A text file that never makes its writer wait; `on_broken` is called once, in the loop, if its reader goes."""

    def __init__(self, descriptor: int, on_broken: Callable[[], None]) -> None:
        super().__init__()
        self._descriptor = descriptor
        self._on_broken = on_broken
        self._loop = asyncio.get_running_loop()
        self._queue: SimpleQueue[str | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._waiting = 0
        self._broken = False
        self._patient = True
        self._held: list[str] | None = None
        self._room = asyncio.Event()
        self._room.set()
        self._empty = asyncio.Event()
        # A daemon, because a write that hangs would otherwise hang the exit. It writes to the descriptor itself: a
        # buffered file's lock, held at the exit, is fatal to the interpreter.
        self._thread = threading.Thread(target=self._write_on, name="corral-output", daemon=True)
        self._thread.start()

    @property
    def file(self) -> IO[str]:
        """Itself, as the typing of rich and of the printers has it."""
        return cast("IO[str]", self)

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """Asked by rich, which chooses the characters of its lines by it."""
        return "utf-8"

    def fileno(self) -> int:
        return self._descriptor

    def isatty(self) -> bool:
        return os.isatty(self._descriptor)

    def writable(self) -> bool:
        return True

    @property
    def waiting(self) -> int:
        """How many characters are not yet written."""
        return self._waiting

    def hold(self) -> None:
        """Keep what is written from now on until `release`: what belongs together is then shown at once."""
        if self._held is None:
            self._held = []

    def release(self) -> None:
        """Write what was held."""
        held, self._held = self._held, None
        if held:
            self.write("".join(held))

    def write(self, text: str) -> int:
        """Queue the text."""
        if self._held is not None:
            self._held.append(text)
        elif text and not self._broken:
            with self._lock:
                self._waiting += len(text)
                if self._waiting > MOST_WAITING:
                    self._room.clear()
            self._queue.put(text)
        return len(text)

    async def ready(self) -> None:
        """Wait until the reader has taken most of what was written, or is gone."""
        if self._patient:
            await self._room.wait()

    async def drained(self, timeout: float) -> bool:
        """Wait until all is written; False if that took longer than `timeout` seconds."""
        self.release()
        self._empty.clear()
        self._queue.put("")  # behind all that waits
        try:
            async with asyncio.timeout(timeout):
                await self._empty.wait()
        except TimeoutError:
            return False
        return True

    def stop_waiting(self) -> None:
        """From now on `ready` does not wait."""
        self._patient = False
        self._room.set()

    def finish(self) -> bool:
        """Write what waits, for FLUSH_TIMEOUT seconds at the most; whether that was enough."""
        self.release()
        self._queue.put(None)
        self._thread.join(FLUSH_TIMEOUT)
        return not self._thread.is_alive()

    def _write_on(self) -> None:
        while (text := self._queue.get()) is not None:
            if not self._broken:
                self._write_out(text.encode(errors="replace"))
            with self._lock:
                self._waiting -= len(text)
                roomy = self._broken or self._waiting <= MOST_WAITING
            if roomy and not self._room.is_set():
                self._tell(self._room.set)
            if not text:
                self._tell(self._empty.set)

    def _write_out(self, data: bytes) -> None:
        try:
            while data:
                data = data[os.write(self._descriptor, data) :]
        except OSError:
            self._broken = True
            self._tell(self._on_broken)

    def _tell(self, call: Callable[[], None]) -> None:
        try:
            self._loop.call_soon_threadsafe(call)
        except RuntimeError:  # the loop is closed: nothing awaits this any more
            return
