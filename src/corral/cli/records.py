"""What the store remembers, from the command line: history, reports."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from corral.cli import completing
from corral.cli.common import AsJson, ConfigFile, app, say, state_folder

T = TypeVar("T")

OfPerson = Annotated[
    str | None, typer.Option("--person", metavar="NAME", help="Of this person only.", autocompletion=completing.people)
]
Limit = Annotated[int, typer.Option("--limit", min=1, max=100_000, metavar="N", help="At most so many.")]
StoreDir = Annotated[
    Path | None,
    typer.Option(
        "--state-dir",
        metavar="DIR",
        readable=False,
        help="The store's folder. Default: the config's, or the platform's for a user.",
    ),
]


@app.command(
    rich_help_panel="Service",
    help="""Show the conversations and their turns: when, how they ended, how long they took, what they used.

What was said is not kept here, but for the first line of a conversation. Works while a service runs, and after one
that was killed.

**Examples**

    corral history --person daniel --limit 5

    corral history --json | jq '[.conversations[].turns[].output_tokens] | add'
""",
)
def history(
    person: OfPerson = None,
    limit: Limit = 20,
    state_dir: StoreDir = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Show conversations and their turns."""
    from corral.display import records as display
    from corral.service.store import records
    from corral.terminal.render import show

    folder = _folder(state_dir, config)
    found = _asked(lambda: records.history(folder, person, limit))
    if person is not None and not found:
        _refuse_unknown(person, folder, state_dir, config)
    if as_json:
        typer.echo(json.dumps({"conversations": [one.to_json() for one in found]}, indent=2))
    else:
        show(display.history(found))


@app.command(
    rich_help_panel="Service",
    help="""Show how agents ended: when, whose, the verdict and its proof, seconds, what was sent, what survived.

Agents of which nobody knows how they ended, because the program above them died and no report was found, are named
last.

**Examples**

    corral reports --survivors

    corral reports --person daniel --json | jq '.reports[].report.verdict'
""",
)
def reports(
    person: OfPerson = None,
    survivors: Annotated[bool, typer.Option("--survivors", help="Only those that left something alive.")] = False,
    limit: Limit = 20,
    state_dir: StoreDir = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Show how agents ended."""
    from corral.display import records as display
    from corral.service.store import records
    from corral.terminal.render import show

    folder = _folder(state_dir, config)
    found = _asked(lambda: records.endings(folder, person, survivors=survivors, limit=limit))
    if person is not None and not (found.reports or found.unknown):
        _refuse_unknown(person, folder, state_dir, config)
    if as_json:
        typer.echo(json.dumps(found.to_json(), indent=2))
    else:
        show(display.endings(found, survivors=survivors))


def _folder(state_dir: Path | None, config: Path | None) -> Path:
    from corral.process import default_state_dir

    return state_folder(state_dir, config) or Path(default_state_dir())


def _refuse_unknown(person: str, folder: Path, state_dir: Path | None, config: Path | None) -> None:
    """Exit with status 1 for a name that neither the store nor the config knows: a mistyped one has no records."""
    from corral.config import ConfigError, find, load
    from corral.service.store import records

    known = set(_asked(lambda: records.people(folder)))
    chosen = config or (find() if state_dir is None else None)
    if chosen is not None:
        with suppress(ConfigError):  # a config of the service that this account may not read
            known |= {one.name for one in load(chosen).people}
    if known and person not in known:
        say(f"unknown person {person!r}: choose {', '.join(sorted(known))}")
        raise typer.Exit(1)


def _asked(ask: Callable[[], T]) -> T:
    from corral.service.store.database import StoreError

    try:
        return ask()
    except StoreError as error:
        say(str(error))
        raise typer.Exit(1) from None
