"""Talking with agents from the command line: chat, demo."""

from __future__ import annotations

import asyncio
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from corral.cli.common import StateDir, app, say


class Engine(StrEnum):
    """The agents that this version speaks with."""

    CODEX = "codex"
    CLAUDE = "claude"


class Approval(StrEnum):
    """Before the agent does what it may not do unasked."""

    ASK = "ask"
    NEVER = "never"


class Sandbox(StrEnum):
    """Codex's words."""

    READ_ONLY = "read-only"
    WORKSPACE_WRITE = "workspace-write"
    DANGER_FULL_ACCESS = "danger-full-access"


@app.command(
    help="""Talk with Codex or Claude in the terminal; when you leave, nothing that it started is left running.

What begins with `/` is a command and acts at once, even while a turn runs: `/help` lists them, `/quit` leaves. Enter
sends, Alt-Enter begins a new line, Ctrl-C stops the turn. Without a terminal it reads a message a line and ends after
the last turn.

The agent is the one on your PATH, with your settings and your login; for Codex else the one of `pip install
openai-codex-cli-bin`.

**Exit status**: 0; 1 if the agent could not be started, if something survived its end, or if a turn failed and there
is no terminal; 128+N after signal N.

**Examples**

    corral chat

    corral chat --engine claude --model sonnet

    corral chat --user daniel

    echo "what is in this folder?" | corral chat --json | jq -c .

    corral chat --offline
"""
)
def chat(
    person: Annotated[
        str | None, typer.Option(metavar="NAME", help="Who speaks, as `corral ps` shows it. Default: the account.")
    ] = None,
    engine: Annotated[Engine, typer.Option(help="The agent.")] = Engine.CODEX,
    model: Annotated[
        str | None, typer.Option(metavar="NAME", help="The agent's model. Default: the agent's own setting.")
    ] = None,
    user: Annotated[
        str | None, typer.Option("--user", metavar="NAME", help="The account to run as, through `sudo -n`.")
    ] = None,
    approval: Annotated[
        Approval, typer.Option(help="What the agent does where it needs leave; `ask` without a terminal means no.")
    ] = Approval.ASK,
    sandbox: Annotated[Sandbox, typer.Option(help="Codex's sandbox.")] = Sandbox.WORKSPACE_WRITE,
    offline: Annotated[
        bool, typer.Option("--offline", help="A scripted model on the loopback: no account, no network.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One event a line as JSON, for programs.")] = False,
    state_dir: StateDir = None,
) -> None:
    """Talk with an agent."""
    from corral.backends.claude import Claude, find_claude
    from corral.backends.codex import Codex, find_codex
    from corral.backends.engine import EngineKind
    from corral.backends.errors import EngineNotFoundError
    from corral.chat import terminal
    from corral.chat.venues import Own
    from corral.demo import offline as offline_model
    from corral.process import default_state_dir

    def kind(name: str) -> EngineKind:
        chosen = model if name == engine.value else None
        if name == Engine.CLAUDE.value:
            # What `never` means to codex: it does what it may, and does not ask for more.
            mode = "dontAsk" if approval is Approval.NEVER else None
            return Claude(find_claude(), model=chosen, permission_mode=mode)
        return Codex(find_codex(), model=chosen, approval=approval.value, sandbox=sandbox.value)

    try:
        kind(engine.value)
    except EngineNotFoundError as error:
        say(str(error))
        raise typer.Exit(1) from None
    own = Own(kind, engine.value, user=user, person=person or user or "", state_dir=state_dir)
    if offline:
        raise typer.Exit(asyncio.run(offline_model.chat(own, as_json=as_json)))
    kept = state_dir or Path(default_state_dir())
    raise typer.Exit(asyncio.run(terminal.run(own.venue(), as_json=as_json, state_dir=kept)))


@app.command(
    help="""See it work, with no account and no network: the real Codex, a scripted model on the loopback.

Codex starts a server that calls setsid; `/stop` ends it all and proves it. Then the same under `corral run`, which is
killed with SIGKILL. As root, Codex runs under another account (one of the system's own that has no processes), else
under yours. On a terminal it then offers a chat. It leaves nothing behind.

**Exit status**: 0 if everything was proven, 1 if not.

**Examples**

    corral demo

    sudo corral demo
"""
)
def demo() -> None:
    """See it work."""
    from corral.demo import show

    raise typer.Exit(show.main())
