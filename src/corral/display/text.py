"""Text for people before anything draws it: lines of spans, each with what it means and not how it looks.

Each front end draws the meanings in its own way: a terminal in colours, Telegram as entities, the web as classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

Meaning: TypeAlias = Literal[
    "", "strong", "faint", "account", "question", "good", "caution", "bad", "proven", "unsure", "lost"
]
"""`good`, `caution` and `bad`: how something went. `proven`, `unsure` and `lost`: what an ending can say of a tree."""


@dataclass(frozen=True, slots=True)
class Span:
    """A piece of a line."""

    text: str
    meaning: Meaning = ""


Line: TypeAlias = tuple[Span, ...]
Block: TypeAlias = tuple[Line, ...]
"""Lines that belong together. None of them holds a newline, unless words of an engine or a person do."""


def line(*parts: str | tuple[str, Meaning]) -> Line:
    """A line of plain texts, and of texts with their meaning."""
    return tuple(Span(part) if isinstance(part, str) else Span(*part) for part in parts)


def plain(block: Block) -> str:
    """The words alone."""
    return "\n".join("".join(span.text for span in one) for one in block)
