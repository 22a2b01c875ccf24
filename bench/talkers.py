"""The ways of talking to an engine that are measured. Run inside talking.py, as the service account.

Each starts the engine, holds a turn and hands every piece of text to `hear`, and ends the engine, as its users would.
"""

import asyncio
import contextlib
import importlib.util
import json
import os
import signal
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

Hear: TypeAlias = Callable[[str], None]
LINE_LIMIT = 64 << 20
CODEX_POLICY = {"approvalPolicy": "never", "sandbox": "danger-full-access"}


@dataclass(frozen=True)
class Place:
    """Which engine, and where it runs."""

    engine: str
    program: str
    state_dir: str
    folder: str
    env: Mapping[str, str] = field(default_factory=dict)


class Talker(Protocol):
    """A client with an engine of its own."""

    async def start(self) -> None:
        """Start the engine, until it can take a message."""

    async def hold(self, text: str, hear: Hear) -> None:
        """Hold a turn to its end, however it ends."""

    async def end(self) -> str:
        """End the engine; what is known then."""


class Corral:
    """`BackendProcess`, started and ended by the pool, as the service does."""

    _pool: Any = None

    def __init__(self, place: Place) -> None:
        from corral.backends.backend_process import BackendProcess
        from corral.backends.claude import Claude
        from corral.backends.codex import Codex
        from corral.backends.launch import Launch

        kind: Any = Claude((place.program,))
        if place.engine == "codex":
            kind = Codex((place.program,), approval="never", sandbox="danger-full-access")
        self._backend = BackendProcess(kind, Launch(workspace=place.folder, env=place.env, state_dir=place.state_dir))

    async def start(self) -> None:
        from corral.service.pool import Bounds, Pool

        # The driver has one event loop, and one fleet at a time.
        Corral._pool = Corral._pool or Pool()
        bounds = Bounds(backends=10_000, per_person=10_000)
        _, self._slot = await Corral._pool.open("bench", bounds, self._backend.start, patience=0.0)

    async def hold(self, text: str, hear: Hear) -> None:
        from corral.backends.backend import Input
        from corral.backends.events import Text

        async for event in self._backend.send(Input(text)):
            if isinstance(event, Text):
                hear(event.delta)

    async def end(self) -> str:
        return str((await Corral._pool.end(self._backend, self._slot)).report.verdict)


class Bare(ABC):
    """The pipe, read line by line with json.loads: no request is matched, nothing is checked, nobody else is ended."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._program: asyncio.subprocess.Process

    async def start(self) -> None:
        place, pipe = self._place, asyncio.subprocess.PIPE
        environment = {**os.environ, **place.env}
        self._program = await asyncio.create_subprocess_exec(
            *self.argv(place.program),
            stdin=pipe,
            stdout=pipe,
            stderr=asyncio.subprocess.DEVNULL,
            cwd=place.folder,
            env=environment,
            limit=LINE_LIMIT,
            start_new_session=True,
        )
        await self.greet()

    async def hold(self, text: str, hear: Hear) -> None:
        self.ask(text)
        async for message in self.messages():
            if (delta := self.delta(message)) is not None:
                hear(delta)
            elif self.ends(message):
                return

    async def end(self) -> str:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._program.pid, signal.SIGTERM)
        await self._program.wait()
        return ""

    def write(self, message: dict[str, Any]) -> None:
        """Write a line. It is short, and nothing waits for it to be taken."""
        assert self._program.stdin is not None
        self._program.stdin.write(json.dumps(message).encode() + b"\n")

    async def messages(self) -> AsyncIterator[dict[str, Any]]:
        """Read to the end of output."""
        assert self._program.stdout is not None
        while line := await self._program.stdout.readline():
            yield json.loads(line)

    # To be said by each engine.

    @abstractmethod
    def argv(self, program: str) -> list[str]: ...

    @abstractmethod
    async def greet(self) -> None: ...

    @abstractmethod
    def ask(self, text: str) -> None: ...

    @abstractmethod
    def delta(self, message: dict[str, Any]) -> str | None: ...

    @abstractmethod
    def ends(self, message: dict[str, Any]) -> bool: ...


class BareCodex(Bare):
    """For `codex app-server`."""

    _thread = ""

    def argv(self, program: str) -> list[str]:
        return [program, "app-server"]

    async def greet(self) -> None:
        client = {"name": "bench", "title": "Bench", "version": "0"}
        self.write({"id": 1, "method": "initialize", "params": {"clientInfo": client, "capabilities": {}}})
        self.write({"method": "initialized"})
        self.write({"id": 2, "method": "thread/start", "params": {"cwd": self._place.folder, **CODEX_POLICY}})
        async for message in self.messages():
            if message.get("id") == 2:
                self._thread = message["result"]["thread"]["id"]
                return

    def ask(self, text: str) -> None:
        given = [{"type": "text", "text": text}]
        self.write({"id": 3, "method": "turn/start", "params": {"threadId": self._thread, "input": given}})

    def delta(self, message: dict[str, Any]) -> str | None:
        return message["params"]["delta"] if message.get("method") == "item/agentMessage/delta" else None

    def ends(self, message: dict[str, Any]) -> bool:
        return message.get("method") == "turn/completed"


class BareClaude(Bare):
    """For claude's stream-json."""

    def argv(self, program: str) -> list[str]:
        from corral.backends.claude import Claude
        from corral.backends.engine import Opening

        return Claude((program,)).argv(Opening())

    async def greet(self) -> None:
        request = {"subtype": "initialize", "hooks": None}
        self.write({"type": "control_request", "request_id": "1", "request": request})
        async for message in self.messages():
            if message["type"] == "control_response":
                return

    def ask(self, text: str) -> None:
        self.write({"type": "user", "message": {"role": "user", "content": text}})

    def delta(self, message: dict[str, Any]) -> str | None:
        if message["type"] != "stream_event" or message["event"]["type"] != "content_block_delta":
            return None
        text: str | None = message["event"]["delta"].get("text")
        return text

    def ends(self, message: dict[str, Any]) -> bool:
        return bool(message["type"] == "result")


