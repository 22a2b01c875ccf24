"""Codex under `corral run`, a process of its own that the demo can kill; the demo speaks with codex over its pipes."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path

from corral.backends.attachments import Message
from corral.backends.backend import Answer, Choices, Limits
from corral.backends.codex import Codex
from corral.backends.engine import Opening
from corral.backends.errors import BackendError
from corral.backends.events import ApprovalRequested, Event, TurnEnded
from corral.backends.turn import Turn
from corral.demo.place import DemoFailed, Place
from corral.tasks import Tasks
from corral.terminal.printing import Printer

TURN_TIMEOUT = 60.0  # seconds for a turn that is over in two
EXIT_TIMEOUT = 30.0  # seconds; the ladder is shorter


class SupervisedCodex:
    """One codex app-server under `corral run`, and one turn with it; the `Host` of its engine."""

    def __init__(self, process: asyncio.subprocess.Process, kind: Codex) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self.process = process
        self.conversation = ""
        self.turn: Turn | None = None
        self._engine = kind.connect(process.stdout, process.stdin, self)
        self._tasks = Tasks(self._read)
        self._tasks.own(self._engine.read())

    @classmethod
    async def start(cls, place: Place, overrides: Sequence[str], report: Path) -> SupervisedCodex:
        """Start `corral run --report FILE -- codex … app-server`."""
        kind = place.codex(overrides)
        account = ["--user", place.user] if place.user is not None else []
        files = ["--state-dir", str(place.state_dir), "--report", str(report)]
        variables = [f"{name}={value}" for name, value in place.env.items()]
        process = await asyncio.create_subprocess_exec(
            *[sys.executable, "-m", "corral", "run", *account, *files, "--"],
            *["/usr/bin/env", *variables, *kind.argv(Opening())],
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            limit=1 << 20,
            cwd="/" if place.user is not None else None,
        )
        return cls(process, kind)

    async def converse(self, place: Place, text: str, printer: Printer) -> None:
        """Open a conversation and hold one turn, shown by the printer. Raises DemoFailed."""
        try:
            async with asyncio.timeout(TURN_TIMEOUT):
                await self._engine.open(Opening(workspace=str(place.workspace)))
                self.turn = Turn(Limits())
                await self._engine.begin(self.turn, Message(text), Choices())
                end = await self._show(self.turn, printer)
        except TimeoutError:
            raise DemoFailed(f"the turn was not over in {TURN_TIMEOUT:g} s") from None
        except BackendError as error:
            raise DemoFailed(f"codex did not hold out: {error}") from error
        if end.status != "completed":
            raise DemoFailed(f"the turn ended {end.status}: {end.reason}")

    async def _show(self, turn: Turn, printer: Printer) -> TurnEnded:
        while True:
            event: Event = await turn.feed.get()
            printer.show(event)
            if isinstance(event, TurnEnded):
                return event

    async def kill(self) -> None:
        """SIGKILL to `corral run` alone, and wait until it is gone."""
        self.process.kill()
        await asyncio.wait_for(self.process.wait(), EXIT_TIMEOUT)

    async def close(self) -> None:
        """End it, if it was not killed: the end of its input is codex's goodbye."""
        self._engine.close()
        self._tasks.cancel()
        await self._tasks.settle(EXIT_TIMEOUT)
        if self.process.stdin is not None:
            self.process.stdin.close()
        if self.process.returncode is None:
            self.process.terminate()
            await asyncio.wait_for(self.process.wait(), EXIT_TIMEOUT)

    def _read(self, error: BaseException | None) -> None:
        if self.turn is not None:
            self.turn.fail(f"codex ended its output: {error!r}" if error else "codex ended its output")

    # What codex asks for (corral.backends.engine.Host).

    def remember(self, conversation: str) -> None:
        self.conversation = conversation

    def notice(self, message: str) -> None:
        """Codex's advice on its sandbox, which the demo does not use."""

    def notice_of_host(self, message: str) -> None:
        """The same."""

    async def ask(self, approval: ApprovalRequested) -> Answer:  # noqa: ARG002 - the demo's codex need not ask
        return Answer("decline")

    def fail_turn(self, reason: str) -> None:
        if self.turn is not None:
            self.turn.fail(reason)
