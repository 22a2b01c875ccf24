"""What the commands share: the program itself, and the options that several of them have."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from corral.backends import registry
from corral.cli import completing
from corral.installed import about

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
        "--state-dir",
        metavar="DIR",
        readable=False,  # whether it can be read is said by whoever reads it, with what to do
        help="The ledger's folder. Default: the config's, or the platform's for a user.",
    ),
]
ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        readable=False,
        help="Default: $CORRAL_CONFIG, the user's, or /etc/corral/corral.toml.",
    ),
]


def _known_engine(name: str) -> str:
    if name not in registry.names():
        raise typer.BadParameter(f"unknown engine {name!r}: choose {' or '.join(registry.names())}")
    return name


EngineOption = Annotated[
    str | None,
    typer.Option(
        "--engine",
        parser=_known_engine,
        metavar="|".join(registry.names()),
        autocompletion=completing.engines,
        help=f"The engine that people begin with. Default: the config's, or {registry.DEFAULT}.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON document, for programs.")]


def say(text: str) -> None:
    """A sentence for the person, on standard error. Nothing depends on whether anybody is there to read it."""
    with suppress(OSError):
        typer.echo(f"corral: {text}", err=True)


def print_version(*, as_json: bool) -> None:
    """What a report of a fault needs; the first line is the version alone."""
    known = about()
    if as_json:
        typer.echo(json.dumps(known, indent=2))
        return
    typer.echo(f"corral {known['version']}")
    typer.echo(f"Python {known['python']}, {known['platform']}")
    typer.echo(f"installed: {known['installed']}, {known['prefix']}")


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version, Python, platform and installation.", is_eager=True)
    ] = False,
) -> None:
    if version:
        print_version(as_json=False)
        raise typer.Exit


def state_folder(state_dir: Path | None, config: Path | None) -> Path | None:
    """The folder that is meant: the one named, the one of the config that is named or found, or None for the user's.

    Exits with status 1 for a config that was named, or is this account's own, and cannot be used.
    """
    if state_dir is not None:
        return state_dir
    from corral.config import ConfigError, find, load
    from corral.process.bare.table import account_name

    chosen = config or find()
    if chosen is None:
        return None
    try:
        return load(chosen).service.state_dir
    except ConfigError as error:
        if config is None and not is_own(chosen):
            # A person's own jobs are not the service's, whose config they may not read. An operator must be told that
            # "no live jobs" says nothing of the service.
            say(f"this shows only {account_name(os.geteuid())}'s own records, not the service's: {error.faults[0]}")
            return None
        for fault in error.faults:
            say(fault)
        raise typer.Exit(1) from None


def state_folders(state_dir: Path | None, config: Path | None) -> list[Path]:
    """The folders whose jobs are meant: the one named, else the config's and this account's own.

    The service keeps its jobs in the config's folder; `corral run` and the library keep theirs in the account's own.
    Exits as `state_folder` does.
    """
    from corral.process import default_state_dir

    chosen = state_folder(state_dir, config)
    own = Path(default_state_dir())
    if chosen is None:
        return [own]
    if state_dir is not None or config is not None:
        return [chosen]
    return list(dict.fromkeys([chosen.absolute(), own.absolute()]))


def is_own(config: Path) -> bool:
    """Whether this account is the one that the config is for."""
    if os.environ.get("CORRAL_CONFIG", ""):
        return True
    try:
        return config.stat().st_uid == os.geteuid()
    except OSError:
        return False
