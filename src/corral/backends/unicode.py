"""What is not Unicode in a line of JSON: bytes that are not UTF-8, and halves of surrogate pairs, each as U+FFFD.

JavaScript writes half a pair as it is, and a pair that its stream cut in two as two halves in two messages. The decoder
would refuse the whole line, be it the end of a turn.
"""

from __future__ import annotations

import codecs
import re
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from corral.backends.pace import Pace

WINDOW = 64 * 1024  # bytes looked at in one go
REPLACEMENT = "\ufffd"
QUOTE = ord('"')

Stream: TypeAlias = tuple[type[object], str]
"""The kind of an event and the id of what it is a piece of."""

_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_PAIR = rb"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"
# Possessive quantifiers would suit, but Python 3.11.2 matches too much with them (gh-106052). Nothing of this looks
# beyond what it matches: so it stops before an escape that the end of the window cuts.
_WHOLE = re.compile(rb"(?:[^\\]+|\\[^u]|\\u(?:[^dD]|[dD][^89a-fA-F])|" + _PAIR + rb")+", re.DOTALL)
_HALF = re.compile(rb"\\u([dD][89a-fA-F][0-9a-fA-F]{2})")
_WIDTH = len(rb"\ud83d")


class Altered(bytes):
    """A line that is not as the engine wrote it."""

    cut = False
    """Whether something of it was left out."""
    low = 0
    """The second half of a surrogate pair with which a string of it began, before it was replaced; 0: none did."""
    high = 0
    """The first half with which one ended."""


def is_plain(line: bytes) -> bool:
    """Whether a short line can be decoded as it is."""
    if not line.isascii():
        try:
            line.decode()
        except UnicodeDecodeError:
            return False
    return b"\\u" not in line or _SURROGATE.search(line) is None


async def repaired(line: bytes, pace: Pace) -> bytes:
    """The line, with U+FFFD in place of what is not Unicode."""
    if not await _is_utf8(line, pace):
        line = await _as_utf8(line, pace)
    for at in range(0, len(line), WINDOW):
        await pace.rest()
        if _SURROGATE.search(line, at, at + WINDOW + _WIDTH):
            return await _without_halves(line, pace)
    return line


async def _is_utf8(line: bytes, pace: Pace) -> bool:
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        for at in range(0, len(line), WINDOW):
            await pace.rest()
            decoder.decode(line[at : at + WINDOW])
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return False
    return True


async def _as_utf8(line: bytes, pace: Pace) -> bytes:
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    out = bytearray()
    for at in range(0, len(line), WINDOW):
        await pace.rest()
        out += decoder.decode(line[at : at + WINDOW]).encode()
    out += decoder.decode(b"", final=True).encode()
    return bytes(out)


async def _without_halves(line: bytes, pace: Pace) -> bytes:
    out = bytearray()
    at = low = high = 0
    while at < len(line):
        await pace.rest()
        if whole := _WHOLE.match(line, at, at + WINDOW):
            out += whole[0]
            at = whole.end()
        elif half := _HALF.match(line, at):
            code = int(half[1], 16)
            if is_low(code) and line[at - 1] == QUOTE:
                low = low or code
            elif not is_low(code) and line[half.end() : half.end() + 1] == b'"':
                high = code
            out += b"\\ufffd"
            at = half.end()
        else:
            out.append(line[at])  # a backslash that begins nothing known: the decoder's matter
            at += 1
    altered = Altered(out)
    altered.low, altered.high = low, high
    return altered


def is_low(code: int) -> bool:
    """Whether it is the second half of a pair."""
    return code >= 0xDC00


class Joiner:
    """Puts the letters together again that streams of pieces have cut in two."""

    def __init__(self) -> None:
        self.holds: dict[Stream, int] = {}
        """The first halves that wait for a second."""

    def join(self, piece: str, stream: Stream, line: bytes) -> str:
        """The piece of `stream` that `line` held; its last letter is kept back if that is the first half of a pair."""
        low, high = (line.low, line.high) if isinstance(line, Altered) else (0, 0)
        if before := self.holds.pop(stream, 0):
            joined = low and piece.startswith(REPLACEMENT)
            piece = _letter(before, low) + piece[1:] if joined else REPLACEMENT + piece
        if high and piece.endswith(REPLACEMENT):
            self.holds[stream] = high
            piece = piece[:-1]
        return piece

    def forget(self, stream: Stream) -> None:
        """The whole of the stream comes otherwise."""
        if self.holds:
            self.holds.pop(stream, None)

    def rest(self) -> list[Stream]:
        """The streams in which a half stayed alone, for a U+FFFD each."""
        alone = list(self.holds)
        self.holds.clear()
        return alone


def _letter(high: int, low: int) -> str:
    return chr(0x10000 + ((high - 0xD800) << 10) + (low - 0xDC00))
