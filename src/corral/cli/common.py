"""What the commands share: the program itself, and the options that several of them have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

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
