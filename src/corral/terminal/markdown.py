"""A block of an agent's markdown, as a terminal shows it: nothing of its text is lost, and nothing of it commands."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from markdown_it import MarkdownIt
from rich import markdown
from rich.console import Group
from rich.syntax import Syntax
from rich.text import Text

from corral.printable import harmless
from corral.terminal.blocks import Block

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType, RenderResult

TAB = 4
LONG_LINE = 2000  # characters; the expressions of some lexers take too long over longer ones
THEME = "ansi_dark"  # the terminal's own colours, whatever its background

# Without html a `Vec<String>` stays text. An image, or a reference, would hide its address.
_PARSER = MarkdownIt("commonmark", {"html": False}).enable(["strikethrough", "table"]).disable(["image", "reference"])


def rendered(block: Block) -> RenderableType | None:
    """The block as rich prints it; None where there is nothing to show."""
    text = harmless(block.markdown).expandtabs(TAB)
    if not text.strip():
        return None
    return _code(text) if block.kind == "code" else _Careful(text)


class _Careful:
    """Markdown, or the text as it is: an agent's words must not be able to break what shows them."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        try:
            yield from list(console.render(_Markdown(self._text), options))
        except Exception:  # noqa: BLE001 - whatever the parser, the lexers or the tables stumble over
            yield Text(self._text)


def _code(text: str) -> RenderableType:
    """A fence without its marks. The terminal breaks long lines: copied, they are whole."""
    opening, _, code = text.partition("\n")
    mark = opening.strip()[:3]
    lines = code.split("\n")
    if lines and lines[-1].strip().startswith(mark) and not lines[-1].strip().strip(mark[0]):
        lines.pop()
    language = opening.strip().lstrip(mark[0]).strip().partition(" ")[0]
    shown = _highlighted("\n".join(lines), language)
    shown.no_wrap, shown.overflow = True, "ignore"
    return Group(shown)  # a bare Text is joined with others by rich, and forgets how it wraps


def _highlighted(code: str, language: str) -> Text:
    if max(map(len, code.split("\n"))) > LONG_LINE:
        return Text(code)
    shown = Syntax("", language or "text", theme=THEME, background_color="default").highlight(code)
    shown.rstrip()
    return shown


class _Heading(markdown.Heading):
    """At the left, where a reader of a terminal looks."""

    LEVEL_ALIGN: ClassVar = dict.fromkeys(markdown.Heading.LEVEL_ALIGN, "left")


class _CodeBlock(markdown.CodeBlock):
    """Code within a list: on the terminal's own background."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield _highlighted(str(self.text).rstrip(), self.lexer_name)


class _Markdown(markdown.Markdown):
    elements: ClassVar = {
        **markdown.Markdown.elements,
        "heading_open": _Heading,
        "fence": _CodeBlock,
        "code_block": _CodeBlock,
    }

    def __init__(self, text: str) -> None:
        super().__init__("", code_theme=THEME, hyperlinks=False)
        self.markup = text
        self.parsed = _PARSER.parse(text)
        for token in self.parsed:
            for child in token.children or ():
                if child.type == "softbreak":  # agents mean the ends of their lines
                    child.type = "hardbreak"
