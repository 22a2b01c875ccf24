"""The log stays small and readable whatever others choose to send."""

import asyncio
import io
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from corral.remote import wire
from corral.service import logs
from tests.harness.daemon import serving, write_config

SECRET = "what-a-person-said"


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    """The log of a program with a terminal, or of one without (`logs.set_up` again)."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    out = io.StringIO()
    yield out
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def fail() -> None:
    said = SECRET
    raise ValueError(f"{len(said)} letters")


@pytest.mark.parametrize("as_json", [False, True], ids=["terminal", "json"])
def test_an_exception_is_logged_without_the_values_of_its_frames(as_json: bool, log: io.StringIO) -> None:
    logs.set_up(log, as_json=as_json)
    try:
        fail()
    except ValueError:
        structlog.get_logger("corral").exception("a turn failed")
        logging.getLogger("corral").exception("reading failed")
    assert log.getvalue().count("18 letters") == 2
    assert "in fail" in log.getvalue()
    assert SECRET not in log.getvalue()


@pytest.mark.parametrize("as_json", [False, True], ids=["terminal", "json"])
def test_what_others_choose_is_cut(as_json: bool, log: io.StringIO) -> None:
    logs.set_up(log, as_json=as_json)
    long = "x" * 3_000_000
    one = structlog.get_logger("corral")
    one.warning(f"an event {long}", person=long, faults=[long] * 1000, error=repr(long), number=7)
    logging.getLogger("corral").warning("skipped: %s", long)
    try:
        raise ValueError(long)
    except ValueError:
        one.exception("a turn failed")
    assert len(log.getvalue()) < 50_000
    assert log.getvalue().count("\n") < 30
    assert "characters left out" in log.getvalue()
    assert "and 950 more" in log.getvalue()


def test_lines_of_one_kind_from_one_source_are_counted_beyond_a_burst(log: io.StringIO) -> None:
    now = 0.0
    pace = logs.Pace(lambda: now)

    def written(event: str, method: str = "warning", **fields: object) -> dict[str, object] | None:
        try:
            return dict(pace(None, method, {"event": event, **fields}))
        except structlog.DropEvent:
            return None

    lines = [written("a connection was refused", uid=1) for _ in range(1000)]
    assert [line is not None for line in lines] == [True] * logs.BURST + [False] * (1000 - logs.BURST)
    assert (lines[logs.BURST - 1] or {})["next"] == "no more of these for 60 s"
    assert written("a connection was refused", uid=2), "another source has its own"
    assert all(written("turn ended", "info", person="anna") for _ in range(1000)), (
        "work that was done is never left out"
    )
    assert not all(written("attached", "info", uid=1) for _ in range(1000))
    now = logs.WINDOW
    assert written("a connection was refused", uid=1) == {
        "event": "a connection was refused", "uid": 1, "left_out": 1000 - logs.BURST
    }  # fmt: skip
    many = [written("a connection was refused", uid=number) for number in range(100_000)]
    assert len(pace._windows) <= logs.MOST_SOURCES + 1
    assert sum(line is not None for line in many) <= (logs.MOST_SOURCES + 1) * logs.BURST


def test_the_standard_librarys_lines_are_counted_too(log: io.StringIO) -> None:
    logs.set_up(log, as_json=True)
    for number in range(1000):
        logging.getLogger("corral").warning("skipped a line of %d bytes", number)
    assert log.getvalue().count("skipped a line") == logs.BURST
    assert "no more of these" in log.getvalue().splitlines()[-1]


def test_a_line_that_cannot_be_written_does_not_show_up_elsewhere(
    log: io.StringIO, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with (tmp_path / "log").open("w", encoding="ascii") as narrow:
        logs.set_up(narrow, as_json=True)
        structlog.get_logger("corral").warning("ünsaid", person=SECRET)
    said = capfd.readouterr()
    assert (said.out, said.err) == ("", "")
    with logs.in_file(tmp_path):
        structlog.get_logger("corral").warning("half a letter \ud800", person="anna")
    assert "anna" in (tmp_path / logs.FILE).read_text()
    assert log.getvalue() == ""


@pytest.mark.slow
async def test_hellos_with_huge_names_do_not_fill_the_log(tmp_path: Path) -> None:
    with serving(tmp_path, write_config(tmp_path, "anna", "ben")) as daemon:
        before = len(daemon.text())
        for number in range(logs.BURST + 10):
            reader, writer = await asyncio.open_unix_connection(daemon.socket)
            writer.write(wire.encode(wire.Hello(person=f"{number}" + "x" * 3_000_000)))
            assert await asyncio.wait_for(reader.read(), 10) == b""
            writer.close()
        assert len(daemon.logged("a connection was refused")) == logs.BURST
        assert len(daemon.text()) - before < 50_000
