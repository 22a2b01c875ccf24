"""Words for people before anything draws them, and how a terminal does."""

import io
from typing import get_args

import pytest

from corral.backends.events import ApprovalRequested, BackendStarted, Question, ToolEnded, TurnEnded
from corral.display import processes, wording
from corral.display.text import Meaning, line, plain
from corral.process import Report, Survivor
from corral.service.front import Missed
from corral.terminal import render

QUESTION = Question("q", "which?", ("a", "b"))
ALL = (
    wording.missed(Missed(1234)),
    wording.started(BackendStarted("codex", 7, "daniel", "c1", "gpt")),
    wording.turn_end(TurnEnded("failed", "the model is down")) or (),
    *wording.request(ApprovalRequested("1", "command", "rm -rf /"), keys="y: yes"),
    *wording.request(
        ApprovalRequested("1", "question", "?", questions=(Question("q", "which?", ("a", "b")),)), keys=""
    ),
    *wording.last_output(ToolEnded("t", "command", "ls", "failed", 2, "one\ntwo\n")),
    *processes.report(Report("survivors", None, 0.5, survivors=(Survivor(9, 1, "daniel", "D", "dd", "it is stuck"),))),
)


def test_the_words_are_there_without_a_terminal() -> None:
    words = plain(ALL).splitlines()
    assert "… 1,234 characters are left out here: they came faster than they were read" in words
    assert "codex · gpt · as daniel · pid 7 · conversation c1" in words
    assert "the turn was not completed: the model is down" in words
    assert "permission requested: rm -rf /  [y: yes]" in words
    assert "  which?  1) a  2) b" in words
    assert "  two" in words
    assert "survivors: something is left" in words
    assert "  pid 9 (daniel, D) dd: it is stuck" in words


def test_a_terminal_draws_the_same_words_in_colours() -> None:
    out = io.StringIO()
    console = render.console(out)
    console.print(render.rich_block(ALL))
    assert out.getvalue() == plain(ALL) + "\n"
    assert (
        str(render.rich_line(line(("no", "bad"), " ", ("why", "faint"))).spans)
        == "[Span(0, 2, 'red'), Span(3, 6, 'dim')]"
    )


@pytest.mark.parametrize("meaning", get_args(Meaning))
def test_a_terminal_has_a_style_for_each_meaning(meaning: Meaning) -> None:
    assert render.rich_line(line(("x", meaning))).plain == "x"
