"""Text that others wrote, made harmless: what an agent prints, or calls a process, must not command a terminal."""

from __future__ import annotations

import re

TITLE_WIDTH = 200  # characters

# It must not move the cursor, retitle the window or answer for the person: sequences and controls go.
_SEQUENCES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\-_]?)")
_CONTROLS = dict.fromkeys([*range(0x09), *range(0x0B, 0x20), *range(0x7F, 0xA0)])
# Overrides of the writing direction make a command read as another one than it is (CVE-2021-42574).
_DIRECTIONS = dict.fromkeys([*range(0x202A, 0x202F), *range(0x2066, 0x206A)])
_REMOVED = {**_CONTROLS, **_DIRECTIONS}
# JSON escapes by itself what is below a blank; a terminal obeys those above too.
_ESCAPED = {letter: f"\\u{letter:04x}" for letter in _REMOVED if letter > 0x20}


def harmless(text: str) -> str:
    """The text without terminal sequences, control characters (newline and tab excepted) and overrides of direction."""
    return _SEQUENCES.sub("", text).translate(_REMOVED)


def in_one_line(text: str, most: int = TITLE_WIDTH) -> str:
    """The text, harmless, on a line of its own."""
    line = " ".join(harmless(text).split())
    return line if len(line) <= most else line[: most - 1] + "…"


def harmless_json(line: str) -> str:
    """The same JSON, with escapes in the place of the control characters and overrides that JSON lets stand."""
    return line.translate(_ESCAPED)
