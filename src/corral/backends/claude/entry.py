"""Claude Code, as the registry has it."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace

from pydantic import Field

from corral.backends.claude.binary import find_claude
from corral.backends.claude.kind import Claude
from corral.backends.claude.offline import claude_environment
from corral.backends.entry import EngineEntry, LoginCheck, LoginState, ProgramPatterns
from corral.backends.settings import EngineSettings
from corral.values.kinds import Approval, Command, Text


class ClaudeSettings(EngineSettings):
    """Claude Code."""

    command: Command = ("claude",)
    """Starts claude; what makes it speak stream-json is added. A name without a slash is looked for as codex is."""
    approval: Approval = "ask"
    """What claude does where it needs permission: `ask` the person, or `never` ask and do only what it may."""
    model: Text | None = Field(default=None, examples=["sonnet"])
    """The model of people who name none. Without it: what the person set in claude itself."""
    effort: Text | None = Field(default=None, examples=["high"])
    """The effort of reasoning of people who name none. Without it: what the person set in claude itself."""


def _kind(settings: ClaudeSettings, command: Sequence[str], model: str | None) -> Claude:
    # What `never` means to codex: it does what it may, and does not ask for more.
    mode = "dontAsk" if settings.approval == "never" else None
    return Claude(command, model=model, permission_mode=mode)


def _read_login(_status: int | None, out: str, _words: str) -> LoginState:
    try:
        said = json.loads(out)
        logged_in, method = bool(said["loggedIn"]), str(said.get("authMethod", ""))
    except (ValueError, KeyError, TypeError):
        return LoginState("unknown", "")
    return LoginState("logged in", method or "a way it does not name") if logged_in else LoginState("not logged in", "")


def _offline(kind: Claude, base_url: str) -> Claude:
    return replace(kind, settings=json.dumps({"env": claude_environment(base_url)}))


ENTRY = EngineEntry(
    name="claude",
    title="Claude Code",
    settings=ClaudeSettings,
    kind=_kind,
    find=find_claude,
    oldest=(2, 1),
    home=("CLAUDE_CONFIG_DIR", ".claude"),
    # An older one takes `auth status` for a message, and asks its model.
    login=LoginCheck(("auth", "status"), _read_login, ("auth", "login"), since=(2, 1, 41)),
    # Letters count: "Claude" is a desktop program.
    programs=ProgramPatterns(
        re.compile(r"claude(-(x86_64|aarch64)-[a-z0-9_-]+)?"),
        re.compile(r"claude(\.[cm]?js)?"),
        "/@anthropic-ai/claude-code/",
    ),
    offline=_offline,
)
