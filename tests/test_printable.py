"""What agents print, and what they and whoever connects call things, does not command a terminal."""

import io
import json
import logging

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from corral.backends.events import Text, ToolEnded, ToolOutput, ToolStarted
from corral.display import processes, wording
from corral.display.text import plain
from corral.printable import as_shown, harmless
from corral.process import Report
from corral.service import logs
from corral.terminal.printing import JsonPrinter
from corral.terminal.render import console, rich_block
from corral.terminal.transcript import Transcript
from tests.harness.driving import Driver
from tests.harness.waiting import wait_until


def test_as_json_controls_are_escapes_and_the_value_is_whole() -> None:
    said = "\x1b]0;title\x07 \x9b2J \x7f \u202e ü→"
    out = io.StringIO()
    JsonPrinter(out).show(Text(said, "m"))
    assert harmless(out.getvalue()) == out.getvalue()
    assert "ü→" in out.getvalue()
    assert json.loads(out.getvalue())["delta"] == said


@pytest.mark.parametrize(
    ("printed", "shown"),
    [
        ("\rProgress 33%\rProgress 66%\rProgress 99%\n", "Progress 99%\n"),
        ("one\r\ntwo\r\n", "one\ntwo\n"),
        ("100%\rok", "ok0%"),
        ("100%\r\x1b[Kok", "ok"),
        ("100%\x1b[2K\rok", "ok"),
        ("12345\x1b[1K\rab", "ab"),
        ("\x1b[32m50%\x1b[0m\r\x1b[32m99%\x1b[0m\r", "99%"),
        ("ab\b\bc\b\b\bd", "db"),
        ("a\r\r\nb", "a\nb"),
        ("\x1b]0;title\x07x\r\x1b[2Jy", "y"),
        ("before\n10%\r20%\nafter", "before\n20%\nafter"),
    ],
)
def test_what_a_tool_printed_is_shown_as_a_terminal_would(printed: str, shown: str) -> None:
    assert as_shown(printed) == shown
    told = wording.last_output(ToolEnded("t", "command", "x", "failed", 3, printed))
    assert plain(told).splitlines() == [f"  {line}" for line in shown.rstrip().splitlines()]


@given(
    st.text(st.sampled_from(["a", "b", "\r", "\n", "\b", "\x1b", "[", "K", "2", "\x9b", "\u202e", "é"]), max_size=30)
)
def test_what_is_shown_of_a_tool_is_harmless(printed: str) -> None:
    shown = as_shown(printed)
    assert harmless(shown) == shown
    assert "\r" not in shown


def test_a_bar_that_moves_is_shown_live_in_its_last_state() -> None:
    transcript = Transcript(lambda _: None)
    transcript.show(ToolStarted("t", "command", "make"))
    for piece in ("\rProgress 33%", "\rProgress 66%", "\rProgress 99%"):
        transcript.show(ToolOutput("t", piece))
    assert transcript.live(80, 4) == [("class:dim", "  Progress 99%")]


def test_what_is_asked_hides_nothing_behind_a_carriage_return() -> None:
    assert harmless("rm -rf /\recho hello") == "rm -rf /\necho hello"
    assert wording.tool("rm -rf /\recho hello") == "rm -rf / echo hello"


def test_the_command_of_a_survivor() -> None:
    left = {"pid": 7, "start_time": 1, "user": "games", "state": "D", "reason": "why"}
    told = {"verdict": "survivors", "proof": None, "seconds": 1.0, "signals": []}
    report = Report.from_json({**told, "survivors": [{**left, "command": "sleep \x1b]0;title\x07\x9b2J 9"}]})
    out = io.StringIO()
    console(out).print(rich_block(processes.report(report)))
    assert "pid 7 (games, D) sleep 2J 9: why" in out.getvalue()
    assert harmless(out.getvalue()) == out.getvalue()


def test_the_log_on_a_terminal() -> None:
    out = io.StringIO()
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    try:
        logs.set_up(out, as_json=False)
        structlog.get_logger("corral").warning("a connection was refused", person="\x1b]0;title\x07\x9b2Jmallory")
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
        structlog.reset_defaults()
    assert "person=2Jmallory" in out.getvalue()
    assert harmless(out.getvalue()) == out.getvalue()


@pytest.mark.slow
def test_the_arguments_of_a_process_in_a_tree(driver: Driver) -> None:
    sleeping = "import time; print('ready', flush=True); time.sleep(1000)"
    driver.start_job([driver.service.python, "-c", sleeping, "\x1b]52;c;cm0K\x07\x9b2J\nthe end"], None)
    service = driver.service
    argv = service.corral("ps", "--state-dir", str(service.state_dir))
    wait_until(lambda: "the end" in service.run(argv).stdout, 10, "its command is there")
    said = service.run(argv).stdout
    assert harmless(said) == said
    assert "cm0K" not in said
    driver.end()
