"""Streaming markdown in blocks: nothing is lost, nothing comes twice, however the text was cut on its way."""

import sys
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from corral.terminal.blocks import MOST_CHARACTERS, MOST_LINES, Block, Blocks
from corral.terminal.markdown import rendered
from corral.terminal.screen import trimmed

LINES = st.sampled_from(
    [
        "", " ", "words", "more words  ", "# Title", "====", "---", "***", "- one", "* two", "  - below", "    deep",
        "1. first", "2) second", "10. tenth", "```", "```python", "````", "~~~", "  ```", "| a | b |", "|---|:-:|",
        "| 1 |", "> quote", "\tx", "-", "- - -", "[a]: http://b", "![i](u)", "<b>html</b>", "\x1b[2J", "\r", "`", "**",
        "\u2028",
    ]
)  # fmt: skip
TEXTS = st.lists(LINES, max_size=30).map("\n".join) | st.text(max_size=200)


def all_of(pieces: list[str]) -> list[Block]:
    blocks = Blocks()
    done = [block for piece in pieces for block in blocks.feed(piece)]
    return [*done, *blocks.finish()]


def shown(blocks: list[Block], width: int = 60) -> str:
    console = Console(width=width, force_terminal=False, highlight=False)
    with console.capture() as capture:
        for block in blocks:
            if (one := rendered(block)) is not None:
                console.print(one, crop=False)
    return capture.get()


@st.composite
def cut(draw: st.DrawFn) -> tuple[str, list[str]]:
    text = draw(TEXTS)
    at = sorted(draw(st.lists(st.integers(0, len(text)), max_size=10)))
    ends = [0, *at, len(text)]
    return text, [text[begin:end] for begin, end in pairwise(ends)]


@given(cut())
def test_the_blocks_are_the_text_however_it_is_cut(given_text: tuple[str, list[str]]) -> None:
    text, pieces = given_text
    blocks = all_of(pieces)
    assert "".join(block.text for block in blocks) == text
    assert blocks == all_of([text])


@given(cut())
def test_what_was_handed_out_and_the_rest_are_all_that_came(given_text: tuple[str, list[str]]) -> None:
    _, pieces = given_text
    blocks, came, out = Blocks(), "", ""
    for piece in pieces:
        came += piece
        out += "".join(block.text for block in blocks.feed(piece))
        assert came.startswith(out)
        assert blocks.rest(1000, 100_000) == came[len(out) :].strip("\n")
        assert blocks.rest(2, 10) == blocks.rest(1000, 100_000)[-10:] or "\n" in came


@settings(deadline=None)  # the first fence of a language loads its lexer
@given(TEXTS)
def test_whatever_it_is_it_is_shown_and_commands_nothing(text: str) -> None:
    seen = shown(all_of([text]))
    assert not {letter for letter in seen if ord(letter) < 32} - {"\n"}
    for word in ("words", "html", "quote", "Title"):
        assert seen.count(word) == text.count(word), (text, seen)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a\nb\n\nc", [("text", "a\nb\n\n"), ("text", "c")]),
        ("# T\ntext\n", [("text", "# T\n"), ("text", "text\n")]),
        ("Title\n---\nrest\n", [("text", "Title\n---\nrest\n")]),
        ("- a\n- b\n", [("list", "- a\n"), ("list", "- b\n")]),
        ("- a\n\n  of a\n- b\n\nend", [("list", "- a\n\n  of a\n"), ("list", "- b\n\n"), ("text", "end")]),
        ("- a\n  ```\n  - x\n\n  y\n  ```\n", [("list", "- a\n  ```\n  - x\n\n  y\n  ```\n")]),
        ("in 2024\n1. a\n", [("text", "in 2024\n"), ("list", "1. a\n")]),
        ("born in\n1984. A year\n", [("text", "born in\n1984. A year\n")]),
        ("see:\n```py\n\nx\n```\ny", [("text", "see:\n"), ("code", "```py\n\nx\n```\n"), ("text", "y")]),
        ("````\n```\n````\n", [("code", "````\n```\n````\n")]),
        ("\n\na", [("text", "\n\na")]),
        ("| a |\n|---|\n| 1 |\n\nb", [("text", "| a |\n|---|\n| 1 |\n\n"), ("text", "b")]),
    ],
)
def test_where_a_block_ends(text: str, expected: list[tuple[str, str]]) -> None:
    assert [(block.kind, block.text) for block in all_of([text])] == expected


