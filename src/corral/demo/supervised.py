"""Codex under `corral run`, a process of its own that the demo can kill; the demo speaks with codex over its pipes."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from corral.backends.codex import decline, requests, wire
from corral.backends.codex.opening import ThreadSettings, open_thread
from corral.backends.codex.turns import CodexTurn
from corral.backends.errors import ConnectionEndedError
from corral.backends.events import ApprovalRequested, Event, Notice, TurnEnded
from corral.backends.rpc import RequestId, RpcConnection
from corral.chat.printing import Printer
from corral.demo.place import DemoFailed, Place

TURN_TIMEOUT = 60.0  # seconds for a turn that is over in two
EXIT_TIMEOUT = 30.0  # seconds; the ladder is shorter


class SupervisedCodex:
    """One codex app-server under `corral run`, and one turn with it."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self.process = process
        self._turn: CodexTurn | None = None
        self._rpc = RpcConnection(process.stdout, process.stdin, self)
        self._reading = asyncio.get_running_loop().create_task(self._rpc.run())

    @classmethod
    async def start(cls, place: Place, overrides: Sequence[str], report: Path) -> SupervisedCodex:
        """Start `corral run --report FILE -- codex … app-server`."""
        account = ["--user", place.user] if place.user is not None else []
        files = ["--state-dir", str(place.state_dir), "--report", str(report)]
        variables = [f"{name}={value}" for name, value in place.env.items()]
        codex = [*place.command, *(part for one in overrides for part in ("-c", one)), "app-server"]
        process = await asyncio.create_subprocess_exec(
            *[sys.executable, "-m", "corral", "run", *account, *files, "--", "/usr/bin/env", *variables, *codex],
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            limit=1 << 20,
            cwd="/" if place.user is not None else None,
        )
        return cls(process)

    async def converse(self, place: Place, text: str, printer: Printer) -> None:
        """Open a conversation and hold one turn, shown by the printer. Raises DemoFailed."""
        try:
            async with asyncio.timeout(TURN_TIMEOUT):
                settings = ThreadSettings(str(place.workspace), None, "never", "danger-full-access")
                opened = await open_thread(self._rpc, None, settings)
                self._turn = CodexTurn(opened.thread.id)
                message = {"threadId": opened.thread.id, "input": [{"type": "text", "text": text}]}
                result = await self._rpc.request("turn/start", message)
                self._turn.begin(msgspec.json.decode(result, type=wire.TurnNote).turn.id)
                end = await self._show(self._turn, printer)
        except TimeoutError:
            raise DemoFailed(f"the turn was not over in {TURN_TIMEOUT:g} s") from None
        except ConnectionEndedError as error:
            raise DemoFailed(f"codex did not hold out: {error}") from error
        if end.status != "completed":
            raise DemoFailed(f"the turn ended {end.status}: {end.reason}")

    async def _show(self, turn: CodexTurn, printer: Printer) -> TurnEnded:
        while True:
            event: Event = await turn.feed.get(TURN_TIMEOUT)
            printer.show(event)
            if isinstance(event, TurnEnded):
                return event

    async def kill(self) -> None:
        """SIGKILL to `corral run` alone, and wait until it is gone."""
        self.process.kill()
        await asyncio.wait_for(self.process.wait(), EXIT_TIMEOUT)

    async def close(self) -> None:
        """End it, if it was not killed: the end of its input is codex's goodbye."""
        self._rpc.close()
        self._reading.cancel()
        await asyncio.gather(self._reading, return_exceptions=True)
        if self.process.stdin is not None:
            self.process.stdin.close()
        if self.process.returncode is None:
            self.process.terminate()
            await asyncio.wait_for(self.process.wait(), EXIT_TIMEOUT)

    # What codex sends by itself (corral.backends.rpc.Handler).

    def on_notification(self, method: str, params: msgspec.Raw) -> None:
        if self._turn is not None:
            self._turn.take(method, params)

    async def on_request(self, request_id: RequestId, method: str, params: msgspec.Raw) -> object:
        return await requests.answer(request_id, method, params, decline, self._emit)

    def _emit(self, event: ApprovalRequested | Notice) -> None:
        if self._turn is not None:
            self._turn.feed.put(event)
