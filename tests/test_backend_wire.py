"""Below every backend: lines of any length, a feed with one end, the JSON of events, and a child's environment."""

import asyncio
import json
import os
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, ClassVar, get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from corral.backends import feed as feed_module
from corral.backends import forms, oversize, pace, unicode
from corral.backends.attachments import read_input
from corral.backends.backend import Answer, Input, Limits
from corral.backends.deadline import next_limit, sentence
from corral.backends.environment import child_environment
from corral.backends.errors import InputError
from corral.backends.events import (
    ApprovalClosed,
    ApprovalRequested,
    Decision,
    Limit,
    Notice,
    Text,
    ToolEnded,
    ToolOutput,
    ToolStarted,
    TurnEnded,
    TurnEvent,
    Usage,
    to_json,
)
from corral.backends.jsonl import TooLong, read_lines
from corral.backends.pace import Pace
from corral.backends.turn import Turn
from tests.harness.backends import check, read_all
from tests.harness.waiting import until


async def lines_of(chunks: list[bytes], max_line: int = 1000) -> list[bytes]:
    reader = asyncio.StreamReader(limit=16)
    for chunk in chunks:
        reader.feed_data(chunk)
    reader.feed_eof()
    return [line async for line in read_lines(reader, max_line=max_line)]


@given(st.lists(st.binary(max_size=300), max_size=20))
def test_lines_are_those_of_split_whatever_the_chunks(chunks: list[bytes]) -> None:
    want = [line.strip() for line in b"".join(chunks).split(b"\n") if line.strip()]
    assert asyncio.run(lines_of(chunks, max_line=10_000)) == want


async def test_a_line_over_the_bound_is_dropped_and_told_and_the_next_is_read() -> None:
    big = b"x" * 200_000
    lines = await lines_of([b"a\n", big, b"\nb\n", big])
    assert lines == [b"a", TooLong(200_000), b"b", TooLong(200_000)]
    assert [isinstance(line, TooLong) for line in lines] == [False, True, False, True]


