"""Large lines of JSON, cut to what may be decoded: strings of bounded length, and a bounded number of values.

The decoder holds the interpreter for as long as it takes, and makes up to thirty bytes of one. So what it gets is
bounded before. What is left of the line is valid: a string loses its middle, a container its last values.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from corral.backends.pace import Pace

LARGE = 128 * 1024  # bytes; a shorter line is decoded as it is
MOST_STRING = 4 * 1024 * 1024  # bytes of one string
MOST_VALUES = 20_000  # beyond which containers deeper than SHALLOW are cut; and LARGE / 2 above
# What tells whose message it is (thread, turn, session) is in an object no deeper than this, and may come last.
SHALLOW = 2
WINDOW = 64 * 1024  # bytes looked at in one go
LEFT_OUT = b" [...] "

QUOTE, LIST = b'"['
OPENING, CLOSING = b"{[", b"}]"
# None of these goes back over what it has matched, whatever follows: their time is proportional to the window.
_FLAT = re.compile(rb'[^"{}\[\],]+')
_BODY = re.compile(rb'(?:[^"\\]+|\\u[0-9a-fA-F]{4}|\\[^u])+', re.DOTALL)
_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_SKIPPED = re.compile(rb'(?:[^"{}\[\]]+|"[^"\\]*(?:\\.[^"\\]*)*"|\{\}|\[\])+', re.DOTALL)


async def cut(line: bytes | bytearray, pace: Pace) -> bytes | None:
    """The line, or as much of it as may be decoded; None for one that has too many values in its shallow part."""
    state = _State(line)
    at = 0
    while at < len(line):
        await pace.rest()
        # Of a container's last values only its end matters.
        flat = _SKIPPED if state.skipped else _FLAT
        if run := flat.match(line, at, at + WINDOW):
            at = run.end()
        elif line[at] == QUOTE:
            end, head, tail = await _string(line, at, pace)
            if end - at > MOST_STRING:
                state.shorten(head, tail)
            at = end
        else:
            state.note(line[at], at)
            at += 1
        if state.values > MOST_VALUES + LARGE // 2:
            return None
    return state.kept()


class _State:
    """What was kept of a line so far, and which containers are open."""

    def __init__(self, line: bytes | bytearray) -> None:
        self.values = 0
        self.skipped = 0
        """How deep the container is whose last values are left out; 0 outside of one."""
        self._line = line
        self._kept: list[bytes | bytearray] = []
        self._from = 0
        self._within = bytearray()
        """What the open containers were opened with."""

    def note(self, mark: int, at: int) -> None:
        """A bracket, or a comma."""
        if mark in CLOSING:
            if self.skipped == len(self._within):
                self.skipped, self._from = 0, at
            del self._within[-1:]
            return
        opens = mark in OPENING
        if opens:
            self._within.append(mark)
        if not self.skipped:
            self.values += 1
            if self.values > MOST_VALUES and self._may_be_cut():
                self._kept.append(self._line[self._from : at + opens])
                self.skipped = len(self._within)

    def shorten(self, head: int, tail: int) -> None:
        """Leave out what is between, which is within a string."""
        if not self.skipped:
            self._kept += (self._line[self._from : head], LEFT_OUT)
            self._from = tail

    def kept(self) -> bytes:
        """What is left of the line."""
        if not self._kept:
            return bytes(self._line)
        return b"".join([*self._kept, b"" if self.skipped else self._line[self._from :]])

    def _may_be_cut(self) -> bool:
        depth = len(self._within)
        return depth > SHALLOW or (depth == SHALLOW and self._within[-1] == LIST)


async def _string(line: bytes | bytearray, at: int, pace: Pace) -> tuple[int, int, int]:
    """Where the string that begins here ends, and where its first and its last half of MOST_STRING may be cut."""
    if short := _STRING.match(line, at, at + WINDOW):
        return short.end(), 0, 0
    start = at
    at = head = at + 1
    cuts = [at]
    while at < len(line) and line[at] != QUOTE:
        await pace.rest()
        body = _BODY.match(line, at, at + WINDOW)
        at = body.end() if body else at + 1
        cuts.append(at)
        if at - start <= MOST_STRING // 2:
            head = at
    tail = next((one for one in cuts if one >= at - MOST_STRING // 2), at)
    return at + 1, head, tail
