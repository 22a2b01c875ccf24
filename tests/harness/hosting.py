"""A service of its own for a test, with scripted engines, and front ends that remember what they were shown."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from corral.backends.backend import Input
from corral.backends.events import ApprovalRequested, BackendEnded, BackendStarted, Notice, Text, TurnEnded
from corral.config import Config, Person
from corral.service.conversation_ref import ConversationRef
from corral.service.front import Reply, Shown
from corral.service.identity import own_account
from corral.service.seats import LocalSeat
from corral.service.service import Service
from corral.service.starting import Starter
from corral.service.store.store import Store
from tests.harness.backends import Scripted, scripted
from tests.harness.waiting import until

SOON = 20.0  # seconds


@dataclass(eq=False)
class Watcher:
    """A front end (corral.service.front.Front)."""

    events: list[Shown] = field(default_factory=list)
    idles: int = 0
    closed_with: str | None = None

    def show(self, event: Shown) -> None:
        self.events.append(event)

    async def ready(self) -> None:
        pass

    def idle(self) -> None:
        self.idles += 1

    def closed(self, reason: str) -> None:
        self.closed_with = reason

    def of(self, kind: type[Any]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]

    @property
    def text(self) -> str:
        return "".join(event.delta for event in self.of(Text))

    @property
    def told(self) -> list[str]:
        return [event.message for event in self.events if isinstance(event, Notice | Reply)]

    @property
    def ends(self) -> list[str]:
        return [event.event for event in self.events if isinstance(event, TurnEnded | BackendEnded)]

    async def until(self, condition: Callable[[], object], what: str, timeout: float = SOON) -> Any:
        return await until(condition, timeout, what, lambda: "\n".join(map(str, self.events)))

    async def turns(self, count: int) -> list[TurnEnded]:
        """Wait for this many turns to have ended."""
        await self.until(lambda: len(self.of(TurnEnded)) >= count, f"{count} turns have ended")
        return self.of(TurnEnded)

    async def backends(self, count: int) -> list[BackendStarted]:
        await self.until(lambda: len(self.of(BackendStarted)) >= count, f"{count} backends have started")
        return self.of(BackendStarted)

    async def asked(self) -> ApprovalRequested:
        await self.until(lambda: self.of(ApprovalRequested), "permission requested")
        asked: ApprovalRequested = self.of(ApprovalRequested)[-1]
        return asked

    async def hears(self, words: str) -> str:
        """Wait for a notice or a reply with these words."""
        told: str = await self.until(
            lambda: next((one for one in self.told if words in one), ""), f"it is told: {words}"
        )
        return told


@dataclass
class Place:
    """Someone's seat, and what it shows."""

    seat: LocalSeat
    front: Watcher

    def say(self, text: str) -> None:
        self.seat.send(Input(text))

    def do(self, line: str) -> None:
        self.seat.command(line)


def configured(folder: Path, *people: str, **tables: Any) -> Config:
    """A configuration with these people, under this account, in `folder`/work."""
    work = folder / "work"
    work.mkdir(parents=True, exist_ok=True)
    known = [Person(name=name, workspace=str(work)) for name in people or ("anna", "ben")]
    settings: dict[str, Any] = {
        "service": {"state_dir": str(folder / "state")},
        "ladder": {"goodbye": 1, "grace": 0.5, "kill": 5},
    }
    for name, table in tables.items():
        settings[name] = {**settings.get(name, {}), **table}
    return Config(people=tuple(known), **settings)


@dataclass
class Host:
    """A running service and its seats."""

    service: Service
    store: Store

    async def seat(self, person: str = "anna", **more: Any) -> Place:
        front = Watcher()
        return Place(await self.service.seat(own_account(), person, front, **more), front)


def kinds(scene: str) -> Callable[[Config, Person, ConversationRef], Scripted]:
    return lambda _config, _person, ref: scripted(ref.engine, scene)


@asynccontextmanager
async def hosting(config: Config, scene: str = "obey", *, own: bool = True) -> AsyncIterator[Host]:
    """A service, which is shut down at the end; everything must have been proven empty."""
    store = await Store.open(config.service.state_dir)
    holder: list[Service] = []
    starter = Starter(lambda: holder[0].config, kinds(scene), {} if own else None)
    service = Service(config, store, starter)
    holder.append(service)
    await service.start()
    try:
        yield Host(service, store)
    finally:
        summary = await asyncio.wait_for(service.shutdown(), 60)
        await store.aclose()
    assert not summary.unfinished, summary
    assert set(summary.verdicts) <= {"proven_empty"}, summary
