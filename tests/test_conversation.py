"""The order of things in a conversation, at moments that a real backend passes through too quickly to be met."""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from corral.backends.backend import Input, Limits
from corral.backends.errors import BackendError, ResumeError
from corral.backends.events import (
    ApprovalRequested,
    BackendEnded,
    BackendStarted,
    Event,
    Limit,
    Notice,
    Text,
    TurnEnded,
    TurnEvent,
    TurnStarted,
)
from corral.process import Process, Report, Survivor
from corral.process.bare.host import host_table
from corral.service import current_backend
from corral.service.conversation import Conversation
from corral.service.conversation_ref import ConversationRef
from corral.service.conversation_state import Phase
from corral.service.current_backend import Announce, Begun
from corral.service.front import Shown
from corral.service.policy import Policy
from corral.service.pool import Bounds, Pool, Slot
from corral.service.store.journal import Journal
from corral.service.store.store import Store
from tests.harness.waiting import until

EMPTY = Report("proven_empty", "no_children", 0.0)
TERMS = Policy(Limits(), Bounds(4, 2), queue=3, idle=1800.0, age=43200.0, background=False, ladder=5.0)


class Backend:
    """Stands for a backend: a turn goes on until it is told to end."""

    def __init__(self, conversation: str, *, resumed: bool) -> None:
        self.conversation = conversation if resumed else ""
        self._name = conversation
        self.gone = ""
        self.started = BackendStarted("codex", 1, "me", conversation, resumed=resumed)
        self.turns: list[str] = []
        self.approvals: tuple[ApprovalRequested, ...] = ()
        self.limit: Limit | None = None
        self.left: list[Process] = []
        self.end_turn = asyncio.Event()
        self.may_end = asyncio.Event()
        self.may_end.set()
        self.ending = False
        self.over = asyncio.Event()
        self.survivors: tuple[Survivor, ...] = ()
        self.may_begin = asyncio.Event()
        self.may_begin.set()
        self.interrupted = False

    async def background(self) -> list[Process]:
        return self.left

    async def send(self, message: Input, **_: object) -> AsyncIterator[TurnEvent]:
        self.turns.append(message.text)
        await self.may_begin.wait()
        self.conversation = self._name
        yield TurnStarted("1")
        yield Text(message.text)
        await self.end_turn.wait()
        yield TurnEnded("interrupted", "it was ended") if self.ending or self.interrupted else TurnEnded("completed")

    async def interrupt(self, _: str) -> bool:
        self.interrupted = bool(self.conversation)
        if self.interrupted:
            self.end_turn.set()
        return self.interrupted

    async def wait(self) -> BackendEnded:
        await self.over.wait()
        return BackendEnded(EMPTY)

    async def end(self) -> BackendEnded:
        self.ending = True
        await self.may_end.wait()
        self.end_turn.set()
        self.over.set()
        return BackendEnded(Report("survivors", None, 0.0, survivors=self.survivors) if self.survivors else EMPTY)


@dataclass
class Scene:
    """A conversation whose backends the test holds up, and a follower of it."""

    backends: list[Backend] = field(default_factory=list)
    asked: list[str | None] = field(default_factory=list)
    events: list[Shown] = field(default_factory=list)
    closed_with: list[str] = field(default_factory=list)
    policy: Policy = TERMS
    may_start: asyncio.Event = field(default_factory=asyncio.Event)
    refusal: BackendError | None = None
    starting: int = 0
    after: asyncio.Task[None] | None = None
    conversation: Conversation = field(init=False)

    async def open(self, ref: ConversationRef, resume: str | None, announce: Announce) -> Begun:
        self.asked.append(resume)
        self.starting += 1
        try:
            await self.may_start.wait()
            if self.refusal is not None:
                refusal, self.refusal = self.refusal, None
                raise refusal
        finally:
            self.starting -= 1
        await announce(f"0-{len(self.backends)}", "daniel")
        self.backends.append(Backend(resume or f"thread-{len(self.backends)}", resumed=resume is not None))
        return Begun(self.backends[-1])  # type: ignore[arg-type]

    def send(self, text: str) -> None:
        self.conversation.send(Input(text), self)

    def show(self, event: Shown) -> None:
        self.events.append(event)

    def idle(self) -> None:
        pass

    def closed(self, reason: str) -> None:
        self.closed_with.append(reason)

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


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    one = await Store.open(tmp_path / "state")
    yield one
    await one.aclose()


