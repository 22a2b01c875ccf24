"""What agents print, and what they and whoever connects call things, does not command a terminal."""

import io
import json
import logging

import structlog

from corral import view
from corral.backends.base import Text
from corral.chat.printing import JsonPrinter
from corral.printable import harmless
from corral.process import Report
from corral.service import logs
from tests.harness.driving import Driver
from tests.harness.waiting import wait_until


def test_as_json_controls_are_escapes_and_the_value_is_whole() -> None:
    said = "\x1b]0;title\x07 \x9b2J \x7f \u202e ü→"
    out = io.StringIO()
    JsonPrinter(out).show(Text(said, "m"))
    assert harmless(out.getvalue()) == out.getvalue()
    assert "ü→" in out.getvalue()
    assert json.loads(out.getvalue())["delta"] == said


def test_the_command_of_a_survivor() -> None:
    left = {"pid": 7, "start_time": 1, "user": "games", "state": "D", "reason": "why"}
    told = {"verdict": "survivors", "proof": None, "seconds": 1.0, "signals": []}
    report = Report.from_json({**told, "survivors": [{**left, "command": "sleep \x1b]0;title\x07\x9b2J 9"}]})
    out = io.StringIO()
    view.console(out).print(view.report(report))
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
