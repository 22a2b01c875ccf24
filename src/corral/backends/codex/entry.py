"""Codex, as the registry has it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, TypeAlias

from pydantic import Field

from corral.backends.codex.binary import find_codex
from corral.backends.codex.kind import Codex
from corral.backends.codex.offline import codex_overrides
from corral.backends.entry import EngineEntry, LoginCheck, LoginState, ProgramPatterns
from corral.backends.settings import EngineSettings
from corral.values.kinds import Approval, Command, Text

Sandbox: TypeAlias = Literal["workspace-write", "read-only", "danger-full-access"]


class CodexSettings(EngineSettings):
    """Codex, from 0.125 on."""

    command: Command = ("codex",)
    """Starts codex; `app-server` is added. A name without a slash is looked for on the service's PATH, and for another
    account where sudo looks (its secure_path)."""
    approval: Approval = "ask"
    """What codex does where it needs permission: `ask` the person, or `never` ask and do only what it may."""
    sandbox: Sandbox = "workspace-write"
    """Codex's own sandbox."""
    model: Text | None = Field(default=None, examples=["gpt-5-codex"])
    """The model of people who name none. Without it: what the person set in codex itself."""
    effort: Text | None = Field(default=None, examples=["medium"])
    """The effort of reasoning of people who name none. Without it: what the person set in codex itself."""


def _kind(settings: CodexSettings, command: Sequence[str], model: str | None) -> Codex:
    return Codex(command, model=model, approval=settings.approval, sandbox=settings.sandbox)


def _read_login(status: int | None, _out: str, words: str) -> LoginState:
    # Of a key codex shows the first and last letters: no more than its kind is repeated.
    if status == 0:
        method = next((method for method in ("ChatGPT", "API key") if method in words), "a way that is not known here")
        return LoginState("logged in", method)
    if status is not None and "Not logged in" in words:
        return LoginState(
            "not logged in", "with a model provider of their own in codex's config.toml that may be meant"
        )
    return LoginState("unknown", "")


def _offline(kind: Codex, base_url: str) -> Codex:
    return replace(kind, overrides=codex_overrides(base_url))


ENTRY = EngineEntry(
    name="codex",
    title="Codex",
    settings=CodexSettings,
    kind=_kind,
    find=find_codex,
    oldest=(0, 125),
    home=("CODEX_HOME", ".codex"),
    login=LoginCheck(("login", "status"), _read_login, ("login",)),
    # Older packages name the binary after its target. Letters count: "Codex" is a desktop program.
    programs=ProgramPatterns(
        re.compile(r"codex(-(x86_64|aarch64)-[a-z0-9_-]+)?"), re.compile(r"codex(\.[cm]?js)?"), "/@openai/codex"
    ),
    offline=_offline,
)