class CodexSdk:
    """The official SDK's async client, openai-codex: every call that waits has a thread of the loop's executor."""

    def __init__(self, place: Place) -> None:
        from openai_codex import AsyncCodex, CodexConfig

        argv = (place.program, "app-server")
        self._codex = AsyncCodex(CodexConfig(launch_args_override=argv, cwd=place.folder, env=dict(place.env)))
        self._thread: Any = None

    async def start(self) -> None:
        from openai_codex import ApprovalMode, Sandbox

        self._thread = await self._codex.thread_start(approval_mode=ApprovalMode.deny_all, sandbox=Sandbox.full_access)

    async def hold(self, text: str, hear: Hear) -> None:
        from openai_codex import TransportClosedError
        from openai_codex.generated.v2_all import AgentMessageDeltaNotification

        turn = await self._thread.turn(text)
        with contextlib.suppress(TransportClosedError):
            async for note in turn.stream():
                if isinstance(note.payload, AgentMessageDeltaNotification):
                    hear(note.payload.delta)

    async def end(self) -> str:
        await self._codex.close()
        return ""


class ClaudeSdk:
    """The official SDK's client, claude-agent-sdk."""

    def __init__(self, place: Place) -> None:
        from claude_agent_sdk import ClaudeAgentOptions, ClaudeSDKClient

        options = ClaudeAgentOptions(
            cli_path=place.program,
            cwd=place.folder,
            env=dict(place.env),
            include_partial_messages=True,
            setting_sources=["user", "project", "local"],
            system_prompt={"type": "preset", "preset": "claude_code"},
        )
        self._client = ClaudeSDKClient(options)

    async def start(self) -> None:
        await self._client.connect()

    async def hold(self, text: str, hear: Hear) -> None:
        from claude_agent_sdk import StreamEvent

        await self._client.query(text)
        async for message in self._client.receive_response():
            if not isinstance(message, StreamEvent) or message.event["type"] != "content_block_delta":
                continue
            if piece := message.event["delta"].get("text"):
                hear(piece)

    async def end(self) -> str:
        await self._client.disconnect()
        return ""


TALKERS: dict[str, dict[str, Callable[[Place], Talker]]] = {
    "codex": {"corral": Corral, "bare": BareCodex, "sdk": CodexSdk, "sdk-threads": CodexSdk},
    "claude": {"corral": Corral, "bare": BareClaude, "sdk": ClaudeSdk},
}
NEEDS = {"codex": "openai_codex", "claude": "claude_agent_sdk"}
LABELS = {
    "codex": {"sdk": "openai-codex", "sdk-threads": "openai-codex, a thread a turn"},
    "claude": {"sdk": "claude-agent-sdk"},
}


def label(engine: str, name: str) -> str:
    """How a table calls a contender."""
    return {"corral": "Corral, BackendProcess.send", "bare": "bare asyncio reader", **LABELS[engine]}[name]


def contenders(engine: str, *, threads: bool = False) -> list[str]:
    """The contenders of an engine whose libraries are installed (`make bench` does that)."""
    found = [name for name in TALKERS[engine] if threads or name != "sdk-threads"]
    if importlib.util.find_spec(NEEDS[engine]) is None:
        found = [name for name in found if not name.startswith("sdk")]
    return found


def thread_a_turn(number: int) -> ThreadPoolExecutor:
    """An executor with room for every turn's waiting call, and for as many more: what the SDK's users would have to
    give the loop, whose own has a thread a core and 4."""
    return ThreadPoolExecutor(2 * number + 4)
