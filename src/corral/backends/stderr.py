"""What an engine writes to its error output: read on, so that it never blocks, and its last words kept."""

from __future__ import annotations

import logging
import re
from collections import deque
from typing import TYPE_CHECKING

from corral.backends.jsonl import read_lines

if TYPE_CHECKING:
    import asyncio

log = logging.getLogger(__name__)

MAX_LINE = 64 * 1024  # bytes
KEPT_LINES = 50
TOLD_LINES = 3
LINE_LENGTH = 500  # characters
COLOURS = re.compile(r"\x1b\[[0-9;]*m")
# What explains a death: codex writes a backtrace behind it.
TELLING = re.compile(r"\b(error|fatal|panicked)\b", re.IGNORECASE)


class ErrorOutput:
    """The error output of one engine; its `last_words` explain a death."""

    def __init__(self, reader: asyncio.StreamReader) -> None:
        self._last: deque[str] = deque(maxlen=KEPT_LINES)
        self._reader = reader

    @property
    def last_words(self) -> str:
        """The last error and what follows it, else the last lines; a few of them, one after the other."""
        lines = list(self._last)
        telling = [number for number, line in enumerate(lines) if TELLING.search(line)]
        return " | ".join(lines[telling[-1] :][:TOLD_LINES] if telling else lines[-TOLD_LINES:])

    async def run(self) -> None:
        """Read until the end; the owner holds this task."""
        async for line in read_lines(self._reader, max_line=MAX_LINE):
            if isinstance(line, bytes):
                self._last.append(COLOURS.sub("", line.decode(errors="replace"))[:LINE_LENGTH])
                log.debug("stderr: %s", self._last[-1])
