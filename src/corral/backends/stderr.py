"""What an engine writes to its error output: read on, so that it never blocks, and its last words kept."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from corral.backends.jsonl import read_lines

if TYPE_CHECKING:
    import asyncio

log = logging.getLogger(__name__)

MAX_LINE = 64 * 1024  # bytes
LAST_LINE = 500  # characters


class ErrorOutput:
    """The error output of one engine; `last_line` explains a death."""

    def __init__(self, reader: asyncio.StreamReader) -> None:
        self.last_line = ""
        self._reader = reader

    async def run(self) -> None:
        """Read until the end; the owner holds this task."""
        async for line in read_lines(self._reader, max_line=MAX_LINE):
            self.last_line = line.decode(errors="replace")[:LAST_LINE]
            log.debug("stderr: %s", self.last_line)
