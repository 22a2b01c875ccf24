"""How text for people looks on a terminal: its meanings in rich's styles, and its width in columns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import IO

from rich.cells import cell_len, chop_cells
from rich.console import Console, Group
from rich.text import Text

from corral.display.text import Block, Line, Meaning

_STYLES: Mapping[Meaning, str] = {
    "": "",
    "strong": "bold",
    "faint": "dim",
    "account": "cyan",
    "question": "bold yellow",
    "good": "green",
    "caution": "yellow",
    "bad": "red",
    "proven": "bold green",
    "unsure": "bold yellow",
    "lost": "bold red",
}


def console(file: IO[str] | None = None) -> Console:
    """Standard output, or `file`; plain, and as wide as a line needs, where it is not a terminal."""
    return Console(file=file, highlight=False, soft_wrap=True)


def show(block: Block) -> None:
    """Print it to standard output."""
    console().print(rich_block(block))


def rich_line(line: Line) -> Text:
    """The line in rich's styles."""
    return Text.assemble(*((span.text, _STYLES[span.meaning]) for span in line))


def rich_block(block: Block) -> Group:
    """The block in rich's styles, a renderable for each line."""
    return Group(*map(rich_line, block))


def in_columns(text: str, most: int) -> str:
    """As much of a line as so many columns hold."""
    if cell_len(text) <= most:
        return text
    return chop_cells(text, most - 1)[0] + "…" if most > 1 else ""
