"""Lines from a descriptor, handed over as they come, with no thread that could hold up the exit."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable

CHUNK = 64 * 1024  # bytes
MOST_BYTES = 2**20  # of a line; an input without line ends must not fill the memory


class Lines:
    """Reads a terminal, a pipe or a file: `on_line` gets each line without its end, `on_end` is called once, last.

    A line of more than MOST_BYTES is dropped, and `on_too_long` is called for it.

    The descriptor stays in blocking mode: O_NONBLOCK belongs to the open file, which the shell and standard output
    share with this process. It is read only when the loop says that there is something to read.
    """

    def __init__(
        self,
        descriptor: int,
        on_line: Callable[[str], None],
        on_end: Callable[[], None],
        on_too_long: Callable[[], None],
    ) -> None:
        self._descriptor = descriptor
        self._on_line = on_line
        self._on_end = on_end
        self._on_too_long = on_too_long
        self._rest = bytearray()
        self._started = False
        self._ended = False
        self._loop = asyncio.get_running_loop()
        self._pump: asyncio.TimerHandle | asyncio.Handle | None = None

    def start(self) -> None:
        """Begin to read, or go on."""
        if self._started or self._ended:
            return
        self._started = True
        try:
            self._loop.add_reader(self._descriptor, self._read)
        except PermissionError:
            # epoll takes no plain files and no /dev/null; they never make a reader wait.
            self._pump = self._loop.call_soon(self._read_on)
        except OSError:
            self._end()  # a closed descriptor

    def pause(self) -> None:
        """Read no more until `start`; what was read already still comes."""
        if self._started:
            self._started = False
            if self._pump is not None:
                self._pump.cancel()
            else:
                self._loop.remove_reader(self._descriptor)

    def close(self) -> None:
        """Read no more."""
        self.pause()
        self._ended = True

    def _read_on(self) -> None:
        self._read()
        if self._started:
            self._pump = self._loop.call_soon(self._read_on)

    def _read(self) -> None:
        try:
            data = os.read(self._descriptor, CHUNK)
        except OSError:  # the terminal is gone (EIO)
            data = b""
        if not data:
            self._end()
            return
        *ends, rest = data.split(b"\n")
        for end in ends:
            self._keep(end)
            self._hand_on()
        self._keep(rest)

    def _keep(self, piece: bytes) -> None:
        if len(self._rest) <= MOST_BYTES:
            self._rest += piece

    def _hand_on(self) -> None:
        line = bytes(self._rest)
        self._rest.clear()
        if self._ended:
            return
        if len(line) > MOST_BYTES:
            self._on_too_long()
        else:
            self._on_line(line.decode(errors="replace").rstrip("\r"))

    def _end(self) -> None:
        if self._ended:
            return
        if self._rest:
            self._hand_on()
        self.close()
        self._on_end()
