"""What tests of backends do: start one, read a turn to its end, and hold it to the invariants while doing so."""

import asyncio
import sys
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from corral.backends.backend import Answer, Input, Limits
from corral.backends.backend_process import BackendProcess
from corral.backends.claude import Claude
from corral.backends.codex import Codex
from corral.backends.engine import EngineKind
from corral.backends.events import (
    ApprovalClosed,
    ApprovalRequested,
    Text,
    ToolEnded,
    ToolOutput,
    ToolStarted,
    TurnEnded,
    TurnEvent,
    TurnStarted,
)
from corral.backends.launch import Launch
from corral.backends.turn import Turn

PEER = Path(__file__).parent.parent / "scripted_peer.py"
TIMEOUT = 30.0  # seconds


@dataclass(frozen=True)
class Scripted:
    """The engine `kind`, played by scripted_peer.py."""

    kind: EngineKind
    scene: str

    @property
    def name(self) -> str:
        return self.kind.name

    @property
    def starts_in_workspace(self) -> bool:
        return self.kind.starts_in_workspace

    def argv(self, opening: Any) -> list[str]:
        return [sys.executable, str(PEER), self.name, self.scene]

    def is_unknown_conversation(self, opening: Any, last_words: str) -> bool:
        return self.kind.is_unknown_conversation(opening, last_words)

    def connect(self, reader: Any, writer: Any, host: Any) -> Any:
        return self.kind.connect(reader, writer, host)


def scripted(engine: str, scene: str) -> Scripted:
    return Scripted(Codex() if engine == "codex" else Claude(), scene)


@asynccontextmanager
async def running(
    kind: EngineKind, folder: Path, limits: Limits | None = None, conversation: str | None = None, **launch: Any
) -> AsyncIterator[BackendProcess]:
    """A backend that is started, and ended whatever happens; it must be proven empty."""
    state = folder / "state"
    state.mkdir(mode=0o700, exist_ok=True)
    settings = {"goodbye": 1.0, "grace": 0.5, "workspace": folder, "state_dir": state, **launch}
    backend = BackendProcess(kind, replace(Launch(), **settings), limits)
    await backend.start(conversation)
    try:
        yield backend
    finally:
        ended = await asyncio.wait_for(backend.end(), TIMEOUT)
    assert ended.report.verdict == "proven_empty", ended


async def collect(
    backend: BackendProcess,
    message: str | Input,
    answers: Iterable[Answer] = (),
    timeout: float = TIMEOUT,
    **options: Any,
) -> list[TurnEvent]:
    """All events of a turn. Approvals get the answers in their order, and a no when there are none left."""
    left = list(answers)
    got: list[TurnEvent] = []
    async with asyncio.timeout(timeout):
        async for event in backend.send(Input(message) if isinstance(message, str) else message, **options):
            got.append(event)
            if isinstance(event, ApprovalRequested):
                assert backend.answer(event.approval_id, left.pop(0) if left else Answer("decline"))
    check(got)
    return got


def check(events: list[TurnEvent]) -> None:
    """The invariants of corral.backends.events."""
    assert isinstance(events[0], TurnStarted), events
    assert isinstance(events[-1], TurnEnded), events
    assert len(of(TurnStarted, events)) == len(of(TurnEnded, events)) == 1, events
    tools: set[str] = set()
    approvals: set[str] = set()
    for event in events:
        match event:
            case ToolStarted():
                assert event.tool_id not in tools
                tools.add(event.tool_id)
            case ToolOutput():
                assert event.tool_id in tools
            case ToolEnded():
                tools.remove(event.tool_id)
            case ApprovalRequested():
                approvals.add(event.approval_id)
            case ApprovalClosed():
                approvals.remove(event.approval_id)
    assert not tools, f"tools that did not end: {tools}"
    assert not approvals, f"approvals that were not closed: {approvals}"


async def read_all(turn: Turn) -> list[TurnEvent]:
    """What a turn without a backend has to tell, up to its end."""
    async with asyncio.timeout(TIMEOUT):
        got = [await turn.feed.get()]
        while not isinstance(got[-1], TurnEnded):
            got.append(await turn.feed.get())
    return got


def of(kind: type[Any], events: Iterable[Any]) -> list[Any]:
    return [event for event in events if isinstance(event, kind)]


def text(events: Iterable[Any]) -> str:
    return "".join(event.delta for event in of(Text, events))


async def reach(events: AsyncIterator[TurnEvent], kind: type[Any]) -> Any:
    """The next event of a kind."""
    async with asyncio.timeout(TIMEOUT):
        async for event in events:
            if isinstance(event, kind):
                return event
    raise AssertionError(f"the turn ended without {kind.__name__}")


async def rest(events: AsyncIterator[TurnEvent]) -> list[TurnEvent]:
    """What is left of a turn."""
    async with asyncio.timeout(TIMEOUT):
        return [event async for event in events]
