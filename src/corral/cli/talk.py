"""Talking with agents from the command line: chat, demo."""

from __future__ import annotations

import asyncio
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from corral.cli import completing
from corral.cli.common import ConfigFile, EngineOption, app, is_own, say


class Approval(StrEnum):
    """Before the agent does what it may not do unasked."""

    ASK = "ask"
    NEVER = "never"


class Sandbox(StrEnum):
    """As codex names them; an engine that has no sandbox of its own refuses the option."""

    READ_ONLY = "read-only"
    WORKSPACE_WRITE = "workspace-write"
    DANGER_FULL_ACCESS = "danger-full-access"


class _Chat(TyperCommand):
    """`--resume` alone means the last conversation."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """As its parent's."""
        # A shell that completes the line asks what may come behind it.
        for place, word in enumerate(args if not ctx.resilient_parsing else ()):
            if word == "--resume" and (place + 1 == len(args) or args[place + 1].startswith("-")):
                args = [*args[:place], "--resume=last", *args[place + 1 :]]
        return super().parse_args(ctx, args)


@app.command(
    rich_help_panel="Talk",
    cls=_Chat,
    help="""Talk with an agent in the terminal; when you leave, nothing that it started is left running.

What begins with `/` is a command and acts at once, even while a turn runs: `/help` lists them, `/quit` leaves. Enter
sends, Alt-Enter begins a new line, Ctrl-C stops the turn. Without a terminal it reads a message a line and ends after
the last turn.

Where `corral serve` has a socket, it is held there, or refused. Without one, or with one of the options that say so, it
is held in this process: with the engines of the config if there is one, or with the agent on your PATH, your settings
and your login; for Codex else the one of the extra `corral[codex]`. The first
notice says where.

**Exit status**: 0; 1 if the agent could not be started, if something survived its end, or if a turn failed and there
is no terminal; 128+N after signal N.

**Examples**

    corral chat

    corral chat --engine claude --model sonnet

    corral chat --user daniel

    corral chat --resume

    echo "what is in this folder?" | corral chat --json | jq -c .

    corral chat --offline
""",
)
def chat(
    config: ConfigFile = None,
    person: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Who speaks, by the config's names. Default: the account.",
            autocompletion=completing.people,
        ),
    ] = None,
    engine: EngineOption = None,
    model: Annotated[
        str | None, typer.Option(metavar="NAME", help="The agent's model. Default: the agent's own setting.")
    ] = None,
    resume: Annotated[
        str | None,
        typer.Option(
            metavar="ID",
            help="Go on with an earlier conversation; without ID with the last one.",
            autocompletion=completing.conversations,
        ),
    ] = None,
    user: Annotated[
        str | None,
        typer.Option(
            "--user",
            metavar="NAME",
            help="The account to run as. Held in this process.",
            autocompletion=completing.accounts,
        ),
    ] = None,
    approval: Annotated[
        Approval | None,
        typer.Option(
            help="What the agent does where it needs permission; `ask` (the default) without a terminal means no."
            " Held in this process."
        ),
    ] = None,
    sandbox: Annotated[
        Sandbox | None, typer.Option(help="Codex's sandbox. Default: workspace-write. Held in this process.")
    ] = None,
    offline: Annotated[
        bool,
        typer.Option("--offline", help="A scripted model on the loopback: no account, no network. In this process."),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One event a line as JSON, for programs.")] = False,
    state_dir: Annotated[
        Path | None, typer.Option("--state-dir", metavar="DIR", help="Where state is kept. Held in this process.")
    ] = None,
) -> None:
    """Talk with an agent."""
    from corral.backends import registry
    from corral.config import ConfigError, find
    from corral.config.command_line import config_of
    from corral.demo import offline as offline_model
    from corral.process import default_state_dir
    from corral.remote.addresses import SYSTEM_SOCKET
    from corral.remote.wire import Hello
    from corral.terminal import terminal
    from corral.terminal.connectors import OUTSIDE, InProcess, chosen

    named = engine or registry.DEFAULT
    try:
        settings = config_of(
            engine=named, approval=approval and approval.value, sandbox=sandbox and sandbox.value, model=model
        )
    except ConfigError as error:
        for fault in error.faults:
            say(fault)
        raise typer.Exit(2) from None
    own = InProcess(settings, engine=named, user=user, person=person or "", state_dir=state_dir, resume=resume)
    if offline:
        raise typer.Exit(asyncio.run(offline_model.chat(own, as_json=as_json)))
    connector = own.connector()
    try:
        if not any((user, approval, sandbox, state_dir)):
            connector = chosen(config, Hello(person=person, resume=resume, engine=engine, model=model), own)
    except ConfigError as error:
        found = find()
        if config is None and found is not None and not is_own(found):
            # A person's way to the service is its socket; its config is none of their business.
            say(
                f"no service can be reached: there is no socket at {SYSTEM_SOCKET}; ask its operator to start it, or"
                " where its socket is (the variable CORRAL_SOCKET names another one)"
            )
        for fault in error.faults:
            say(fault)
        say(OUTSIDE)
        raise typer.Exit(1) from None
    kept = state_dir or Path(default_state_dir())
    raise typer.Exit(asyncio.run(terminal.run(connector, as_json=as_json, state_dir=kept)))


@app.command(
    rich_help_panel="Talk",
    help="""See it work, with no account and no network: the real Codex, a scripted model on the loopback.

Codex starts a server that calls setsid; `/stop` ends it all and proves it. Then the same under `corral run`, which is
killed with SIGKILL. As root, Codex runs under another account (one of the system's own that has no processes), else
under yours. On a terminal it then offers a chat. It leaves nothing behind.

**Exit status**: 0 if everything was proven, 1 if not.

**Examples**

    corral demo

    sudo corral demo
""",
)
def demo() -> None:
    """See it work."""
    from corral.demo import show

    raise typer.Exit(show.main())
