"""Setting Corral up from the command line: init."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from corral.cli.common import EngineOption, app, say
from corral.cli.talk import Approval

if TYPE_CHECKING:
    from corral.install.initial import Answers


@app.command(
    help="""Write a first config: a commented corral.toml with every key in it.

On a terminal it asks for what no option says; without one, or with `--yes`, it asks nothing. The file belongs to this
account, which should be the service's, with mode 0600, and is written whole or not at all.

**Exit status**: 0; 1 if it was not written; 2 for wrong options.

**Examples**

    corral init

    corral init --yes --person daniel:daniel --person ada:ada --engine claude
"""
)
def init(
    config: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Where it goes. Default: what CORRAL_CONFIG names; /etc/corral/corral.toml for root; else the "
            "platform's folder for a user's config.",
        ),
    ] = None,
    person: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME[:OS_USER]",
            help="Somebody who may talk with an agent, and the account that their agents run as; may be given again.",
        ),
    ] = None,
    engine: EngineOption = None,
    approval: Annotated[Approval | None, typer.Option(help="What agents do where they need permission.")] = None,
    workspace: Annotated[str | None, typer.Option(metavar="FOLDER", help="Where people's agents work.")] = None,
    state_dir: Annotated[
        Path | None, typer.Option("--state-dir", metavar="DIR", help="The folder of all that the service keeps.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Ask nothing, also on a terminal.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
) -> None:
    """Write a first config."""
    from corral.config import ConfigError
    from corral.install import initial

    path = (config or initial.usual_place()).absolute()
    answers = initial.Answers(
        people=tuple(initial.newcomer(written) for written in person or ()),
        engine=engine,
        approval=approval and approval.value,
        workspace=workspace,
        state_dir=str(state_dir.absolute()) if state_dir else None,
    )
    try:
        if not force:
            initial.refuse_overwriting(path)
        if sys.stdin.isatty() and sys.stdout.isatty() and not yes:
            answers = _asked(answers)
        written = initial.build(answers)
        initial.write(written, path, force=force)
    except ConfigError as error:
        for fault in error.faults:
            say(fault)
        raise typer.Exit(1) from None
    names = ", ".join(one.name for one in written.people)
    typer.echo(f"{path} is written. Who may talk with an agent: {names}.")
    if missing := initial.missing_engine(written):
        say(missing)
    if os.geteuid() == 0:
        typer.echo(
            f"Only root can read it. Where the service has another account: `chown ACCOUNT {shlex.quote(str(path))}`, "
            "and do what follows as that account (`sudo -u ACCOUNT`)."
        )
    typer.echo("Read it through, and then:")
    for command, purpose in initial.next_steps(written, path):
        typer.echo(f"  {command}  # {purpose}")


def _asked(answers: Answers) -> Answers:
    from corral.install.asking import ask
    from corral.terminal.render import console

    try:
        return ask(answers, console())
    except (EOFError, KeyboardInterrupt):
        say("nothing was written")
        raise typer.Exit(1) from None
