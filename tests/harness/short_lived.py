"""A service that holds turns until it is killed, and says of each what it has shown."""

import asyncio
from multiprocessing.connection import Connection
from pathlib import Path

from corral.backends.backend import Input
from corral.backends.events import Text, TurnEnded, TurnStarted
from corral.service import logs
from corral.service.front import Shown
from corral.service.identity import own_account
from tests.harness.hosting import Watcher, configured, hosting

PEOPLE = ("anna", "ben", "cleo")


class Teller(Watcher):
    """Tells another process what was shown to whom."""

    person = ""
    pipe: Connection

    def show(self, event: Shown) -> None:
        super().show(event)
        match event:
            case TurnStarted():
                self.pipe.send((self.person, "started", ""))
            case Text():
                self.pipe.send((self.person, "thread", event.delta.split()[0]))
            case TurnEnded():
                self.pipe.send((self.person, "ended", event.status))


async def _serve(folder: Path, pipe: Connection) -> None:
    async with hosting(configured(folder, *PEOPLE)) as host:

        async def talk(person: str) -> None:
            front = Teller()
            front.person, front.pipe = person, pipe
            try:
                seat = await host.service.seat(own_account(), person, front, resume="last")
            except LookupError:
                seat = await host.service.seat(own_account(), person, front)
            for number in range(1, 1000):
                seat.send(Input("where"))
                await front.turns(number)

        await asyncio.gather(*(talk(person) for person in PEOPLE))


def serve(folder: str, pipe: Connection) -> None:
    """Hold turns until it is killed."""
    with (Path(folder) / "log").open("a") as log:
        logs.set_up(log, as_json=True)
        asyncio.run(_serve(Path(folder), pipe))
