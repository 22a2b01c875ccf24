"""A small service under the service account: it holds one backend, and does what the test says, an order a line.

Events and answers go out as JSON, a line each. End of input, TERM and INT end the backend, as a service's shutdown.
"""

import asyncio
import json
import signal
import sys
from typing import Any

from corral.backends.backend import Input, Limits
from corral.backends.backend_process import BackendProcess
from corral.backends.claude import Claude
from corral.backends.codex import Codex
from corral.backends.events import to_json
from corral.backends.launch import Launch


def put(message: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


class Small:
    """The service."""

    def __init__(self, engine: str, program: str, user: str, state_dir: str) -> None:
        kind = Codex((program,), sandbox="danger-full-access", approval="never")
        self._kind = kind if engine == "codex" else Claude((program,))
        self._launch = Launch(user=user, state_dir=state_dir, goodbye=2.0, grace=0.5, label=engine)
        self._backend: BackendProcess | None = None
        self._turns: set[asyncio.Task[None]] = set()

    async def do(self, order: dict[str, Any]) -> None:
        match order["do"]:
            case "start":
                await self._start(order.get("conversation"))
            case "send":
                turn = asyncio.create_task(self._hold(order["text"], Limits(**order.get("limits", {}))))
                self._turns.add(turn)
                turn.add_done_callback(self._turns.discard)
            case "interrupt":
                assert self._backend is not None
                put({"event": "interrupted", "ran": await self._backend.interrupt()})
            case "end":
                await self.end()

    async def _start(self, conversation: str | None) -> None:
        self._backend = BackendProcess(self._kind, self._launch)
        put(to_json(await self._backend.start(conversation)))
        put({"event": "ready", "reaper": self._backend.job.reaper_pid})

    async def _hold(self, text: str, limits: Limits) -> None:
        backend = self._backend
        assert backend is not None
        async for event in backend.send(Input(text), limits=limits):
            put(to_json(event))
        put({"event": "turn_over", "conversation": backend.conversation})

    async def end(self) -> None:
        if self._backend is not None:
            backend, self._backend = self._backend, None
            ended = await backend.end()
            if self._turns:
                await asyncio.wait(self._turns, timeout=5)
            put(to_json(ended))


async def main() -> None:
    small = Small(*sys.argv[1:5])
    loop = asyncio.get_running_loop()
    leaving = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, leaving.set)
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    left = asyncio.create_task(leaving.wait())
    while not leaving.is_set():
        line = asyncio.create_task(reader.readline())
        await asyncio.wait([line, left], return_when=asyncio.FIRST_COMPLETED)
        if not line.done() or not line.result():
            line.cancel()
            break
        await small.do(json.loads(line.result()))
    left.cancel()
    await small.end()


asyncio.run(main())
