"""The command line: it wires the rooms together and holds no logic."""

from __future__ import annotations

import asyncio
import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from corral import __version__

app = typer.Typer(
    name="corral",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help="Run coding agents, and anything else, so that **nothing they started is left running**.",
    epilog="Begin with `corral demo`, or with `corral run -- sleep 60`.",
)

StateDir = Annotated[
    Path | None,
    typer.Option(
        "--state-dir", metavar="DIR", help="The ledger's folder. Default: the platform's folder for a user's state."
    ),
]


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


AsJson = Annotated[bool, typer.Option("--json", help="One JSON document, for programs.")]


def say(text: str) -> None:
    """A sentence for the person, on standard error."""
    typer.echo(f"corral: {text}", err=True)


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.", is_eager=True)] = False,
) -> None:
    if version:
        typer.echo(f"corral {__version__}")
        raise typer.Exit


# click's own, or the copy of it that newer typers carry.
_USAGE_ERROR: type[BaseException] = typer.BadParameter.__bases__[0]


class _Run(TyperCommand):
    """Usage errors of `corral run` are 125: every other status is the command's."""

    def make_context(self, *arguments: Any, **options: Any) -> Any:
        """As its parent's."""
        try:
            return super().make_context(*arguments, **options)
        except _USAGE_ERROR as error:
            vars(error)["exit_code"] = 125
            raise


@app.command(
    cls=_Run,
    context_settings={"allow_interspersed_args": False, "ignore_unknown_options": False},
    help="""Run a command; when it exits, or you end it, end all that it started.

Your terminal's streams are the command's. TERM, INT (Ctrl-C) and HUP end the whole tree: TERM first, KILL after the
grace. If corral itself is killed, the tree is ended all the same.

**Exit status**: the command's own; 128+N if signal N ended it; 125 if corral failed or something survived; 126 if the
command cannot be executed; 127 if it is not found.

**Examples**

    corral run -- codex exec "fix the tests"

    corral run --user daniel -- codex app-server

    corral run --grace 2 --report report.json -- sh -c 'setsid sleep 1000 & sleep 1'
""",
)
def run(
    command: Annotated[list[str], typer.Argument(metavar="COMMAND [ARG]...", show_default=False)],
    user: Annotated[
        str | None, typer.Option("--user", metavar="NAME", help="The account to run as, through `sudo -n`.")
    ] = None,
    grace: Annotated[float, typer.Option(min=0, metavar="SECONDS", help="From TERM to KILL.")] = 5.0,
    kill: Annotated[
        float, typer.Option(min=0, metavar="SECONDS", help="For KILL, before survivors are reported.")
    ] = 10.0,
    report: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the report as JSON, however corral ends.")
    ] = None,
    state_dir: StateDir = None,
    tracker: Annotated[
        str, typer.Option(metavar="NAME", help="`auto`, or `portable` to do as a host without subreapers must.")
    ] = "auto",
) -> None:
    """Run a command as a job."""
    from corral.process import foreground

    status = asyncio.run(
        foreground.run(
            command,
            user=user,
            grace=grace,
            kill=kill,
            report_file=str(report) if report else None,
            state_dir=str(state_dir) if state_dir else None,
            tracker=tracker,
            say=say,
        )
    )
    raise typer.Exit(status)


@app.command(
    help="""Show the live jobs with their trees: account, pid, age, memory, command.

**Examples**

    corral ps

    corral ps --json | jq '.jobs[].tree | length'
"""
)
def ps(state_dir: StateDir = None, as_json: AsJson = False) -> None:
    """Show the live jobs."""
    from corral.process import LedgerError, live_jobs
    from corral.process.host import host_table

    try:
        jobs = live_jobs(state_dir)
    except LedgerError as error:
        say(str(error))
        raise typer.Exit(1) from None
    if as_json:
        typer.echo(json.dumps({"jobs": [job.to_json(host_table()) for job in jobs]}, indent=2))
        return
    from corral import view

    view.console().print(view.jobs(jobs))


@app.command(
    help="""End what dead supervisors left.

A job whose supervisor and reaper were both killed leaves its tree behind with its record; this ends it. Jobs whose
supervisor lives are left alone.

**Exit status**: 0 when nothing is left, 1 otherwise.

**Examples**

    corral sweep

    corral sweep --json --state-dir /var/lib/corral
"""
)
def sweep(state_dir: StateDir = None, as_json: AsJson = False) -> None:
    """End what dead supervisors left."""
    from corral.process import LedgerError
    from corral.process import sweep as end_what_is_left

    try:
        result = end_what_is_left(state_dir)
    except LedgerError as error:
        say(str(error))
        raise typer.Exit(1) from None
    if as_json:
        typer.echo(json.dumps(result.to_json(), indent=2))
    else:
        from corral import view

        view.console().print(view.swept(result))
    raise typer.Exit(0 if result.clean else 1)


@app.command(
    help="""Talk with Codex or Claude in the terminal; when you leave, nothing that it started is left running.

A line is a message; `/stop` `/new` `/restart` `/status` `/approve` `/deny` `/help` `/quit` act at once, even while a
turn runs, and Ctrl-C stops the turn. Without a terminal it reads a message a line and ends after the last turn.

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
    from corral.backends.errors import EngineNotFoundError
    from corral.chat import terminal
    from corral.demo import offline as offline_model

    kind: Claude | Codex
    try:
        if engine is Engine.CLAUDE:
            # What `never` means to codex: it does what it may, and does not ask for more.
            mode = "dontAsk" if approval is Approval.NEVER else None
            kind = Claude(find_claude(), model=model, permission_mode=mode)
        else:
            kind = Codex(find_codex(), model=model, approval=approval.value, sandbox=sandbox.value)
    except EngineNotFoundError as error:
        say(str(error))
        raise typer.Exit(1) from None
    options = terminal.ChatOptions(
        kind,
        user=user,
        person=person or user or "",
        as_json=as_json,
        state_dir=state_dir,
    )
    raise typer.Exit(asyncio.run(offline_model.chat(options) if offline else terminal.run(options)))


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
