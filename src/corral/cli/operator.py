"""For whoever installs Corral and answers for it: doctor, sudoers, units."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from corral.cli.common import AsJson, ConfigFile, app, print_version, say

if TYPE_CHECKING:
    from corral.config import Config


ServiceUser = Annotated[
    str | None,
    typer.Option(
        "--service-user",
        metavar="NAME",
        help="The account that the service runs as. Default: this one; for root, the owner of the state folder.",
    ),
]


class Unit(StrEnum):
    """What `corral units` can write."""

    systemd = "systemd"
    tmpfiles = "tmpfiles"
    launchd = "launchd"


@app.command(
    rich_help_panel="Install",
    help="""Try everything that must be right on this machine, and say what is not, and what to do about it.

Run it as the service's account: sudo's rules and the modes of files are tried as they are for that account. Each engine
is started once for each account that uses it, with `--version` and a question after its login; nothing is changed, and
no model is asked.

**Exit status**: 0; 1 if there is an error; warnings are none.

**Examples**

    sudo -u bot corral doctor

    corral doctor --json | jq '.findings[] | select(.status == "error")'

    corral doctor --fix
""",
)
def doctor(
    config: ConfigFile = None,
    as_json: AsJson = False,
    fix: Annotated[
        bool, typer.Option("--fix", help="Print the commands that would fix what was found. It runs none of them.")
    ] = False,
) -> None:
    """Try everything."""
    import json

    from corral.install import doctor as examination
    from corral.terminal.render import console

    findings = examination.examine(config)
    if as_json:
        typer.echo(json.dumps({"findings": [finding.to_json() for finding in findings]}, indent=2))
    elif fix:
        commands = examination.commands_to_fix(findings)
        for command in commands:
            typer.echo(command)
        if not commands:
            say("no command is needed, or none is known: `corral doctor` shows what was found")
    else:
        console().print(examination.shown(findings))
    raise typer.Exit(1 if any(finding.status == "error" for finding in findings) else 0)


@app.command(
    rich_help_panel="Install",
    help="""Print the version, Python, the platform, and how Corral was installed: what a report of a fault needs.

**Examples**

    corral version

    corral version --json | jq -r .installed
""",
)
def version(as_json: AsJson = False) -> None:
    """Print the version."""
    print_version(as_json=as_json)


@app.command(
    rich_help_panel="Install",
    help="""Print the sudo rules that the config's people need: what starts their agents, what ends them, nothing else.

They are checked by visudo first. Standard error names what has no rule.

**Exit status**: 0; 1 if no rules can be written, and then nothing is printed.

**Examples**

    corral sudoers --service-user bot > corral.rules

    sudo install -o root -g root -m 0440 corral.rules /etc/sudoers.d/corral && sudo visudo -c
""",
)
def sudoers(
    config: ConfigFile = None,
    service_user: ServiceUser = None,
) -> None:
    """Print the rules."""
    from corral.install import programs
    from corral.install import sudoers as writing
    from corral.install.accounts import NoServiceAccountError, service_account

    settings = _load(config)
    try:
        account = service_account(settings, service_user)
        rules = writing.rules(settings, account, programs.path_for_others())
    except NoServiceAccountError as error:
        _refuse(str(error))
    except writing.SudoersError as error:
        _refuse(*error.faults)
    fault = writing.verify(rules.text)
    if fault and not fault.startswith("there is no visudo"):
        _refuse(fault)
    for sentence in (*rules.notices, *([fault] if fault else [])):
        say(sentence)
    typer.echo(rules.text, nl=False)


@app.command(
    rich_help_panel="Install",
    help="""Print what makes Corral a service of this machine: a unit of systemd, its folders, or a daemon of launchd.

Each line has its reason beside it. A unit is checked by systemd-analyze, where that is installed.

**Exit status**: 0; 1 if it cannot be written.

**Examples**

    corral units systemd --service-user bot > corral.service

    corral units tmpfiles --service-user bot > corral.conf

    corral units launchd --service-user bot > org.corral.serve.plist
""",
)
def units(
    kind: Annotated[
        Unit | None,
        typer.Argument(help="tmpfiles: the accounts' folders for temporary files. Default: this machine's manager."),
    ] = None,
    config: ConfigFile = None,
    service_user: ServiceUser = None,
) -> None:
    """Print a unit."""
    import sys

    from corral.install import accounts, launchd
    from corral.install import units as writing

    settings = _load(config)
    wanted = kind or (Unit.launchd if sys.platform == "darwin" else Unit.systemd)
    try:
        account = accounts.service_account(settings, service_user)
        if wanted is Unit.launchd:
            text = launchd.plist(settings, account, accounts.program())
        elif wanted is Unit.tmpfiles:
            text = writing.tmpfiles(settings, account)
        else:
            text = writing.systemd(settings, account, accounts.program())
    except (accounts.NoServiceAccountError, writing.UnitsError) as error:
        _refuse(str(error))
    typer.echo(text, nl=False)
    if wanted is Unit.systemd:
        if fault := writing.verify(text):
            say(f"systemd-analyze says of it: {fault}")
        for sentence in writing.notices(settings):
            say(sentence)


def _load(path: Path | None) -> Config:
    from corral.config import ConfigError, load

    try:
        return load(path)
    except ConfigError as error:
        _refuse(*error.faults)


def _refuse(*sentences: str) -> NoReturn:
    for sentence in sentences:
        say(sentence)
    raise typer.Exit(1)