Opens = Callable[..., AbstractAsyncContextManager[Scene]]


@pytest.fixture
def scene(store: Store) -> Opens:
    """A conversation that runs, and is closed and over at the end."""

    async def nobody(ref: ConversationRef) -> None:
        pass

    @asynccontextmanager
    async def opened(*, starts: bool = True, warm: bool = True, **more: object) -> AsyncIterator[Scene]:
        one = Scene(**more)  # type: ignore[arg-type]
        if starts:
            one.may_start.set()
        one.conversation = Conversation(
            ConversationRef("anna", "codex", ""),
            start=one.open,
            pool=Pool(),
            journal=Journal(store, nobody),
            policy=lambda _: one.policy,
            after=one.after,
        )
        one.conversation.audience.join(one)
        if warm:
            one.conversation.start_now()
        try:
            yield one
        finally:
            for backend in one.backends:
                backend.may_end.set()
            await asyncio.wait_for(one.conversation.close("the test is over"), 5)
            assert all(backend.ending or backend.over.is_set() for backend in one.backends), "every backend is ended"
            assert one.starting == 0, "no start is left over"

    return opened


async def test_stop_in_the_start_takes_the_message_back_and_the_next_one_starts_anew(scene: Opens) -> None:
    async with scene(starts=False) as one:
        one.send("first")
        await one.until(lambda: one.starting, "the backend starts")
        await one.conversation.stop()
        assert one.starting == 0
        assert one.notices == ["not sent: first", "the start was stopped"]
        one.may_start.set()
        one.send("second")
        await one.until(lambda: one.backends and one.backends[0].turns == ["second"], "the second is held")


async def test_what_comes_in_one_read_is_told_apart_by_its_order(scene: Opens) -> None:
    async with scene() as one:
        await one.until(lambda: one.backends, "the backend runs")
        one.send("first")
        stopping = asyncio.create_task(one.conversation.stop())
        one.send("second")
        await stopping
        await one.until(lambda: len(one.backends) == 2 and one.backends[1].turns == ["second"], "the second is held")
        assert one.backends[0].turns == []
        assert "not sent: first" in one.notices
        assert "not sent: second" not in one.notices


async def test_stop_does_not_wait_for_what_a_start_waits_for(scene: Opens) -> None:
    over = asyncio.Event()

    async def end_of_the_one_before() -> None:
        await over.wait()

    async with scene(warm=False, after=asyncio.create_task(end_of_the_one_before())) as one:
        one.send("first")
        await one.until(lambda: one.conversation.began, "it is taken up")
        assert await asyncio.wait_for(one.conversation.stop(), 5) is None
        await one.until(lambda: one.ends == ["turn_ended"], "the turn has ended")
        assert one.asked == []
        one.send("second")
        over.set()
        await one.until(lambda: one.backends and one.backends[0].turns == ["second"], "the second is held")


async def test_an_interrupt_before_the_backend_has_begun_the_turn_is_not_lost(scene: Opens) -> None:
    async with scene() as one:
        await one.until(lambda: one.backends, "the backend runs")
        one.backends[0].may_begin.clear()
        one.send("first")
        await one.until(lambda: one.backends[0].turns, "the first is handed over")
        assert await one.conversation.interrupt()
        one.backends[0].may_begin.set()
        await one.until(lambda: one.ends == ["turn_ended"], "it is stopped")
        assert one.backends[0].interrupted
        one.backends[0].end_turn.clear()
        one.backends[0].interrupted = False
        one.send("second")
        await one.until(lambda: len(one.backends[0].turns) == 2, "the second is held, and is not stopped")
        one.backends[0].end_turn.set()
        await one.until(lambda: one.events[-1] == TurnEnded("completed"), "it comes to its end")


async def test_a_stop_behind_a_restart_does_not_wait_for_its_start(scene: Opens) -> None:
    async with scene() as one:
        await one.until(lambda: one.backends, "the backend runs")
        one.backends[0].may_end.clear()
        restarting = asyncio.create_task(one.conversation.restart())
        await one.until(lambda: one.backends[0].ending, "the ending is under way")
        stopping = asyncio.create_task(one.conversation.stop())
        await asyncio.sleep(0)
        one.may_start.clear()
        one.backends[0].may_end.set()
        await asyncio.wait_for(asyncio.gather(restarting, stopping), 5)
        assert len(one.asked) == 1