@pytest.fixture
def always_rests(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if every look at the clock were a slice later."""
    monkeypatch.setattr(pace, "SLICE", -1.0)


async def rests_during(work: Coroutine[Any, Any, object]) -> int:
    """How often another task had its turn meanwhile."""
    count = 0

    async def tick() -> None:
        nonlocal count
        while True:
            await asyncio.sleep(0)
            count += 1

    ticking = asyncio.create_task(tick())
    try:
        await work
    finally:
        ticking.cancel()
    return count


HEAD, TAIL = b'{"method":"m","params":{"delta":"', b'","threadId":"t"}}'


@pytest.mark.parametrize(
    "middle",
    [
        b"x" * 4_000_000,
        b"x" * 4_000_000 + rb"\ud83d",
        b"\xff" * 1_000_000,
        rb"\ud83d" * 100_000,
        "\u00e4".encode() * 1_000_000,
    ],
    ids=["plain", "a half", "not UTF-8", "halves", "letters"],
)
@pytest.mark.usefixtures("always_rests")
@pytest.mark.slow
async def test_others_get_the_loop_while_a_large_line_is_read(middle: bytes) -> None:
    line = HEAD + middle + TAIL
    got: list[Any] = []

    async def read() -> None:
        reader = asyncio.StreamReader()
        reader.feed_data(line)
        reader.feed_eof()
        got.extend([one async for one in read_lines(reader, decodable=True)])

    assert await rests_during(read()) > len(line) / 65536 * 2
    text = msgspec.json.decode(got[0])["params"]
    assert text["threadId"] == "t"
    assert text["delta"] == middle.decode(errors="replace").replace(r"\ud83d", "\ufffd")


@pytest.mark.usefixtures("always_rests")
async def test_others_get_the_loop_while_a_backlog_is_read() -> None:
    async def lines() -> None:
        await lines_of([b"x\n" * 100_000])

    turn = Turn(Limits())
    turn.begin("1")
    for number in range(10_000):
        turn.put(Text("x", str(number)))
    turn.end(TurnEnded("completed"))
    assert await rests_during(lines()) > 500
    assert await rests_during(read_all(turn)) > 20


JSON = st.recursive(
    st.none() | st.integers(0, 99) | st.text(max_size=200),
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.text(max_size=5), inner, max_size=6),
    max_leaves=60,
)


@given(JSON, st.integers(0, 30), st.integers(40, 80), st.booleans())
def test_what_is_left_of_a_large_line_is_json_and_keeps_its_shallow_part(
    value: object, most_values: int, most_string: int, ascii_only: bool
) -> None:
    line = json.dumps({"a": {"deep": value, "b": 1}, "c": [2]}, ensure_ascii=ascii_only).encode()
    with pytest.MonkeyPatch.context() as patch:
        for name, number in (("MOST_VALUES", most_values), ("MOST_STRING", most_string), ("WINDOW", 7)):
            patch.setattr(oversize, name, number)
        cut = asyncio.run(oversize.cut(line, Pace()))
    assert cut is not None
    left = json.loads(cut.decode(errors="replace"))
    if most_values < 3:
        assert left["a"].keys() >= {"deep", "b"}
    assert cut.count(b",") - line.count(b",") <= 0
    if len(line) < most_string and most_values == 30 and line.count(b",") + line.count(b"{") + line.count(b"[") < 30:
        assert cut == line


HALVES = st.text(st.sampled_from(["a", "\\", '"', "u", "d", "\ud83d", "\ude00", "\U0001f600", "\u00e4"]), max_size=12)


@given(HALVES, st.binary(max_size=3), st.integers(12, 30))
def test_a_line_that_is_not_unicode_becomes_one_that_the_decoder_takes(said: str, odd: bytes, window: int) -> None:
    odd = odd.replace(b'"', b"").replace(b"\\", b"").translate(None, bytes(range(32)))
    line = json.dumps([said]).encode()[:-2] + odd + b'"]'
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(unicode, "WINDOW", window)
        fit = asyncio.run(unicode.repaired(line, Pace()))
    whole = said.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    assert msgspec.json.decode(fit) == [whole + odd.decode(errors="replace")]


TOOL = st.sampled_from(["a", "b"])
ACTS: st.SearchStrategy[tuple[str, Any]] = st.one_of(
    st.tuples(st.just("begin"), st.sampled_from(["1", "2"])),
    st.tuples(st.just("put"), st.builds(Text, st.text(max_size=3), st.sampled_from(["m", "n"]))),
    st.tuples(st.just("put"), st.builds(ToolStarted, TOOL, st.just("command"), st.just("x"))),
    st.tuples(st.just("put"), st.builds(ToolOutput, TOOL, st.text(max_size=3))),
    st.tuples(st.just("put"), st.builds(ToolEnded, TOOL, st.just("command"), st.just("x"), st.just("completed"))),
    st.tuples(st.just("put"), st.builds(Notice, st.text(max_size=3))),
    st.tuples(st.just("ask"), st.sampled_from(["p", "q"])),
    st.tuples(st.just("answer"), st.tuples(st.sampled_from(["p", "q"]), st.sampled_from(get_args(Decision)))),
    st.tuples(st.just("withdraw"), st.sampled_from(["p", "q"])),
    st.tuples(st.just("stop"), st.just(TurnEnded("interrupted", "enough"))),
    st.tuples(st.just("end"), st.just(TurnEnded("completed"))),
)


@given(st.lists(ACTS, max_size=40))
@pytest.mark.slow
def test_whatever_an_engine_says_a_turn_holds_its_invariants(acts: list[tuple[str, Any]]) -> None:
    async def hold() -> list[TurnEvent]:
        turn = Turn(Limits())
        running = asyncio.create_task(turn.run())
        asking: dict[str, asyncio.Task[Answer]] = {}
        for act, what in [*acts, ("end", TurnEnded("failed", "the last word"))]:
            match act:
                case "ask":
                    asked = ApprovalRequested(what, "command", "x", decisions=("accept", "decline", "cancel"))
                    asking[what] = asyncio.create_task(turn.ask(asked))
                case "answer":
                    turn.answer(what[0], Answer(what[1]))
                case "withdraw" if what in asking:
                    asking[what].cancel()
                case "withdraw":
                    pass
                case _:
                    getattr(turn, act)(what)
            await asyncio.sleep(0)
        await asyncio.wait([running, *asking.values()], timeout=5)
        assert running.done(), "it is over"
        assert all(task.done() for task in asking.values()), "nobody waits for an answer any more"
        assert turn.approvals == ()
        return await read_all(turn)

    check(asyncio.run(hold()))


async def test_a_slow_reader_gets_all_the_text_in_few_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed_module, "LAG", 10)
    turn = Turn(Limits())
    turn.begin("1")
    for number in range(1000):
        turn.put(Text(f"{number} ", "one"))
    turn.put(Text("other", "two"))
    turn.end(TurnEnded("completed"))
    _, *got, _ = await read_all(turn)
    assert len(got) == 10
    assert "".join(event.delta for event in got if isinstance(event, Text)).split()[:3] == ["0", "1", "2"]
    assert got[-1] == Text("other", "two")


class TestLimit:
    """Which limit of a turn comes next."""

    def next(self, limits: Limits, **so_far: Any) -> Limit:
        return next_limit(limits, **{"ran": 0.0, "silent": 0.0, "tool": None, "paused": False, **so_far})

    def test_the_first_that_will_be_reached(self) -> None:
        limits = Limits(silence=100, turn=1000)
        assert self.next(limits, ran=50, silent=50) == Limit("silence", 50, 100)
        assert self.next(limits, ran=950, silent=10) == Limit("turn", 50, 1000, near=True)

    def test_a_running_tool_is_life_up_to_its_own_bound(self) -> None:
        limits = Limits(silence=10, tool=100, turn=1000)
        tool = self.next(limits, ran=50, silent=50, tool=("make", 50))
        assert tool == Limit("tool", 50, 100, tool="make")
        assert sentence(tool) == "100 s, a tool's limit, in 'make'"
        assert self.next(limits, ran=98, silent=1, tool=("make", 98)) == Limit("silence", 9, 10)

    def test_an_open_approval_stops_the_silence_but_not_the_turn_s_limit(self) -> None:
        paused = self.next(Limits(silence=10, turn=1000), ran=50, silent=50, paused=True)
        assert paused == Limit("turn", 950, 1000, paused=True)
        assert sentence(paused) == "the turn's limit of 1000 s"


async def next_of(kind: type[Any], turn: Turn) -> Any:
    async with asyncio.timeout(5):
        while not isinstance(event := await turn.feed.get(), kind):
            pass
    return event


class TestTold:
    """Which limits of a turn its reader is told of."""

    async def test_another_limit_that_comes_next_is_told_and_one_that_is_put_off_is_not(self) -> None:
        turn = Turn(Limits(silence=100, tool=200, turn=1000))
        running = asyncio.create_task(turn.run())
        turn.begin("1")
        assert await next_of(Limit, turn) == Limit("silence", 100, 100)
        for _ in range(100):
            turn.put(Text("hm"))
            await asyncio.sleep(0)
        turn.put(ToolStarted("t", "command", "make"))
        assert await next_of(Limit | ToolStarted, turn) == ToolStarted("t", "command", "make")
        assert await next_of(Limit, turn) == Limit("tool", 200, 200, tool="make")
        asking = asyncio.create_task(turn.ask(ApprovalRequested("a", "command", "make it")))
        told = await next_of(Limit, turn)
        assert (told.timer, told.paused) == ("turn", True)
        assert turn.answer("a", Answer("accept", by="anna"))
        assert await next_of(ApprovalClosed, turn) == ApprovalClosed("a", "accept", "anna")
        assert (await next_of(Limit, turn)).timer == "tool"
        assert (await asking).decision == "accept"
        turn.put(ToolEnded("t", "command", "make", "completed"))
        assert (await next_of(Limit, turn)).timer == "silence"
        turn.end(TurnEnded("completed"))
        await asyncio.wait_for(running, 5)
        assert not turn.stopped

    @pytest.mark.slow
    async def test_a_limit_is_told_again_when_it_is_near_and_when_a_sign_of_life_puts_it_off(self) -> None:
        turn = Turn(Limits(silence=1.2, turn=1000))
        running = asyncio.create_task(turn.run())
        turn.begin("1")
        assert not (await next_of(Limit, turn)).near
        near = await next_of(Limit, turn)
        assert near.near
        assert 0 < near.seconds_left <= 0.4
        turn.put(Notice("it tries again"))
        turn.touch()
        assert await next_of(Limit, turn) == Limit("silence", 1.2, 1.2)
        await asyncio.wait_for(running, 5)
        assert turn.stopped == TurnEnded("timed_out", "the turn reached 1.2 s of silence")

    async def test_a_notice_and_a_bill_are_no_signs_of_life(self) -> None:
        turn = Turn(Limits(silence=0.3, turn=1000))
        running = asyncio.create_task(turn.run())
        turn.begin("1")
        while not running.done():
            turn.put(Notice("it tries again"))
            turn.put(Usage(1, 0, 1, 2))
            await asyncio.sleep(0.01)
        assert turn.stopped == TurnEnded("timed_out", "the turn reached 0.3 s of silence")

    async def test_the_time_of_a_tool_is_told_without_that_of_its_approval(self) -> None:
        turn = Turn(Limits())
        turn.begin("1")
        turn.put(ToolStarted("t", "command", "make"))
        asking = asyncio.create_task(turn.ask(ApprovalRequested("a", "command", "make it")))
        await until(lambda: turn.limit().paused, what="it was asked for")
        assert turn.approvals == (), "the reader has not been told"
        asked = await next_of(ApprovalRequested, turn)
        assert turn.approvals == (asked,)
        began = time.monotonic()
        await until(lambda: time.monotonic() > began + 0.5, what="half a second had passed")
        turn.answer("a", Answer("accept"))
        await asking
        turn.put(ToolEnded("t", "command", "make", "completed"))
        ended = await next_of(ToolEnded, turn)
        assert 0 <= ended.seconds < 0.4
        assert ended == ToolEnded("t", "command", "make", "completed", seconds=ended.seconds)


class TestForms:
    """Forms of MCP servers."""

    SCHEMA: ClassVar[dict[str, Any]] = {
        "properties": {
            "name": {"type": "string", "title": "Name", "description": "yours"},
            "age": {"type": "integer"},
            "weight": {"type": "number"},
            "sure": {"type": "boolean"},
            "one": {"type": "string", "enum": ["r", "g"], "enumNames": ["Red", "Green"]},
            "two": {"type": "string", "oneOf": [{"const": "a", "title": "Aye"}, {"const": "n", "title": "No"}]},
            "some": {"type": "array", "items": {"type": "string", "enum": ["x", "y", "z"]}},
        },
        "required": ["name"],
    }

    def test_each_property_is_a_question(self) -> None:
        asked = {question.question_id: question for question in forms.questions(self.SCHEMA)}
        assert asked["name"].text == "Name: yours"
        assert asked["name"].free
        assert asked["name"].required
        assert not asked["age"].required
        assert asked["sure"].options == ("yes", "no")
        assert asked["one"].options == ("Red", "Green")
        assert asked["two"].options == ("Aye", "No")
        assert asked["some"].several
        assert asked["some"].options == ("x", "y", "z")

    def test_the_answers_become_what_the_form_wants(self) -> None:
        given = {"name": ["Ada"], "age": ["36"], "sure": ["Yes"], "one": ["Green"], "two": ["a"], "some": ["x", "z"]}
        wanted = {"name": "Ada", "age": 36, "sure": True, "one": "g", "two": "a", "some": ["x", "z"]}
        assert forms.content(self.SCHEMA, given) == wanted

    @pytest.mark.parametrize(
        ("answers", "words"),
        [
            ({}, "Name: yours needs an answer"),
            ({"name": ["Ada"], "age": ["old"]}, "'old' is not a whole number"),
            ({"name": ["Ada"], "age": ["9" * 5000]}, "is not a whole number"),
            ({"name": ["Ada"], "weight": ["nan"]}, "'nan' is not a number"),
            ({"name": ["Ada"], "weight": ["1e999"]}, "'1e999' is not a number"),
            ({"name": ["Ada"], "sure": ["perhaps"]}, "'perhaps' is neither yes nor no"),
            ({"name": ["Ada"], "one": ["Blue"]}, "'Blue' is none of Red, Green"),
        ],
    )
    def test_what_the_form_does_not_take_is_told(self, answers: dict[str, list[str]], words: str) -> None:
        with pytest.raises(forms.FormError, match=words):
            forms.content(self.SCHEMA, answers)

    @given(st.recursive(st.none() | st.text() | st.integers(), lambda inner: st.dictionaries(st.text(), inner)))
    @pytest.mark.slow
    def test_no_schema_breaks_it(self, schema: object) -> None:
        forms.questions({"properties": schema})
        forms.questions(schema)


class TestAttachments:
    """What a person attaches."""

    @pytest.mark.parametrize(
        ("start", "kind"),
        [
            (b"\x89PNG\r\n\x1a\n", "image/png"),
            (b"\xff\xd8\xff\xe0", "image/jpeg"),
            (b"GIF89a", "image/gif"),
            (b"RIFF\0\0\0\0WEBP", "image/webp"),
        ],
    )
    async def test_a_picture_is_known_by_its_first_bytes(self, tmp_path: Path, start: bytes, kind: str) -> None:
        path = tmp_path / "picture"
        path.write_bytes(start + b"rest")
        [image] = (await read_input(Input("", images=(path,)))).images
        assert image.media_type == kind

    async def test_a_file_that_is_not_a_picture_is_refused_with_what_to_do(self, tmp_path: Path) -> None:
        text, pipe = tmp_path / "a.txt", tmp_path / "pipe"
        text.write_text("hello")
        os.mkfifo(pipe)
        for path, words in ((text, "attach it as a file"), (pipe, "is not a file"), (tmp_path, "is not a file")):
            with pytest.raises(InputError, match=words):
                await read_input(Input("look", images=(path,)))

    async def test_files_are_named(self, tmp_path: Path) -> None:
        message = await read_input(Input("read", files=(tmp_path / "a b.txt",)))
        assert message.text == f"read\n\nAttached files:\n- {tmp_path}/a b.txt"


def test_an_event_names_itself_in_json() -> None:
    assert to_json(Notice("careful")) == {"event": "notice", "message": "careful"}
    ended = to_json(ToolEnded("t", "command", "ls", "failed", 2))
    assert ended["event"] == "tool_ended"
    assert ended["exit_code"] == 2


def test_a_child_gets_none_of_the_services_secrets() -> None:
    base = {
        "PATH": "/bin",
        "OPENAI_API_KEY": "theirs",
        "GITHUB_TOKEN": "theirs",
        "CORRAL_ANYTHING": "x",
        "TELEGRAM_BOT_TOKEN": "x",
        "MY_BOT_TOKEN": "x",
        "SLACK_APP_TOKEN": "x",
    }
    child = child_environment({"CODEX_HOME": "/h"}, base=base)
    assert child == {"PATH": "/bin", "OPENAI_API_KEY": "theirs", "GITHUB_TOKEN": "theirs", "CODEX_HOME": "/h"}
