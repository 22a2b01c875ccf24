"""Setting Corral up from the command line: init, setup."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from corral.cli.common import AsJson, EngineOption, app, say
from corral.cli.talk import Approval

if TYPE_CHECKING:
    from collections.abc import Sequence

    from corral.install.initial import Answers
    from corral.install.setup.receipt import Receipt
    from corral.install.setup.step import Step


@app.command(
    rich_help_panel="Install",
    help="""Write a first config: a commented corral.toml with every key in it.

On a terminal it asks for what no option says; without one, or with `--yes`, it asks nothing. The file belongs to this
account, which should be the service's, with mode 0600, and is written whole or not at all.

**Exit status**: 0; 1 if it was not written; 2 for wrong options.

**Examples**

    corral init

    corral init --yes --person daniel:daniel --person ada:ada --engine claude
""",
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
    socket: Annotated[
        Path | None, typer.Option("--socket", metavar="PATH", help="Where people's chats reach the service.")
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
        socket=str(socket.absolute()) if socket else None,
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


@app.command(
    rich_help_panel="Install",
    help="""Take people's names to a running service, as root: a dry run first, and step by step.

Makes what is missing of: the service's account, the config, the state folder, each person's folder for temporary files,
the rules of sudo (checked by visudo), and the unit; starts it, and has the doctor try all of it. What is there already
is left as it is, so that a second run changes nothing. Without `--apply` it prints what it would do.

`--remove` undoes exactly what it made: it stops the service, ends and proves, and removes the files that nobody has
changed since. It says what it leaves.

**Exit status**: 0; 1 if a step was refused or failed; 2 for wrong options.

**Examples**

    sudo corral setup --person daniel --person ada

    sudo corral setup --person daniel --person ada --apply

    sudo corral setup --remove
""",
)
def setup(
    person: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME[:ACCOUNT]",
            help="Somebody who may talk with an agent, and their account. Default: the account of that name.",
        ),
    ] = None,
    service_user: Annotated[
        str, typer.Option("--service-user", metavar="NAME", help="The account that the service runs as.")
    ] = "corral",
    engine: EngineOption = None,
    config: Annotated[Path, typer.Option(metavar="FILE", help="Its config; one that is there stays as it is.")] = Path(
        "/etc/corral/corral.toml"
    ),
    state_dir: Annotated[
        Path, typer.Option("--state-dir", metavar="DIR", help="The folder of all that the service keeps.")
    ] = Path("/var/lib/corral"),
    socket: Annotated[
        Path, typer.Option("--socket", metavar="PATH", help="Where people's chats reach the service.")
    ] = Path("/run/corral/corral.sock"),
    unit: Annotated[bool, typer.Option("--unit/--no-unit", help="Have the machine start it.")] = True,
    create_accounts: Annotated[
        bool, typer.Option("--create-accounts", help="Make the accounts of people that are missing.")
    ] = False,
    apply: Annotated[bool, typer.Option("--apply", help="Do it. Without this, it is only said.")] = False,
    remove: Annotated[bool, typer.Option("--remove", help="Undo what a setup made on this machine.")] = False,
    state: Annotated[
        bool, typer.Option("--state", help="With --remove: conversations and reports go as well.")
    ] = False,
    accounts: Annotated[
        bool, typer.Option("--accounts", help="With --remove: accounts that were made go; their homes stay.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Set the service up, or undo that."""
    from contextlib import nullcontext

    from corral.install.setup import plan, removal
    from corral.install.setup.errors import SetupError
    from corral.install.setup.receipt import Receipt, alone

    if (state or accounts) and not remove:
        raise typer.BadParameter("--state and --accounts belong to --remove")
    if os.geteuid() != 0:
        say("this changes the machine, and looks into what only root may see: run it with sudo")
        raise typer.Exit(1)
    places = (config.absolute(), state_dir.absolute(), socket.absolute())
    try:
        with alone() if apply else nullcontext():
            receipt = Receipt.read()
            if remove:
                if not receipt.made:
                    say(f"there is nothing to undo: {receipt.path} names nothing that a setup has made")
                    raise typer.Exit(0)
                steps = removal.steps(receipt, state=state, accounts=accounts)
            else:
                people = tuple(plan.newcomer(written) for written in person or ())
                steps = plan.steps(plan.Wanted(people, service_user, engine, *places, unit, create_accounts))
                receipt.belongs_to(service_user, places[1])
            refused = _go(steps, receipt, apply=apply, as_json=as_json)
    except SetupError as error:
        say(str(error))
        raise typer.Exit(1) from None
    if remove and apply and not refused and not as_json:
        for sentence in removal.left(receipt):
            typer.echo(f"left: {sentence}")
    if not as_json and not apply:
        typer.echo("Nothing was changed. Do it with --apply.")
    raise typer.Exit(1 if refused else 0)


_MARKS = {"done": "ok    ", "todo": "would ", "refused": "error ", "left": "left  "}


def _go(steps: Sequence[Step], receipt: Receipt, *, apply: bool, as_json: bool) -> bool:
    """Look, or do it, and print each step as it is over. Whether one was refused."""
    import json

    from corral.install.setup import running

    results = []
    found = running.carry_out(steps, receipt, lambda _: None) if apply else running.look_at(steps, receipt)
    for result in found:
        results.append(result)
        if not as_json:
            detail = "; ".join(text for text in (result.look.detail, result.look.remedy) if text)
            typer.echo(f"{_MARKS[result.look.state]}{result.title}: {detail}")
    refused = any(result.look.state == "refused" for result in results)
    if as_json:
        typer.echo(json.dumps({"applied": apply, "ok": not refused, "steps": [r.to_json() for r in results]}, indent=2))
    elif apply and len(results) < len(steps):
        say(f"{len(steps) - len(results)} steps were not begun: fix that, and run it again; what is done stays done")
    return refused
