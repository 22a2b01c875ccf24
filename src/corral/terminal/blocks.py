"""Markdown as it streams, cut into blocks: each is handed out once, when nothing can be added to it any more."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

Kind: TypeAlias = Literal["text", "list", "code"]

MOST_LINES = 200  # of a block; a longer one is handed out in pieces
MOST_CHARACTERS = 16 * 1024

_LEADING = re.compile(r"\A(?:[^\S\n]*\n)+")
_FENCE = re.compile(r" {0,3}(?P<fence>`{3,}(?=[^`]*$)|~{3,})")
_HEADING = re.compile(r" {0,3}#{1,6}(\s|$)")
_RULE = re.compile(r" {0,3}([-*_])[ \t]*(\1[ \t]*){2,}$")
_ITEM = re.compile(r"(?P<indent> {0,3})(?P<marker>[-+*]|\d{1,9}[.)])(?P<space>[ \t]+|$)")
_TABLE_RULE = re.compile(r"\s*\|?\s*:?-+:?\s*(\|\s*:?-+:?\s*)*\|?\s*$")


@dataclass(frozen=True, slots=True)
class Block:
    """A paragraph, a heading, a table (`text`), one item of a list (`list`), or a fence with its code (`code`)."""

    kind: Kind
    text: str
    """As it came: the texts of all blocks, one after the other, are the whole."""
    close: bool = False
    """Whether it follows the block before it without a blank line: the next item of a list, or the next piece."""
    head: str = ""
    """What a later piece of a long block needs before it: the opening of the fence, the head of the table."""

    @property
    def markdown(self) -> str:
        """What to render: without the blank lines around it."""
        return self.head + _LEADING.sub("", self.text).rstrip()


class Blocks:
    """Takes the pieces of one message. It costs a time that is proportional to the text, however that is cut up."""

    def __init__(self) -> None:
        self._kind: Kind | None = None
        self._lines: list[str] = []
        self._size = 0
        self._line: list[str] = []
        self._line_size = 0
        self._fence = ""
        self._indent = 0
        self._close = False
        self._head = ""

    def feed(self, delta: str) -> list[Block]:
        """Take a piece; the blocks that it finishes."""
        *ends, rest = delta.split("\n")
        done: list[Block] = []
        for end in ends:
            self._line.append(f"{end}\n")
            done += self._take(self._joined())
        if rest:
            self._line.append(rest)
            self._line_size += len(rest)
            if self._line_size > MOST_CHARACTERS:
                done += self._relieved()
        return done

    def finish(self) -> list[Block]:
        """Nothing more comes: what is left."""
        done = self._take(self._joined()) if self._line else []
        if self._lines:
            done.append(self._cut())
        return done

    def rest(self, lines: int, characters: int) -> str:
        """The end of what is not finished: so many lines, and so many characters, at the most."""
        found, size = ["".join(self._line)], self._line_size
        for line in reversed(self._lines):
            if len(found) >= lines or size >= characters:
                break
            found.append(line)
            size += len(line)
        return "".join(reversed(found)).strip("\n")[-characters:]

    def _joined(self) -> str:
        line = "".join(self._line)
        self._line.clear()
        self._line_size = 0
        return line

    def _relieved(self) -> list[Block]:
        """A line without an end would be kept, and looked at, for ever: hand out what there is of it."""
        line = self._joined()
        end = len(line) if self._kind == "code" else line.rfind(" ") + 1 or len(line)
        done = self._take(line[:end])
        if self._lines:
            done.append(self._piece())
        if line[end:]:
            self._line.append(line[end:])
            self._line_size = len(line) - end
        return done

    def _take(self, line: str) -> list[Block]:
        """A whole line. It belongs to the open block, or ends that and begins another."""
        if self._kind == "code":
            self._add(line)
            closing = line.strip()
            if closing.startswith(self._fence) and not closing.strip(self._fence[0]):
                return [self._cut()]
            return self._bounded()
        if not line.strip():
            self._add(line)
            return [self._cut()] if self._kind == "text" else []
        if self._kind == "list":
            return self._take_in_list(line)
        return self._take_in_text(line)

    def _take_in_text(self, line: str) -> list[Block]:
        item = _ITEM.match(line)
        if fence := _FENCE.match(line.rstrip()):
            done = self._begun("code")
            self._fence = fence["fence"]
        elif _HEADING.match(line):
            done = self._begun("text")
            self._add(line)
            return [*done, self._cut()]
        elif item and not _RULE.match(line.rstrip()) and (self._kind is None or _interrupts(item, line)):
            done = self._begun("list")
            self._indent = len(item[0])
        else:
            self._kind, done = "text", []
        self._add(line)
        return done + self._bounded()

    def _take_in_list(self, line: str) -> list[Block]:
        indent = len(line) - len(line.lstrip(" "))
        if line.startswith("\t"):
            indent = 4
        after_blank = bool(self._lines) and not self._lines[-1].strip()
        item = _ITEM.match(line)
        rule = _RULE.match(line.rstrip())
        if item and indent < self._indent and not rule:
            done = [self._cut()]
            self._kind, self._close, self._indent = "list", not after_blank, len(item[0])
            self._add(line)
            return done
        if indent >= 2 or not (after_blank or rule or _FENCE.match(line.rstrip()) or _HEADING.match(line)):
            self._add(line)
            return self._bounded()
        return [self._cut(), *self._take_in_text(line)]

    def _begun(self, kind: Kind) -> list[Block]:
        """Begin a block; the one before it, if there was any. Blank lines alone are none: they lead the new one."""
        done = [self._cut()] if self._kind is not None else []
        self._kind = kind
        return done

    def _add(self, line: str) -> None:
        self._lines.append(line)
        self._size += len(line)

    def _bounded(self) -> list[Block]:
        if len(self._lines) < MOST_LINES and self._size < MOST_CHARACTERS:
            return []
        return [self._piece()]

    def _piece(self) -> Block:
        """Hand out what there is of a long block, which goes on."""
        kind, lines, head = self._kind, self._lines, self._head
        block = self._cut()
        self._kind = kind
        self._close = True
        self._head = head or _head(kind, lines)
        return block

    def _cut(self) -> Block:
        block = Block(self._kind or "text", "".join(self._lines), self._close, self._head)
        self._kind, self._lines, self._size = None, [], 0
        self._close, self._head = False, ""
        return block


def _interrupts(item: re.Match[str], line: str) -> bool:
    """Whether an item may follow a paragraph without a blank line: an empty one, or a number but 1, may not."""
    return bool(line[item.end() :].strip()) and item["marker"] in ("-", "+", "*", "1.", "1)")


def _head(kind: Kind | None, lines: Sequence[str]) -> str:
    shown = [line for line in lines[:8] if line.strip()]
    if kind == "code" and shown:
        return shown[0]
    if kind == "text" and len(shown) > 1 and "|" in shown[0] and _TABLE_RULE.match(shown[1]):
        return "".join(shown[:2])
    return ""
