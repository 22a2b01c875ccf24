"""Front ends that fail or lag: each has a queue of its own, and what one does is no other's matter."""

import ast
import asyncio
import re
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

import pytest

from corral.backends.backend import Input
from corral.backends.events import ApprovalRequested, BackendEnded, Notice, Question, Text, ToolOutput, TurnEnded
from corral.service import conversation, front_queue
from corral.service.front import Front, Missed, Reply, Shown
from corral.service.front_queue import MOST_KEPT, MOST_WAITING, FrontQueue
from corral.service.identity import own_account
from tests.harness.hosting import Host, Place, Watcher, configured, hosting
from tests.harness.waiting import until


class Raising(Watcher):
    """Fails when it is told something for the first time."""

    def __init__(self, where: str) -> None:
        super().__init__()
        self._where = where

    def _fail(self, where: str) -> None:
        if where == self._where:
            raise ValueError(f"{where} is broken")

    def show(self, event: Shown) -> None:
        super().show(event)
        self._fail("show")

    async def ready(self) -> None:
        self._fail("ready")

    def idle(self) -> None:
        super().idle()
        self._fail("idle")

    def closed(self, reason: str) -> None:
        super().closed(reason)
        self._fail("closed")


@dataclass(eq=False)
class Slow(Watcher):
    """Takes one event, and the next one when it may."""

    may: asyncio.Event = field(default_factory=asyncio.Event)

    async def ready(self) -> None:
        await self.may.wait()


