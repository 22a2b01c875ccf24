"""The lifeline's messages: one JSON object a line, in both directions.

supervisor → reaper: `{"start": {...}}` once, then `{"end": {"grace": seconds or null}}`, `{"suspend": {}}` and
`{"resume": {}}` any number of times.
reaper → supervisor: `{"started": {"pid": …, "start_time": …}}` or `{"error": {"kind": …, "message": …}}`; then
`{"notice": text}`, `{"suspended": {}}`, `{"exited": status}`, `{"ending": cause}` and `{"report": {…}}`. End of file in
either direction means that the other side is gone, however it went.
"""

from __future__ import annotations

import json
import os
import select
import time

from corral.process.bare.typed import Any

MOST_BYTES = 16 * 1024 * 1024
"""The longest line: an environment and an argument list may each be megabytes, and nothing else is long."""


_SEND_WITHIN = 2.0
"""Seconds that a message to a supervisor which does not read may take."""


class BadMessage(ValueError):
    """A line that is not a JSON object, or is too long. The lines after it are still good."""


def encode(message: dict[str, Any]) -> bytes:
    """The message as a line."""
    return json.dumps(message, separators=(",", ":")).encode() + b"\n"


class Decoder:
    """Cuts a stream of bytes into messages."""

    def __init__(self) -> None:
        # In pieces, since joining them at each read would cost the square of a long line.
        self._pieces: list[bytes] = []
        self._held = 0
        self._skipping = False

    def feed(self, data: bytes) -> list[dict[str, Any] | BadMessage]:
        """The messages that are whole now. What is not a message is returned as such, and costs only itself."""
        first, *others = data.split(b"\n")
        found: list[dict[str, Any] | BadMessage] = []
        self._hold(first, found)
        for piece in others:
            if not self._skipping:
                found.append(_decode(b"".join(self._pieces)))
            self._pieces, self._held, self._skipping = [], 0, False
            self._hold(piece, found)
        return found

    def _hold(self, piece: bytes, found: list[dict[str, Any] | BadMessage]) -> None:
        if self._skipping:
            return
        self._pieces.append(piece)
        self._held += len(piece)
        if self._held > MOST_BYTES:
            found.append(BadMessage(f"a message of more than {MOST_BYTES} bytes"))
            self._pieces, self._held, self._skipping = [], 0, True


def _decode(line: bytes) -> dict[str, Any] | BadMessage:
    try:
        message = json.loads(line)
    except (ValueError, RecursionError) as error:
        return BadMessage(f"not JSON: {error}")
    return message if isinstance(message, dict) else BadMessage("not a JSON object")


class ReaperEnd:
    """The reaper's end of the lifeline, in one thread and without blocking. Nothing that happens on it raises."""

    def __init__(self, descriptor: int) -> None:
        os.set_blocking(descriptor, False)
        os.set_inheritable(descriptor, False)
        self.descriptor = descriptor
        self.closed = False
        self._decoder = Decoder()
        self._unread: list[dict[str, Any]] = []
        self._cut = False
        """Whether the last message was only sent in part."""

    def close(self) -> None:
        """Close this process's descriptor of it."""
        os.close(self.descriptor)

    def first(self, key: str, timeout: float) -> dict[str, Any] | None:
        """The first message, which must have this key; None if it does not come in time."""
        deadline = time.monotonic() + timeout
        poll = select.poll()
        poll.register(self.descriptor, select.POLLIN)
        while not self.closed and (left := deadline - time.monotonic()) > 0:
            poll.poll(left * 1000)
            messages = self.receive()
            for number, message in enumerate(messages):
                if isinstance(message.get(key), dict):
                    found: dict[str, Any] = message[key]
                    self._unread = messages[number + 1 :]
                    return found
        return None

    def receive(self) -> list[dict[str, Any]]:
        """What has come in. A bad message is answered with a notice and forgotten."""
        found, self._unread = self._unread, []
        while not self.closed:
            try:
                data = os.read(self.descriptor, 65536)
            except BlockingIOError:
                break
            except OSError:
                data = b""
            if not data:
                self.closed = True
            for message in self._decoder.feed(data) if data else ():
                if isinstance(message, BadMessage):
                    self.send({"notice": f"a control message was not understood: {message}"})
                else:
                    found.append(message)
        return found

    def send(self, message: dict[str, Any]) -> bool:
        """Send, or give up after a bounded wait: a supervisor that does not read must not keep the tree alive.

        False for a message that was given up, and that a supervisor which reads again could still be told.
        """
        data = encode(message)
        if self._cut:
            data = b"\n" + data  # What was cut short must not take this one with it.
        whole = len(data)
        deadline = time.monotonic() + _SEND_WITHIN
        poll = select.poll()
        poll.register(self.descriptor, select.POLLOUT)
        while data and (left := deadline - time.monotonic()) > 0:
            try:
                data = data[os.write(self.descriptor, data) :]
            except BlockingIOError:
                poll.poll(left * 1000)
            except OSError:
                return True  # The supervisor has gone.
        if len(data) < whole:
            self._cut = bool(data)
        return not data