async def test_an_ending_whose_caller_is_cancelled_goes_on_and_is_waited_for(scene: Opens) -> None:
    async with scene() as one:
        await one.until(lambda: one.conversation.backend and not one.conversation.busy, "the backend runs")
        one.backends[0].may_end.clear()
        recycling = asyncio.create_task(one.conversation.recycle(time.monotonic() + 10_000))
        await one.until(lambda: one.backends[0].ending, "the ending is under way")
        recycling.cancel()
        await asyncio.wait([recycling])
        one.send("first")
        closing = asyncio.create_task(one.conversation.close("done"))
        for _ in range(20):
            await asyncio.sleep(0)
        assert (len(one.asked), closing.done()) == (1, False), "neither beside it nor before its end"
        one.backends[0].may_end.set()
        assert await closing == BackendEnded(EMPTY)
        assert one.shown(BackendEnded) == ["backend_ended"]


async def test_what_survives_is_counted_as_long_as_it_lives(scene: Opens) -> None:
    """The process is real; what the ladder made of it is said."""
    left = await asyncio.create_subprocess_exec("sleep", "1000")
    try:
        start_time = host_table().start_time(left.pid)
        assert start_time is not None
        survivor = Survivor(left.pid, start_time, "me", "D", "sleep", "state D: its disk does not answer")
        async with scene(warm=False, policy=replace(TERMS, bounds=Bounds(4, 1))) as one:
            one.send("first")
            await one.until(lambda: one.backends and one.backends[0].turns, "the first is held")
            one.backends[0].survivors = (survivor,)
            await one.conversation.stop()
            one.send("second")
            await one.until(lambda: len(one.shown(TurnEnded)) == 2, "it is refused")
            end = one.events[-1]
            assert isinstance(end, TurnEnded)
            assert end.reason == (
                "1 agent runs for you already, which is all you may have: of one that was ended,"
                f" pid {left.pid} (sleep) lives: state D: its disk does not answer"
            )
            left.kill()
            await left.wait()
            one.send("third")
            await one.until(lambda: len(one.backends) == 2 and one.backends[1].turns == ["third"], "it has room")
    finally:
        if left.returncode is None:
            left.kill()
            await left.wait()


async def test_a_message_is_held_by_the_new_backend_after_a_restart(scene: Opens) -> None:
    async with scene() as one:
        one.send("first")
        await one.until(lambda: one.backends and one.backends[0].turns, "the first is held")
        one.send("second")
        await one.conversation.restart()
        await one.until(lambda: len(one.backends) == 2 and one.backends[1].turns == ["second"], "the second is held")
        assert one.backends[0].turns == ["first"]
        assert one.asked == [None, "thread-0"]


async def test_a_message_during_the_ending_waits_for_it(scene: Opens) -> None:
    async with scene() as one:
        one.send("first")
        await one.until(lambda: one.backends and one.backends[0].turns, "the first is held")
        one.backends[0].may_end.clear()
        stopping = asyncio.create_task(one.conversation.stop())
        await one.until(lambda: one.backends[0].ending, "the ending is under way")
        one.send("second")
        for _ in range(20):
            await asyncio.sleep(0)
        assert len(one.backends) == 1, "two would share one CODEX_HOME"
        one.backends[0].may_end.set()
        await stopping
        await one.until(lambda: len(one.backends) == 2 and one.backends[1].turns == ["second"], "the second is held")
        assert one.ends == ["turn_ended", "backend_ended"]
        assert one.asked == [None, "thread-0"]


