"""The contract of front ends, tried with a small one beside the socket: whatever it does, the others go on."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from corral.backends.backend import Answer, Input
from corral.backends.events import Text, TurnEnded
from corral.config import load
from corral.daemon import front_ends, serving
from corral.daemon.front_ends import FRONT_ENDS, Entry
from corral.daemon.serving import Serving
from corral.remote import wire
from corral.remote.client import AttachedSeat
from corral.service import front_queue
from corral.service.front import Missed, Shown
from corral.service.front_end import FrontEnd, FrontEndError
from corral.service.identity import TelegramUser
from corral.service.seats import LocalSeat
from corral.service.service import AccessError, Service
from corral.service.store.store import Store
from tests.harness.daemon import Attached, write_config
from tests.harness.hosting import SOON, Watcher, kinds
from tests.harness.waiting import until

ANNA = TelegramUser(42)


class Screen(Watcher):
    """Shows nothing more until it may."""

    def __init__(self) -> None:
        super().__init__()
        self.may = asyncio.Event()
        self.may.set()

    async def ready(self) -> None:
        await self.may.wait()


@dataclass(eq=False)
class Tiny:
    """A front end (corral.service.front_end.FrontEnd) for one user of Telegram, who acts for one person."""

    service: Service
    reloads: int = 0
    broken: Exception | None = None
    """What `reloaded` raises."""
    hangs: bool = False
    """Whether `close` never returns, even when it is cancelled."""
    closes: int = 0
    died: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    seats: list[LocalSeat] = field(default_factory=list)

    async def opened(self, screen: Watcher, person: str = "cleo") -> LocalSeat:
        seat = await self.service.seat(ANNA, person, screen, channel="tiny")
        self.seats.append(seat)
        return seat

    def reloaded(self) -> None:
        self.reloads += 1
        if self.broken is not None:
            raise self.broken

    async def wait_closed(self) -> None:
        await asyncio.shield(self.died)

    async def close(self) -> None:
        self.closes += 1
        for seat in self.seats:
            seat.detach()
        while self.hangs:
            try:
                await asyncio.get_running_loop().create_future()
            except asyncio.CancelledError:
                continue


@dataclass
class Served:
    """A running daemon, its front end, and what it has told systemd."""

    serving: Serving
    folder: Path
    tiny: Tiny
    notified: list[str]

    @property
    def service(self) -> Service:
        return self.tiny.service

    @asynccontextmanager
    async def terminal(self) -> AsyncIterator[Attached]:
        """A chat over the socket, for another person."""
        front = Attached()
        front.seat = await AttachedSeat.open(self.service.config.socket_path, wire.Hello(person="anna"))
        reading = asyncio.create_task(front.seat.read(front))
        try:
            yield front
        finally:
            front.seat.detach()
            await asyncio.wait_for(asyncio.wait([reading]), 5)

    async def socket_serves(self) -> None:
        """Hold a turn over the socket."""
        async with self.terminal() as anna:
            anna.seat.send(Input("talk"))
            assert [one.status for one in await anna.turns(1)] == ["completed"]

    @property
    def status(self) -> str:
        return [line for line in self.notified if line.startswith("STATUS=")][-1]


@pytest.fixture(autouse=True)
def notified(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What systemd is told."""
    lines: list[str] = []
    monkeypatch.setattr(serving, "notify", lambda *told: lines.extend(told))
    monkeypatch.setattr(front_ends, "CLOSE_TIMEOUT", 0.3)
    return lines


def with_cleo(folder: Path, telegram: int = 42) -> str:
    people = f'[[people]]\nname = "cleo"\ntelegram = {telegram}\nworkspace = "{folder}/work"'
    return f'[ladder]\ngrace = "500ms"\n{people}'


def entry(start: Callable[[Service], Awaitable[FrontEnd]]) -> Entry:
    return Entry("tiny", lambda config: config.person("cleo") is not None, start)


