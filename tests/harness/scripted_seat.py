"""`corral chat` at a scripted seat: `scripted_seat.py STATE_DIR HEARD SCENE`, for what no engine can be made to say.

SCENE is JSON: the steps of `turns`, one list for each message. A step is an event (as `--json` has them),
or `{"await": CALL}`, `{"idle": true}`, `{"close": REASON}`, `{"flood": EVENT}`. What the seat
hears goes to HEARD.
"""

import asyncio
import json
import sys
from collections.abc import AsyncIterable, AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

from corral.backends.backend import Answer, Input
from corral.backends.events import Notice, Text
from corral.remote import wire
from corral.service.files import MOST_BYTES, FileOut, FilesError
from corral.service.front import CommandHelp, Front, Reply, Welcome
from corral.terminal import terminal

STATE_DIR, HEARD, SCENE = Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3])
COMMANDS = (
    CommandHelp("/stop", "", "stop the turn"),
    CommandHelp("/status", "", "where things stand"),
    CommandHelp("/model", "[NAME]", "another model"),
    CommandHelp("/help", "", "this list"),
)


class Scripted:
    """A corral.service.front.Seat."""

    def __init__(self, front: Front) -> None:
        self.welcome = Welcome("anna", "codex", COMMANDS)
        self._front = front
        self._heard: asyncio.Queue[str] = asyncio.Queue()
        self._turns = iter(SCENE.get("turns", []))
        self._tasks: set[asyncio.Task[None]] = set()

    def send(self, message: Input) -> None:
        self._hear("send", message.text)
        task = asyncio.get_running_loop().create_task(self._play(next(self._turns, [{"idle": True}])))
        self._tasks.add(task)

    def command(self, line: str) -> None:
        self._hear("command", line)
        self._front.show(Reply(f"did {line}", line[1:]))
        self._front.idle()

    def interrupt(self) -> None:
        self._hear("interrupt")

    def answer(self, approval_id: str, answer: Answer) -> None:
        answers = {question: list(given) for question, given in answer.answers.items()}
        self._hear("answer", [approval_id, answer.decision, answers])

    def decline(self, approval_id: str) -> None:
        self._hear("decline", approval_id)

    def finish(self) -> None:
        self._hear("finish")
        self._front.closed("")

    def leave(self) -> None:
        self._hear("leave")
        if not SCENE.get("slow_to_leave"):
            self._front.closed("")

    def hurry(self) -> None:
        self._hear("hurry")
        self._front.closed("")

    async def put_file(self, name: str, pieces: AsyncIterable[bytes]) -> str:
        raise FilesError("a scripted seat takes no files")

    def get_file(self, path: str, *, most: int = MOST_BYTES) -> AbstractAsyncContextManager[FileOut]:
        raise FilesError("a scripted seat has no files")

    def detach(self) -> None:
        self._hear("detach")

    def _hear(self, call: str, what: Any = None) -> None:
        with HEARD.open("a") as file:
            file.write(json.dumps([call, what]) + "\n")
        self._heard.put_nowait(call)

    async def _play(self, steps: list[dict[str, Any]]) -> None:
        for step in steps:
            match step:
                case {"await": call}:
                    while await self._heard.get() != call:
                        pass
                case {"idle": _}:
                    self._front.idle()
                case {"close": reason}:
                    self._front.closed(reason)
                case {"unwell": _}:
                    vars(self._front)["_activity"].line = None  # whoever draws it stumbles
                case {"flood": delta}:
                    while True:
                        self._front.show(Text(delta, "m"))
                        await self._front.ready()
                        await asyncio.sleep(0)
                case _:
                    self._front.show(wire.event_from(dict(step)))
                    await self._front.ready()
                    await asyncio.sleep(SCENE.get("pace", 0))


@asynccontextmanager
async def connector(front: Front) -> AsyncIterator[Scripted]:
    if notice := SCENE.get("early"):
        front.show(Notice(notice))
    if SCENE.get("far"):
        await asyncio.sleep(1000)
    seat = Scripted(front)
    for step in SCENE.get("before", []):
        front.show(wire.event_from(step))
    if not SCENE.get("before"):
        front.idle()
    yield seat
    if SCENE.get("fault"):
        raise RuntimeError("a fault in the seat's end")


if __name__ == "__main__":
    sys.exit(asyncio.run(terminal.run(connector, state_dir=STATE_DIR, as_json="--json" in sys.argv)))
