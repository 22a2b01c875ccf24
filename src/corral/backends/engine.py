"""The seam between a backend, which is the same for every engine, and the wire protocol of one engine."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from corral.backends.errors import RefusedError

if TYPE_CHECKING:
    import asyncio

    from corral.backends.attachments import Message
    from corral.backends.backend import Answer, Choices
    from corral.backends.events import ApprovalRequested
    from corral.backends.turn import Turn


@dataclass(frozen=True, slots=True)
class Opening:
    """Which conversation a process is started for."""

    conversation: str | None = None
    """None: a new one."""
    workspace: str = ""
    """The folder of the conversation."""


@dataclass(frozen=True, slots=True)
class Opened:
    """What an engine reported when it was ready."""

    conversation: str
    model: str = ""


class EngineKind(Protocol):
    """How an engine is started: its settings, without a process. `BackendProcess` makes one process of it."""

    @property
    def name(self) -> str:
        """As the registry has it."""

    @property
    def starts_in_workspace(self) -> bool:
        """Whether the process must be started in the workspace; else it is told the workspace and enters it itself."""

    def argv(self, opening: Opening) -> Sequence[str]:
        """The command line."""

    def is_unknown_conversation(self, opening: Opening, last_words: str) -> bool:
        """Whether an engine that died in `Engine.open` did so because it does not know the conversation."""

    def connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, host: Host) -> Engine:
        """Speak with a process over its pipes."""


def check_effort(engine: str, effort: str, known: Collection[str]) -> None:
    """Refuse an effort that the engine does not list, if it lists any. Raises RefusedError."""
    if known and effort not in known:
        raise RefusedError(f"unknown effort {effort!r}: {engine} has {', '.join(sorted(known))}")


class Engine(Protocol):
    """The wire of one process. One turn is held at a time; its interruption and an ending may come together."""

    @property
    def at_work(self) -> bool:
        """Whether the engine works, also on a turn that it began itself."""

    async def read(self) -> None:
        """Read and sort what the engine writes, until it ends its output. Its owner holds it as a task."""

    async def open(self, opening: Opening) -> Opened:
        """Say hello. Raises BackendError, ResumeError, TimeoutError."""

    async def begin(self, turn: Turn, message: Message, choices: Choices) -> None:
        """Send the message, once; call `turn.begin` when the engine takes it.

        Raises RefusedError if the engine refused it and its state is unchanged, TimeoutError or BackendError if its
        state is not known.
        """

    async def steer(self, turn: Turn, message: Message) -> bool:
        """Fold the message into the turn; False if the engine would not. Raises TimeoutError, BackendError."""

    async def interrupt(self, turn: Turn | None) -> None:
        """Ask for the end of the turn (None: of the engine's own); it comes by `read`. Asked again until it does."""

    async def stop_background_work(self, *, everything: bool) -> None:
        """End what the last turn left running, or every turn. Raises TimeoutError, BackendError."""

    def close(self) -> None:
        """The engine will not answer any more: fail the requests that wait."""

    async def settle(self, timeout: float) -> None:
        """Wait for what `close` cancelled, `timeout` seconds at the most."""


class Host(Protocol):
    """What an engine may ask of the process that it is read by."""

    @property
    def turn(self) -> Turn | None:
        """The turn that runs; None between turns."""

    @property
    def conversation(self) -> str:
        """See Backend."""

    def remember(self, conversation: str) -> None:
        """The conversation has this id, and a later process can go on with it."""

    def notice(self, message: str) -> None:
        """Tell the person, once: engines repeat their warnings with every turn. Without a turn it waits for one."""

    def notice_of_host(self, message: str) -> None:
        """Tell the operator about a fault of the host; the person, where there is no other operator."""

    async def ask(self, approval: ApprovalRequested) -> Answer:
        """Ask the person; declined after the limit of an approval. Cancel it when the engine withdraws the request."""

    def fail_turn(self, reason: str) -> None:
        """Stop the turn that runs, and have it fail: it cannot be read any further."""