def test_a_block_is_handed_out_as_soon_as_it_is_whole() -> None:
    blocks = Blocks()
    assert blocks.feed("a paragraph") == []
    assert [block.text for block in blocks.feed("\n\nthe ")] == ["a paragraph\n\n"]
    assert blocks.rest(5, 100) == "the "
    assert [block.text for block in blocks.feed("next\n```\ncode\n```\n")] == ["the next\n", "```\ncode\n```\n"]


def test_long_blocks_come_in_pieces_that_are_rendered_as_one() -> None:
    lines = [f"x = {number}" for number in range(3 * MOST_LINES)]
    code = all_of([f"{line}\n" for line in ["```python", *lines, "```"]])
    assert len(code) > 3
    assert [line for line in shown(code).split("\n") if line] == lines
    rows = [f"| {number} |" for number in range(2 * MOST_LINES)]
    table = all_of(["| n |\n|---|\n", *[f"{row}\n" for row in rows]])
    assert len(table) > 1
    seen = [line.strip() for line in shown(table).split("\n")]
    assert [line for line in seen if line.isdecimal()] == [str(number) for number in range(2 * MOST_LINES)]


def test_a_line_without_an_end_is_not_kept_for_ever() -> None:
    blocks = Blocks()
    out = ""
    for _ in range(10 * MOST_CHARACTERS // 5):
        out += "".join(block.text for block in blocks.feed("word "))
        assert len(blocks.rest(10, 10 * MOST_CHARACTERS)) <= MOST_CHARACTERS + 5
    assert len(out) > 8 * MOST_CHARACTERS


@pytest.mark.parametrize("unit", ["word ", "x", "line\n", "- item\n", "```\ncode\n", "| a | b |\n", " ", "\n"])
def test_the_cost_is_proportional(unit: str) -> None:
    def calls(count: int) -> int:
        """How many functions are called: what is read again with each piece shows as more than twice for twice."""
        made = 0

        def count_it(_: object, what: str, __: object) -> None:
            nonlocal made
            made += what in ("call", "c_call")

        blocks = Blocks()
        before = sys.getprofile()
        sys.setprofile(count_it)
        try:
            for _ in range(count):
                blocks.feed(unit)
                blocks.rest(8, 800)
        finally:
            sys.setprofile(before)
        return made

    assert calls(2_000) < 1.5 * 4 * calls(500)


class TestRendering:
    def test_addresses_are_shown(self) -> None:
        seen = shown(all_of(["[here](http://a/b) ![picture](http://c/d.png)\n\n[ref]: http://e"]))
        for part in ("here", "http://a/b", "http://c/d.png", "[ref]: http://e"):
            assert part in seen

    def test_lines_end_where_the_agent_ended_them(self) -> None:
        assert [line.rstrip() for line in shown(all_of(["one\ntwo\n"])).split("\n")][:2] == ["one", "two"]

    def test_long_lines_of_code_stay_whole(self) -> None:
        line = "x" * 200
        assert line in shown(all_of([f"```\n{line}\n```\n"]), width=40)

    def test_blanks_that_fill_a_line_go(self) -> None:
        assert trimmed("\n\x1b[1m a \x1b[0m   \x1b[31m  \x1b[0m\nsystem\n\n") == "\x1b[1m a\x1b[0m\nsystem\n"
        assert trimmed("\n") == "\n"