@asynccontextmanager
async def served(folder: Path, notified: list[str], scene: str = "obey") -> AsyncIterator[Served]:
    """A daemon with the socket and the tiny front end, which must end in time and leave nothing."""
    config = load(write_config(folder, "anna", more=with_cleo(folder)))
    store = await Store.open(config.service.state_dir)
    made: list[Tiny] = []

    async def start(service: Service) -> Tiny:
        made.append(Tiny(service))
        return made[0]

    one = Serving(config, store, kinds(scene), entries=(*FRONT_ENDS, entry(start)))
    running = asyncio.create_task(one.run())
    try:
        await until(lambda: "READY=1" in notified, SOON, "it serves")
        yield Served(one, folder, made[0], notified)
    finally:
        one._end(15)
        status = await asyncio.wait_for(running, SOON)
        await store.aclose()
    assert status == 0
    assert made[0].closes == 1


async def test_it_holds_a_conversation_and_goes_on_with_it_by_its_channel(tmp_path: Path, notified: list[str]) -> None:
    async with served(tmp_path, notified) as at:
        screen = Screen()
        seat = await at.tiny.opened(screen)
        seat.send(Input("ask"))
        approval = await screen.asked()
        seat.answer(approval.approval_id, Answer("accept"))
        assert [one.status for one in await screen.turns(1)] == ["completed"]
        assert screen.text == "accept"
        held = seat.conversation
        seat.detach()
        assert (await at.tiny.opened(Screen())).conversation is held
        with pytest.raises(AccessError):
            await at.tiny.opened(Screen(), "anna")
        await at.socket_serves()


