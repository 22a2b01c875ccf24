"""Text that others wrote, made harmless: what an agent prints, or calls a process, must not command a terminal."""

from __future__ import annotations

import re

TITLE_WIDTH = 200  # characters

# It must not move the cursor, retitle the window or answer for the person: sequences and controls go.
_SEQUENCES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\-_]?)")
_RETURNS = re.compile(r"\r+(?=[^\r\n])")
# Of what moves the cursor, that which progress bars use to overwrite their line.
_MOVES = re.compile(r"\r|\x08|\x1b\[[012]?K")
_MOVES_OR_TEXT = re.compile(rf"\x1b\[(?P<erase>[012]?)K|\r|\x08|(?:{_SEQUENCES.pattern})|[^\r\x08\x1b]+")
_CONTROLS = dict.fromkeys([*range(0x09), *range(0x0B, 0x20), *range(0x7F, 0xA0)])
# Overrides of the writing direction make a command read as another one than it is (CVE-2021-42574).
_DIRECTIONS = dict.fromkeys([*range(0x202A, 0x202F), *range(0x2066, 0x206A)])
_REMOVED = {**_CONTROLS, **_DIRECTIONS}
# JSON escapes by itself what is below a blank; a terminal obeys those above too.
_ESCAPED = {letter: f"\\u{letter:04x}" for letter in _REMOVED if letter > 0x20}


def harmless(text: str) -> str:
    """The text without terminal sequences, control characters (newline and tab excepted) and overrides of direction.

    A carriage return within a line is a line's end: what is behind it neither hides nor joins what is before.
    """
    return _RETURNS.sub("\n", _SEQUENCES.sub("", text)).translate(_REMOVED)


def as_shown(text: str) -> str:
    """What a tool printed, harmless, as a terminal would show it: a progress bar is its last state."""
    return "\n".join(map(_line_as_shown, text.split("\n")))


def _line_as_shown(line: str) -> str:
    line = line.rstrip("\r")
    if _MOVES.search(line) is None:
        return harmless(line)
    cells: list[str] = []
    column = 0
    for found in _MOVES_OR_TEXT.finditer(line):
        piece = found[0]
        if piece == "\r":
            column = 0
        elif piece == "\b":
            column = max(column - 1, 0)
        elif (what := found["erase"]) is not None:
            if what in ("", "0"):
                del cells[column:]
            else:
                end = len(cells) if what == "2" else column + 1
                cells[:end] = " " * len(cells[:end])
        else:
            shown = harmless(piece)
            cells += " " * (column - len(cells))
            cells[column : column + len(shown)] = shown
            column += len(shown)
    return "".join(cells).rstrip()


def valid(text: str) -> str:
    """The text with U+FFFD for each half of a surrogate pair that stands alone; a whole pair becomes its letter."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def shortened(text: str, most: int) -> str:
    """The beginning of the text, and how much was cut off it; all of it where that is at most `most` characters."""
    return text if len(text) <= most else f"{text[:most]}… [{len(text) - most:,} characters cut]"


def in_one_line(text: str, most: int = TITLE_WIDTH) -> str:
    """The text, harmless, on a line of its own."""
    line = " ".join(harmless(text).split())
    return line if len(line) <= most else line[: most - 1] + "…"


def harmless_json(line: str) -> str:
    """The same JSON, with escapes in the place of the control characters and overrides that JSON lets stand."""
    return line.translate(_ESCAPED)