def errors_of(module: ModuleType, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The errors that the module logs from now on."""
    logged: list[str] = []
    monkeypatch.setattr(module.log, "error", lambda event, **_: logged.append(event))
    return logged


async def beside(host: Host, place: Place, front: Front) -> None:
    """Put another front end at the same conversation."""
    await place.front.until(lambda: place.seat.conversation.ref.id, "the conversation has its id")
    await host.service.seat(own_account(), "anna", front, resume=place.seat.conversation.ref.id)


@pytest.mark.parametrize("where", ["show", "ready", "idle"])
async def test_a_front_end_that_raises_is_dropped_and_logged_and_the_others_go_on(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logged = errors_of(front_queue, monkeypatch)
    async with hosting(configured(tmp_path)) as host:
        anna = await host.seat()
        anna.say("talk")
        await anna.front.turns(1)
        broken = Raising(where)
        await beside(host, anna, broken)
        anna.say("talk")
        anna.say("talk")
        assert [end.status for end in await anna.front.turns(3)] == ["completed"] * 3
        await anna.front.until(lambda: broken.closed_with, "the broken one is closed")
        assert f"{where} is broken" in str(broken.closed_with)
        shown = len(broken.events)
        assert [seat.person for seat in host.service.seats] == ["anna"], "one seat is left"
        anna.say("talk")
        await anna.front.turns(4)
        assert len(broken.events) == shown, "it is shown nothing more"
    assert logged == ["a front end failed, and is dropped"]


async def test_a_front_end_that_cannot_be_closed_does_not_keep_others_open(tmp_path: Path) -> None:
    async with hosting(configured(tmp_path)) as host:
        await host.service.seat(own_account(), "anna", Raising("closed"))
        anna = await host.seat()
    assert anna.front.closed_with == "the service is stopping"


async def test_a_front_end_that_does_not_read_delays_nobody(tmp_path: Path) -> None:
    async with hosting(configured(tmp_path)) as host:
        anna = await host.seat()
        anna.say("talk")
        await anna.front.turns(1)
        slow = Slow()
        await beside(host, anna, slow)
        anna.say("talk")
        await anna.front.turns(2)
        anna.do("/stop")
        await anna.front.until(lambda: anna.front.of(BackendEnded), "the agent is ended")
        assert not slow.of(TurnEnded), "it has not read so far"
        slow.may.set()
        await slow.until(lambda: slow.of(BackendEnded), "it is shown all of it")
        assert slow.ends == ["turn_ended", "backend_ended"]
        assert not slow.of(Missed)


async def test_a_slow_front_end_is_shown_all_words_of_a_long_turn() -> None:
    slow = Slow()
    queue = FrontQueue(slow, lambda: None)
    words = [f"{number} " for number in range(50_000)]
    for word in words:
        queue.show(Text(word, "m"))
    slow.may.set()
    await slow.until(lambda: len(slow.text) == sum(map(len, words)), "it is shown")
    assert slow.text == "".join(words)
    assert len(slow.events) < 2000, "in larger pieces"


async def test_a_front_end_that_falls_behind_is_told_what_it_missed_and_hears_on() -> None:
    slow = Slow()
    dropped: list[str] = []
    queue = FrontQueue(slow, lambda: dropped.append("dropped"))
    piece = "x" * 100_000
    pieces = 4 * MOST_WAITING // len(piece)
    for number in range(pieces):
        queue.show(ToolOutput("t", piece))
        if number % 100 == 0:
            queue.show(Notice(str(number)))
    queue.show(TurnEnded("completed"))
    slow.may.set()
    await slow.until(lambda: slow.of(TurnEnded), "the end is shown")
    queue.show(Text("again", "m"))
    await slow.until(lambda: slow.text == "again", "it is shown what comes later")
    shown = sum(len(event.delta) for event in slow.of(ToolOutput))
    missed = sum(event.characters for event in slow.of(Missed))
    assert shown + missed == pieces * len(piece)
    assert MOST_WAITING <= shown <= MOST_WAITING + 2 * len(piece)
    assert [event.message for event in slow.of(Notice)] == [str(number) for number in range(0, pieces, 100)]
    assert not dropped


async def test_a_front_end_that_never_reads_is_dropped_when_too_much_waits() -> None:
    slow = Slow()
    dropped: list[str] = []
    queue = FrontQueue(slow, lambda: dropped.append("dropped"))
    notice = Notice("x" * 100_000)
    for _ in range(2 * MOST_KEPT // len(notice.message)):
        queue.show(notice)
    assert dropped == ["dropped"]
    assert slow.closed_with == "too much waited to be shown here"


async def test_the_size_of_an_event_counts_its_questions_and_tables() -> None:
    option = "x" * 100_000
    asked = ApprovalRequested("a", "question", "", questions=(Question("q", "which?", (option, option)),))
    for event in asked, Reply("", "history", {"rows": [{"title": option}, {"title": option}]}):
        slow = Slow()
        queue = FrontQueue(slow, lambda: None)
        for _ in range(MOST_KEPT // (2 * len(option)) + 2):
            queue.show(event)
        assert slow.closed_with == "too much waited to be shown here"


async def test_a_front_end_that_is_closed_has_little_time_to_show_what_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(front_queue, "CLOSE_TIMEOUT", 0.05)
    slow = Slow()
    queue = FrontQueue(slow, lambda: None)
    for _ in range(3):
        queue.show(Notice("a"))
    queue.closed("you are not known here any more")
    await slow.until(lambda: slow.closed_with, "it is closed")
    assert len(slow.events) <= 1


async def test_a_front_end_that_leaves_is_shown_all_that_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(front_queue, "CLOSE_TIMEOUT", 0.0)
    slow = Slow()
    queue = FrontQueue(slow, lambda: None)
    for _ in range(3):
        queue.show(Notice("a"))
    queue.closed("")
    for _ in range(20):
        await asyncio.sleep(0)
    assert slow.closed_with is None
    slow.may.set()
    await slow.until(lambda: slow.closed_with == "", "it is closed")
    assert len(slow.events) == 3


async def test_a_long_queue_leaves_the_event_loop_to_others() -> None:
    watcher = Watcher()
    queue = FrontQueue(watcher, lambda: None)
    for number in range(900):
        queue.show(Notice(str(number)))
    most = before = 0
    while len(watcher.events) < 900:
        await asyncio.sleep(0)
        most, before = max(most, len(watcher.events) - before), len(watcher.events)
    assert most <= front_queue.AT_ONCE


async def test_a_fault_in_the_task_of_a_conversation_is_logged_and_closes_its_seats(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logged = errors_of(conversation, monkeypatch)

    async def fails(_: object) -> None:
        raise ValueError("a bug")

    async with hosting(configured(tmp_path)) as host:
        anna, ben = await host.seat(), await host.seat("ben")
        monkeypatch.setattr(anna.seat.conversation, "_hold_turn", fails)
        anna.say("talk")
        await anna.front.until(lambda: anna.front.closed_with, "it is closed")
        assert "a fault in corral" in str(anna.front.closed_with)
        await anna.front.until(lambda: anna.seat.conversation not in host.service.live, "it is forgotten")
        ben.say("talk")
        await ben.front.turns(1)
    assert logged == ["the task of a conversation failed"]


async def test_lone_surrogates_in_a_message_are_replaced(tmp_path: Path) -> None:
    async with hosting(configured(tmp_path)) as host:
        anna = await host.seat()
        anna.seat.send(Input("a half \udcff"))
        assert [end.status for end in await anna.front.turns(1)] == ["completed"]
        assert anna.seat.conversation.ref.title == "a half \ufffd"


async def test_a_seat_whose_making_is_cancelled_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, never = asyncio.Event(), asyncio.Event()

    async def hangs() -> list[object]:
        asked.set()
        await never.wait()
        return []

    async with hosting(configured(tmp_path)) as host:
        monkeypatch.setattr(host.store, "cut_turns", hangs)
        making = asyncio.create_task(host.service.seat(own_account(), "anna", Watcher()))
        await asked.wait()
        making.cancel()
        await asyncio.wait([making])
        assert not host.service.seats
        await until(lambda: not host.service.live, 5, "the conversation is forgotten", lambda: str(host.service.live))


def test_every_task_has_an_owner() -> None:
    """A task that its maker does not await belongs to `Tasks`, which hears of its error."""
    awaited = {
        "process/foreground.py": {"_end", "_stop"},  # awaited by `finish`
        "process/supervision.py": {"start"},
        "terminal/screen.py": {"start"},  # awaited by `stop`; it tells of its end itself
        "terminal/session.py": {"hold"},
        "service/pool.py": {"_any_freed"},
        "service/current_backend.py": {"open"},
        "backends/engine_process.py": {"read"},
        "tasks.py": {"own"},
    }
    source = Path(front_queue.__file__).parents[1]
    made: dict[str, set[str]] = {}
    hanging: list[str] = []
    for file in source.rglob("*.py"):
        if not re.search("create_task|ensure_future|to_thread|run_in_executor", file.read_text(encoding="utf-8")):
            continue
        name = str(file.relative_to(source))
        for function in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            called = {one.func.attr for one in ast.walk(function) if _is_method_call(one)}
            if called & {"create_task", "ensure_future"}:
                made.setdefault(name, set()).add(function.name)
            if called & {"to_thread", "run_in_executor"}:
                hanging.append(f"{name}: {function.name}")
    assert made == awaited
    assert not hanging, "the default executor is shared by everything: what may hang belongs to `Workers`"


def _is_method_call(node: object) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
