"""Below every backend: lines of any length, a feed with one end, the JSON of events, and a child's environment."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corral.backends import feed as feed_module
from corral.backends.environment import child_environment
from corral.backends.events import Notice, Text, ToolEnded, TurnEnded, to_json
from corral.backends.feed import TurnFeed
from corral.backends.jsonl import read_lines


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


async def test_a_line_over_the_bound_is_dropped_and_the_next_is_read() -> None:
    big = b"x" * 200_000
    assert await lines_of([b"a\n", big, b"\nb\n", big]) == [b"a", b"b"]


async def test_nothing_follows_the_end_of_a_feed() -> None:
    feed = TurnFeed()
    for event in (Text("a"), TurnEnded("completed"), Text("late"), TurnEnded("failed", "late")):
        feed.put(event)
    assert [await feed.get(1), await feed.get(1)] == [Text("a"), TurnEnded("completed")]
    with pytest.raises(TimeoutError):
        await feed.get(0.01)


async def test_a_slow_reader_gets_all_the_text_in_few_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed_module, "LAG", 10)
    feed = TurnFeed()
    for number in range(1000):
        feed.put(Text(f"{number} ", "one"))
    feed.put(Text("other", "two"))
    feed.put(TurnEnded("completed"))
    got = []
    while not isinstance(event := await feed.get(1), TurnEnded):
        got.append(event)
    assert len(got) == 11
    assert "".join(event.delta for event in got if isinstance(event, Text)).split()[:3] == ["0", "1", "2"]
    assert got[-1] == Text("other", "two")


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