async def test_the_end_of_the_turn_is_shown_before_the_report_however_long_it_is_written_down(
    scene: Opens, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_write = asyncio.Event()
    write = store.turn_ended

    async def slowly(*arguments: str) -> None:
        await may_write.wait()
        await write(*arguments)

    monkeypatch.setattr(store, "turn_ended", slowly)
    monkeypatch.setattr(current_backend, "READ_TIMEOUT", 0.05)
    async with scene() as one:
        one.send("first")
        await one.until(lambda: one.shown(TurnStarted), "the turn began")
        await asyncio.wait_for(one.conversation.stop(), 5)
        assert one.ends == [], "neither before the end of the turn is written down"
        may_write.set()
        await one.until(lambda: len(one.ends) == 2, "both are shown")
        assert one.ends == ["turn_ended", "backend_ended"]
        assert TurnEnded("interrupted", "stopped on request") in one.events


async def test_a_conversation_that_is_not_known_any_more_is_begun_anew(scene: Opens) -> None:
    async with scene() as one:
        one.send("first")
        await one.until(lambda: one.backends and one.backends[0].turns, "the first is held")
        await one.conversation.stop()
        one.refusal = ResumeError("codex cannot go on with it")
        one.send("second")
        await one.until(lambda: len(one.backends) == 2 and one.backends[1].turns, "the second is held")
        assert one.asked == [None, "thread-0", None]
        assert "codex cannot go on with it; this is a new one" in one.notices


async def test_a_start_that_fails_later_fails_the_turn_and_not_the_chat(scene: Opens) -> None:
    async with scene() as one:
        await one.until(lambda: one.backends, "the backend runs")
        await one.conversation.stop()
        one.refusal = BackendError("the disk is full")
        one.send("second")
        await one.until(lambda: one.shown(TurnEnded), "the turn ended")
        assert one.events[-1] == TurnEnded("failed", "the disk is full")
        one.send("third")
        await one.until(lambda: len(one.backends) == 2 and one.backends[1].turns == ["third"], "the third is held")


async def test_the_first_start_that_fails_closes_the_seat_with_the_reason(scene: Opens) -> None:
    async with scene(refusal=BackendError("no rule in sudoers")) as one:
        await one.until(lambda: one.closed_with, "it is closed")
        assert one.closed_with == ["no rule in sudoers"]


async def test_the_queue_is_bounded_and_tells_each_message_its_place(scene: Opens) -> None:
    async with scene() as one:
        one.send("first")
        await one.until(lambda: one.backends and one.backends[0].turns, "the first is held")
        for text in ("second", "third", "fourth", "fifth"):
            one.send(text)
        assert one.notices == [
            "queued, number 1: second",
            "queued, number 2: third",
            "queued, number 3: fourth",
            "not taken: 3 messages wait already. Wait for the turn's end, or /stop",
        ]
        one.backends[0].end_turn.set()
        await one.until(lambda: len(one.backends[0].turns) == 4, "all were held")
        assert one.backends[0].turns == ["first", "second", "third", "fourth"]


async def test_an_idle_backend_is_ended_and_the_next_message_goes_on(scene: Opens) -> None:
    async with scene() as one:
        one.send("first")
        await one.until(lambda: one.backends and one.backends[0].turns, "the first is held")
        now = time.monotonic
        assert await one.conversation.recycle(now() + 10_000) == "", "never under a running turn"
        one.backends[0].end_turn.set()
        await one.until(lambda: not one.conversation.busy, "the turn is over")
        assert await one.conversation.recycle(now() + 10) == ""
        assert "nobody has spoken for" in await one.conversation.recycle(now() + 10_000)
        assert one.ends == ["turn_ended", "backend_ended"]
        one.send("second")
        await one.until(lambda: len(one.backends) == 2, "another one goes on")
        assert one.asked == [None, "thread-0"]


async def test_work_left_in_the_background_keeps_a_backend_from_being_ended_for_idleness(scene: Opens) -> None:
    async with scene() as one:
        await one.until(lambda: one.conversation.backend and not one.conversation.busy, "the backend runs")
        one.backends[0].left = [Process(4321, comm="vite")]
        later = time.monotonic() + 10_000
        assert await one.conversation.recycle(later) == ""
        one.policy = replace(TERMS, background=True)
        assert await one.conversation.recycle(later)
        assert any("had left running was ended too: vite" in notice for notice in one.notices)


async def test_an_old_backend_is_replaced_between_turns_and_a_stuck_one_in_the_end(scene: Opens) -> None:
    async with scene() as one:
        one.send("first")
        await one.until(lambda: one.backends and one.backends[0].turns, "the first is held")
        old = time.monotonic() + TERMS.age + 1
        assert await one.conversation.recycle(old) == ""
        one.backends[0].approvals = (ApprovalRequested("a", "command", "make it"),)
        assert "long ago" in await one.conversation.recycle(old + TERMS.limits.turn + 100)
        await one.until(lambda: one.ends == ["turn_ended", "backend_ended"], "the turn came to its end")


@pytest.mark.parametrize("message", [True, False])
async def test_closing_in_the_start_leaves_no_backend(message: bool, scene: Opens) -> None:
    async with scene(starts=False) as one:
        if message:
            one.send("first")
        await one.until(lambda: one.starting, "the backend starts")
    assert one.backends == []


async def test_a_restart_behind_a_close_starts_nothing(scene: Opens) -> None:
    async with scene() as one:
        await one.until(lambda: one.backends, "the backend runs")
        one.backends[0].may_end.clear()
        closing = asyncio.create_task(one.conversation.close("done"))
        await one.until(lambda: one.backends[0].ending, "the ending is under way")
        restarting = asyncio.create_task(one.conversation.restart())
        one.backends[0].may_end.set()
        await asyncio.gather(closing, restarting)
        assert len(one.backends) == 1


async def test_a_backend_that_died_is_ended_before_the_next_turn(scene: Opens) -> None:
    async with scene() as one:
        await one.until(lambda: one.backends, "the backend runs")
        one.backends[0].gone = "codex ended with status 1"
        one.send("first")
        await one.until(lambda: len(one.backends) == 2 and one.backends[1].turns == ["first"], "the turn is held")
        assert one.ends == ["backend_ended"]


async def test_a_backend_that_dies_between_turns_is_told_of_at_once(scene: Opens) -> None:
    async with scene() as one:
        await one.until(lambda: one.backends, "the backend runs")
        one.backends[0].gone = "codex ended with status -9"
        one.backends[0].over.set()
        await one.until(lambda: one.ends == ["backend_ended"], "its end was shown")
        assert one.notices == ["codex ended with status -9"]
        assert one.conversation.backend is None
        one.send("and now?")
        await one.until(lambda: len(one.backends) == 2 and one.backends[1].turns, "another one holds the turn")


async def test_a_backend_whose_start_was_complete_when_its_caller_was_cancelled_is_ended(
    scene: Opens, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with scene(warm=False) as one:
        current = one.conversation._current
        begin = current._begin

        async def cancelled_at_its_end() -> tuple[Begun, Slot]:
            begun = await begin()
            opening.cancel()
            return begun

        monkeypatch.setattr(current, "_begin", cancelled_at_its_end)
        opening = asyncio.create_task(current.open())
        await asyncio.wait([opening])
        assert opening.cancelled()
        await one.until(lambda: one.backends[0].over.is_set(), "it is ended")
        monkeypatch.undo()
        one.send("first")
        await one.until(lambda: len(one.backends) == 2 and one.backends[1].turns == ["first"], "another one serves")


@pytest.mark.parametrize("seed", range(40))
async def test_requests_in_any_order_lose_nothing_and_end_everything_once(scene: Opens, seed: int) -> None:
    dice = random.Random(f"requests {seed}")
    asked: list[asyncio.Task[object]] = []
    sent = 0
    async with scene(warm=bool(seed % 2)) as one:

        def begin(doing: Coroutine[Any, Any, object]) -> None:
            asked.append(asyncio.create_task(doing))

        for _ in range(30):
            request = dice.choice(("send", "send", "stop", "restart", "interrupt", "recycle", "turn", "start", "hold"))
            if request == "send":
                one.send(f"message {sent}")
                sent += 1
            elif request == "stop":
                begin(one.conversation.stop())
            elif request == "restart":
                begin(one.conversation.restart())
            elif request == "interrupt":
                begin(one.conversation.interrupt())
            elif request == "recycle":
                begin(one.conversation.recycle(time.monotonic() + dice.choice((0.0, 1e6))))
            elif request == "turn" and one.backends:
                one.backends[-1].end_turn.set()
            else:
                one.may_start.clear() if request == "hold" else one.may_start.set()
            for _ in range(dice.randrange(6)):
                await asyncio.sleep(0)
        one.may_start.set()
        while one.conversation.busy or not all(task.done() for task in asked):
            for backend in one.backends:
                backend.end_turn.set()
            await asyncio.sleep(0.001)
        results = await asyncio.gather(*asked, return_exceptions=True)
        assert not [result for result in results if isinstance(result, BaseException)]
        assert one.conversation.state.phase is Phase.IDLE
    refused = sum(text.startswith(("not sent: message", "not taken")) for text in one.notices)
    assert len(one.shown(TurnEnded)) == sent - refused, "each message that was taken up has one end"
    lives = one.shown(BackendStarted, BackendEnded)
    assert lives == ["backend_started", "backend_ended"] * (len(lives) // 2), (
        "one backend at a time, and each one ended"
    )
    turns = one.shown(TurnStarted, TurnEnded)
    assert all(later == "turn_ended" for kind, later in pairwise(turns) if kind == "turn_started")
