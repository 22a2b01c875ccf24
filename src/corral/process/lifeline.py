"""The lifeline's messages: one JSON object a line, in both directions.

supervisor → reaper: `{"start": {...}}` once, then `{"end": {"grace": seconds or null}}` any number of times.
reaper → supervisor: `{"started": {"pid": …, "start_time": …}}` or `{"error": {"kind": …, "message": …}}`; then
`{"notice": text}`, `{"exited": status}`, `{"ending": cause}` and `{"report": {…}}`. End of file in either direction
means that the other side is gone, however it went.
"""

from __future__ import annotations

import json

from corral.process.typed import Any

MOST_BYTES = 16 * 1024 * 1024
"""The longest line: an environment and an argument list may each be megabytes, and nothing else is long."""


class BadMessage(ValueError):
    """A line that is not a JSON object, or is too long. The lines after it are still good."""


def encode(message: dict[str, Any]) -> bytes:
    """The message as a line."""
    return json.dumps(message, separators=(",", ":")).encode() + b"\n"


class Decoder:
    """Cuts a stream of bytes into messages."""

    def __init__(self) -> None:
        self._rest = b""
        self._skipping = False

    def feed(self, data: bytes) -> list[dict[str, Any] | BadMessage]:
        """The messages that are whole now. What is no message is returned as such, and costs only itself."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        found: list[dict[str, Any] | BadMessage] = []
        for line in lines:
            if self._skipping:
                self._skipping = False
                continue
            found.append(_decode(line))
        if len(self._rest) > MOST_BYTES:
            self._rest = b""
            if not self._skipping:
                found.append(BadMessage(f"a message of more than {MOST_BYTES} bytes"))
            self._skipping = True
        return found


def _decode(line: bytes) -> dict[str, Any] | BadMessage:
    try:
        message = json.loads(line)
    except (ValueError, RecursionError) as error:
        return BadMessage(f"not JSON: {error}")
    return message if isinstance(message, dict) else BadMessage("not a JSON object")