async def test_one_that_is_too_slow_misses_words_and_delays_no_other(
    tmp_path: Path, notified: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(front_queue, "MOST_WAITING", 10_000)
    async with served(tmp_path, notified) as at:
        screen = Screen()
        seat = await at.tiny.opened(screen)
        screen.may.clear()
        for number in range(100):
            seat.conversation.audience.show(Text("x" * 1000, str(number)))
        seat.send(Input("talk"))
        await at.socket_serves()
        beside = Screen()
        other = await at.tiny.opened(beside)
        assert other.conversation is seat.conversation
        other.send(Input("talk"))
        await beside.turns(1)
        assert not screen.of(TurnEnded)
        screen.may.set()
        await screen.turns(2)
        shown = sum(len(one.delta) for one in screen.of(Text) if one.delta.startswith("x"))
        missed = sum(one.characters for one in screen.of(Missed))
        assert missed >= 80_000
        assert missed + shown >= 100_000, "it is told of all that it was not shown"


async def test_one_that_raises_while_it_shows_loses_that_seat_only(tmp_path: Path, notified: list[str]) -> None:
    class Broken(Screen):
        def show(self, event: Shown) -> None:
            raise ValueError(f"cannot show {event.event}")

    async with served(tmp_path, notified) as at:
        broken, sound = Broken(), Screen()
        lost = await at.tiny.opened(broken)
        seat = await at.tiny.opened(sound)
        for one in (lost, seat):
            one.send(Input("talk"))
        await sound.turns(1)
        await broken.until(lambda: broken.closed_with, "it is closed")
        assert lost.over
        await at.socket_serves()
        assert at.status == "STATUS=serving 2 people"


async def test_a_reload_is_told_and_a_fault_in_it_stops_neither_the_reload_nor_the_others(
    tmp_path: Path, notified: list[str]
) -> None:
    async with served(tmp_path, notified) as at:
        screen = Screen()
        seat = await at.tiny.opened(screen)
        at.tiny.broken = ValueError("a fault")
        write_config(tmp_path, "anna", "ben", more=with_cleo(tmp_path))
        at.serving._reload()
        await until(lambda: at.tiny.reloads == 1, SOON, "it is told")
        assert len(at.service.config.people) == 3
        assert not seat.over
        write_config(tmp_path, "anna", more=with_cleo(tmp_path, telegram=43))
        at.serving._reload()
        await screen.until(lambda: screen.closed_with == "you may not act for cleo any more", "its user lost the seat")
        with pytest.raises(AccessError):
            await at.tiny.opened(Screen())
        await until(lambda: at.tiny.reloads == 2, SOON, "it is told again")
        await at.socket_serves()


async def test_a_front_end_that_a_reload_adds_or_removes_is_left_for_a_restart(
    tmp_path: Path, notified: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    warned: list[object] = []
    monkeypatch.setattr(front_ends.log, "warning", lambda event, **more: warned.append((event, more["front_ends"])))
    async with served(tmp_path, notified) as at:
        write_config(tmp_path, "anna")
        at.serving._reload()
        await until(lambda: at.tiny.reloads == 1, SOON, "it is told")
        assert warned == [("front ends are started at the start only: restart the service", ["tiny"])]


@pytest.mark.parametrize("error", [ValueError("the token was revoked"), None])
async def test_one_that_ends_by_itself_is_closed_and_told_of_and_the_others_go_on(
    error: Exception | None, tmp_path: Path, notified: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    logged: list[str] = []
    for how in ("error", "exception"):
        monkeypatch.setattr(front_ends.log, how, lambda event, **more: logged.append(f"{more['front_end']}: {event}"))
    async with served(tmp_path, notified) as at:
        screen = Screen()
        seat = await at.tiny.opened(screen)
        seat.send(Input("talk"))
        await screen.turns(1)
        if error is not None:
            at.tiny.died.set_exception(error)
        else:
            at.tiny.died.set_result(None)
        why = "the token was revoked" if error else "it ended by itself"
        status = f"STATUS=serving 2 people; front end tiny failed: {why}"
        await until(lambda: at.status == status, SOON, "systemd is told", lambda: at.status)
        await until(lambda: at.tiny.closes == 1, SOON, "it is closed")
        assert seat.over, "its close gave up its seats"
        await at.socket_serves()
        at.serving._reload()
        await until(lambda: notified.count("READY=1") == 2, SOON, "it is reloaded")
        assert at.status == status, "a reload does not forget it"
        assert at.tiny.reloads == 0
    assert len(logged) == 1
    assert logged[0].startswith("tiny: a front end has ")


async def test_one_that_hangs_in_close_is_left_and_the_service_ends(
    tmp_path: Path, notified: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    logged: list[str] = []
    monkeypatch.setattr(front_ends.log, "error", lambda event, **more: logged.append(f"{more['front_end']}: {event}"))
    async with served(tmp_path, notified) as at:
        at.tiny.hangs = True
        await at.tiny.opened(Screen())
        began = asyncio.get_running_loop().time()
    assert asyncio.get_running_loop().time() - began < SOON / 2
    assert logged == ["tiny: a front end did not close in time, and is left"]
    assert not at.service.config.socket_path.exists(), "the socket was closed beside it"
    at.tiny.hangs = False
    for task in asyncio.all_tasks() - {asyncio.current_task()}:
        task.cancel()


async def _refused(_service: Service) -> FrontEnd:
    raise FrontEndError("the token is wrong: write the one that BotFather shows into its file")


async def _faulty(_service: Service) -> FrontEnd:
    raise ValueError("a fault")


async def _hung(_service: Service) -> FrontEnd:
    await asyncio.get_running_loop().create_future()
    raise AssertionError


@pytest.mark.parametrize(
    ("start", "why"),
    [
        (_refused, "tiny: the token is wrong: write the one that BotFather shows into its file"),
        (_faulty, "tiny: a fault in this front end: ValueError('a fault')"),
        (_hung, "tiny: it did not start within 0.3 s"),
    ],
)
async def test_one_that_cannot_start_is_named_with_the_reason_and_the_service_exits(
    start: Callable[[Service], Awaitable[FrontEnd]], why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(front_ends, "START_TIMEOUT", 0.3)
    monkeypatch.setattr(serving, "FRONT_ENDS", (*FRONT_ENDS, entry(start)))
    said: list[str] = []
    file = write_config(tmp_path, "anna", more=with_cleo(tmp_path))
    assert await serving.run(file, said.append, kinds("obey")) == serving.FAILED
    assert said == [why]
    assert not load(file).socket_path.exists(), "the one that had started is closed"


async def test_one_that_the_configuration_does_not_ask_for_is_not_started(tmp_path: Path, notified: list[str]) -> None:
    config = load(write_config(tmp_path, "anna"))
    store = await Store.open(config.service.state_dir)
    one = Serving(config, store, kinds("obey"), entries=(*FRONT_ENDS, entry(_faulty)))
    running = asyncio.create_task(one.run())
    await until(lambda: "READY=1" in notified, SOON, "it serves")
    one._end(15)
    assert await asyncio.wait_for(running, SOON) == 0
    await store.aclose()
