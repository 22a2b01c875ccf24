"""The seam between `running`, which is the same for every engine, and an engine's wire protocol."""

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
    """What an engine said of itself when it was ready."""

    conversation: str
    model: str = ""


class EngineKind(Protocol):
    """How an engine is started: its settings, without a process. `BackendProcess` makes one process of it."""

    @property
    def name(self) -> str:
        """As the registry has it."""

    @property
    def starts_in_workspace(self) -> bool:
        """Whether the process must be started in the workspace; else it is told of it and enters it by itself."""

    def argv(self, opening: Opening) -> Sequence[str]:
        """The command line."""

    def is_unknown_conversation(self, opening: Opening, last_words: str) -> bool:
        """Whether an engine that died in `Engine.open` did so because it does not know the conversation."""

    def connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, host: Host) -> Engine:
        """Take the pipes of a process."""


def check_effort(engine: str, effort: str, known: Collection[str]) -> None:
    """Refuse an effort that the engine does not list, if it lists any. Raises RefusedError."""
    if known and effort not in known:
        raise RefusedError(f"{engine} knows no effort {effort!r}: it knows {', '.join(sorted(known))}")


class Engine(Protocol):
    """The wire of one process. One turn is held at a time; its interruption and an ending may come together."""

    @property
    def at_work(self) -> bool:
        """Whether a turn runs that the engine began of itself, or none that is known."""

    async def read(self) -> None:
        """Read and sort what the engine writes, until it ends its output. Its owner holds it as a task."""

    async def open(self, opening: Opening) -> Opened:
        """Say hello. Raises BackendError, ResumeError, TimeoutError."""

    async def begin(self, turn: Turn, message: Message, choices: Choices) -> None:
        """Hand the message over, once; `turn.begin` when it was taken.

        Raises RefusedError if the engine refused it and is as it was, TimeoutError or BackendError if nobody can tell
        what it will do.
        """

    async def steer(self, turn: Turn, message: Message) -> bool:
        """Fold the message into the turn; False if the engine would not. Raises TimeoutError, BackendError."""

    async def interrupt(self, turn: Turn | None) -> None:
        """Ask for the end of the turn (None: of the engine's own); it comes by `read`. Asked again until it does."""

    async def stop_background_work(self, *, everything: bool) -> None:
        """End what the last turn left running, or every turn. Raises TimeoutError, BackendError."""

    def close(self) -> None:
        """Nobody will answer any more: fail what waits."""

    async def settle(self, timeout: float) -> None:
        """Wait for what `close` cancelled, `timeout` seconds at the most."""


class Host(Protocol):
    """What an engine may ask of the process that it is read by."""

    @property
    def turn(self) -> Turn | None:
        """The turn that runs, or that ran last."""

    @property
    def conversation(self) -> str:
        """See Backend."""

    def remember(self, conversation: str) -> None:
        """The conversation has this id, and a later process can go on with it."""

    def notice(self, message: str) -> None:
        """Tell the person, once: engines repeat their warnings with every turn. Without a turn it waits for one."""

    def notice_of_host(self, message: str) -> None:
        """Tell the operator what is amiss with the host; the person, where nobody else is the operator."""

    async def ask(self, approval: ApprovalRequested) -> Answer:
        """Ask the person; a no after the limit of an approval. Cancel it when the engine waits no more."""

    def fail_turn(self, reason: str) -> None:
        """The turn that runs cannot be read any more: it is stopped, and fails."""
