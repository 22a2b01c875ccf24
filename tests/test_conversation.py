"""The order of things in a conversation, at moments that a real backend passes through too quickly to be met."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from corral.backends.base import (
    BackendEnded,
    BackendStarted,
    Event,
    Input,
    Notice,
    Text,
    TurnEnded,
    TurnEvent,
    TurnStarted,
)
from corral.backends.errors import BackendError, ResumeError
from corral.chat.conversation import Conversation
from corral.process import Report
from tests.harness.waiting import until

EMPTY = Report("proven_empty", "no_children", 0.0)


class Backend:
    """Stands for a backend: a turn goes on until it is told to end."""

    def __init__(self, conversation: str, *, resumed: bool) -> None:
        self.conversation = conversation if resumed else ""
        self._name = conversation
        self.gone = ""
        self.started = BackendStarted("codex", 1, "me", conversation, resumed=resumed)
        self.turns: list[str] = []
        self.end_turn = asyncio.Event()
        self.may_end = asyncio.Event()
        self.may_end.set()
        self.ending = False
        self.over = asyncio.Event()

    async def send(self, message: Input) -> AsyncIterator[TurnEvent]:
        self.turns.append(message.text)
        self.conversation = self._name
        yield TurnStarted("1")
        yield Text(message.text)
        await self.end_turn.wait()
        yield TurnEnded("interrupted", "the backend was ended") if self.ending else TurnEnded("completed")

    async def wait(self) -> BackendEnded:
        await self.over.wait()
        return BackendEnded(EMPTY)

    async def end(self) -> BackendEnded:
        self.ending = True
        await self.may_end.wait()
        self.end_turn.set()
        self.over.set()
        return BackendEnded(EMPTY)


@dataclass
class Scene:
    """A conversation whose backends, and whose front end, the test holds up."""

    backends: list[Backend] = field(default_factory=list)
    asked: list[str | None] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    may_start: asyncio.Event = field(default_factory=asyncio.Event)
    may_show: asyncio.Event = field(default_factory=asyncio.Event)
    refusal: BackendError | None = None
    starting: int = 0
    conversation: Conversation = field(init=False)

    async def open(self, resume: str | None) -> Backend:
        self.asked.append(resume)
        self.starting += 1
        try:
            await self.may_start.wait()
            if self.refusal is not None:
                refusal, self.refusal = self.refusal, None
                raise refusal
        finally:
            self.starting -= 1
        self.backends.append(Backend(resume or f"thread-{len(self.backends)}", resumed=resume is not None))
        return self.backends[-1]

    def show(self, event: Event) -> None:
        self.events.append(event)

    async def ready(self) -> None:
        await self.may_show.wait()

    def idle(self) -> None:
        pass

    def shown(self, *kinds: type[Event]) -> list[str]:
        return [event.event for event in self.events if isinstance(event, kinds)]

    @property
    def ends(self) -> list[str]:
        return self.shown(TurnEnded, BackendEnded)

    @property
    def notices(self) -> list[str]:
        return [event.message for event in self.events if isinstance(event, Notice)]

    async def until(self, condition: Callable[[], object], what: str) -> None:
        await until(condition, 5, what, lambda: "\n".join(map(str, self.events)))


@asynccontextmanager
async def scene(*, starts: bool = True, shows: bool = True) -> AsyncIterator[Scene]:
    """A conversation that runs, and is closed and over at the end."""
    one = Scene()
    if starts:
        one.may_start.set()
    if shows:
        one.may_show.set()
    one.conversation = Conversation(one.open, one)  # type: ignore[arg-type]
    running = asyncio.create_task(one.conversation.run())
    try:
        yield one
    finally:
        one.may_show.set()
        await asyncio.wait_for(one.conversation.close(), 5)
        await asyncio.wait_for(running, 5)
        assert all(backend.ending for backend in one.backends), "every backend is ended"
        assert one.starting == 0, "no start is left over"


async def test_stop_in_the_start_takes_the_message_back_and_the_next_one_starts_anew() -> None:
    async with scene(starts=False) as one:
        one.conversation.send("first")
        await one.until(lambda: one.starting, "the backend starts")
        await one.conversation.stop()
        assert one.starting == 0
        assert one.notices == ["not sent: first", "the start was stopped"]
        one.may_start.set()
        one.conversation.send("second")
        await one.until(lambda: one.backends and one.backends[0].turns == ["second"], "the second is held")


@pytest.mark.parametrize("forget", [False, True])
async def test_what_comes_in_one_read_is_told_apart_by_its_order(forget: bool) -> None:
    async with scene() as one:
        await one.until(lambda: one.backends, "the backend runs")
        one.conversation.send("first")
        stopping = asyncio.create_task(one.conversation.stop(forget=forget))
        one.conversation.send("second")
        await stopping
        await one.until(lambda: len(one.backends) == 2 and one.backends[1].turns == ["second"], "the second is held")
        assert one.backends[0].turns == []
        assert "not sent: first" in one.notices
        assert "not sent: second" not in one.notices


async def test_a_message_is_held_by_the_new_backend_after_a_restart() -> None:
    async with scene() as one:
        one.conversation.send("first")
        await one.until(lambda: one.backends and one.backends[0].turns, "the first is held")
        one.conversation.send("second")
        await one.conversation.restart()
        await one.until(lambda: len(one.backends) == 2 and one.backends[1].turns == ["second"], "the second is held")
        assert one.backends[0].turns == ["first"]
        assert one.asked == [None, "thread-0"]


async def test_a_message_during_the_ending_waits_for_it() -> None:
    async with scene() as one:
        one.conversation.send("first")
        await one.until(lambda: one.backends and one.backends[0].turns, "the first is held")
        one.backends[0].may_end.clear()
        stopping = asyncio.create_task(one.conversation.stop())
        await one.until(lambda: one.backends[0].ending, "the ending is under way")
        one.conversation.send("second")
        for _ in range(20):
            await asyncio.sleep(0)
        assert len(one.backends) == 1, "two would share one CODEX_HOME"
        one.backends[0].may_end.set()
        await stopping
        await one.until(lambda: len(one.backends) == 2 and one.backends[1].turns == ["second"], "the second is held")
        assert one.ends == ["turn_ended", "backend_ended"]
        assert one.asked == [None, "thread-0"]


async def test_the_end_of_the_turn_is_shown_before_the_report_however_slow_the_front_is() -> None:
    async with scene(shows=False) as one:
        one.conversation.send("first")
        await one.until(lambda: one.shown(TurnStarted), "the turn began")
        stopping = asyncio.create_task(one.conversation.stop())
        await one.until(lambda: one.backends[0].ending, "the ending is under way")
        for _ in range(20):
            await asyncio.sleep(0)
        assert one.ends == []
        one.may_show.set()
        await stopping
        assert one.ends == ["turn_ended", "backend_ended"]
        assert one.events[-2] == TurnEnded("interrupted", "stopped on request")


async def test_a_conversation_that_is_not_known_any_more_is_begun_anew() -> None:
    async with scene() as one:
        one.conversation.send("first")
        await one.until(lambda: one.backends and one.backends[0].turns, "the first is held")
        await one.conversation.stop()
        one.refusal = ResumeError("codex cannot go on with it")
        one.conversation.send("second")
        await one.until(lambda: len(one.backends) == 2 and one.backends[1].turns, "the second is held")
        assert one.asked == [None, "thread-0", None]
        assert "codex cannot go on with it; this is a new one" in one.notices


async def test_a_start_that_fails_later_fails_the_turn_and_not_the_chat() -> None:
    async with scene() as one:
        await one.until(lambda: one.backends, "the backend runs")
        await one.conversation.stop()
        one.refusal = BackendError("the disk is full")
        one.conversation.send("second")
        await one.until(lambda: one.shown(TurnEnded), "the turn ended")
        assert one.events[-1] == TurnEnded("failed", "the disk is full")
        one.conversation.send("third")
        await one.until(lambda: len(one.backends) == 2 and one.backends[1].turns == ["third"], "the third is held")


async def test_the_first_start_that_fails_ends_it_with_the_reason() -> None:
    one = Scene(refusal=BackendError("no rule in sudoers"))
    one.may_start.set()
    conversation = Conversation(one.open, one)  # type: ignore[arg-type]
    assert await asyncio.wait_for(conversation.run(), 5) == "no rule in sudoers"


@pytest.mark.parametrize("message", [True, False])
async def test_closing_in_the_start_leaves_no_backend(message: bool) -> None:
    async with scene(starts=False) as one:
        if message:
            one.conversation.send("first")
        await one.until(lambda: one.starting, "the backend starts")
    assert one.backends == []


async def test_a_restart_behind_a_close_starts_nothing() -> None:
    async with scene() as one:
        await one.until(lambda: one.backends, "the backend runs")
        one.backends[0].may_end.clear()
        closing = asyncio.create_task(one.conversation.close())
        await one.until(lambda: one.backends[0].ending, "the ending is under way")
        restarting = asyncio.create_task(one.conversation.restart())
        one.backends[0].may_end.set()
        await asyncio.gather(closing, restarting)
        assert len(one.backends) == 1


async def test_a_backend_that_died_is_ended_before_the_next_turn() -> None:
    async with scene() as one:
        await one.until(lambda: one.backends, "the backend runs")
        one.backends[0].gone = "codex ended with status 1"
        one.conversation.send("first")
        await one.until(lambda: len(one.backends) == 2 and one.backends[1].turns == ["first"], "the turn is held")
        assert one.ends == ["backend_ended"]


async def test_a_backend_that_dies_between_turns_is_told_of_at_once() -> None:
    async with scene() as one:
        await one.until(lambda: one.backends, "the backend runs")
        one.backends[0].gone = "codex ended with status -9"
        one.backends[0].over.set()
        await one.until(lambda: one.ends == ["backend_ended"], "its end was shown")
        assert one.notices == ["codex ended with status -9"]
        assert one.conversation.backend is None
        one.conversation.send("and now?")
        await one.until(lambda: len(one.backends) == 2 and one.backends[1].turns, "another one holds the turn")
