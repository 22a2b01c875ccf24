"""How codex is started: its settings, and its pipes handed to an engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from corral.backends.codex.engine import CodexEngine

if TYPE_CHECKING:
    import asyncio

    from corral.backends.engine import Engine, Host, Opening


@dataclass(frozen=True, slots=True)
class Codex:
    """The engine `codex app-server`, from 0.125 on."""

    command: Sequence[str] = ("codex",)
    """Starts codex; `app-server` is added."""
    model: str | None = None
    """None: the person's own setting."""
    approval: str = "ask"
    """`ask`, or `never`."""
    sandbox: str = "workspace-write"
    """`read-only`, `workspace-write` or `danger-full-access`."""
    overrides: Sequence[str] = ()
    """Settings of codex as `key=value` in TOML, each handed over with `-c`: everybody on the machine can read them."""

    name = "codex"
    starts_in_workspace = False

    def argv(self, opening: Opening) -> list[str]:  # noqa: ARG002 - codex is told of the conversation when it runs
        return [*self.command, *(part for override in self.overrides for part in ("-c", override)), "app-server"]

    def is_unknown_conversation(self, opening: Opening, last_words: str) -> bool:  # noqa: ARG002 - codex says so on its wire
        return False

    def connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, host: Host) -> Engine:
        return CodexEngine(self.settings(), reader, writer, host)

    def settings(self) -> dict[str, Any]:
        """What each conversation is opened with, as codex names it."""
        policy = "never" if self.approval == "never" else "on-request"
        settings = {"approvalPolicy": policy, "sandbox": self.sandbox}
        return settings if self.model is None else {**settings, "model": self.model}
