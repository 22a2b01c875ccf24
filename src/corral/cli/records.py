"""What the store remembers, from the command line: history, reports."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from corral.cli import completing
from corral.cli.common import AsJson, ConfigFile, app, say, state_folder

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

    from corral.service.store.records import Endings, History
    from corral.service.store.rows import ReportRow, TurnRow

T = TypeVar("T")

_TURNS = 10
"""Turns that are shown of a conversation; `--json` has them all."""
_STATES = {"completed": "green", "running": "cyan", "interrupted": "yellow"}
_VERDICTS = {"proven_empty": "green", "empty_by_scan": "yellow"}

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
    help="""Show the conversations and their turns: when, how they ended, how long they took, what they used.

What was said is not kept here, but for the first line of a conversation. Works while a service runs, and after one
that was killed.

**Examples**

    corral history --person daniel --limit 5

    corral history --json | jq '[.conversations[].turns[].output_tokens] | add'
"""
)
def history(
    person: OfPerson = None,
    limit: Limit = 20,
    state_dir: StoreDir = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Show conversations and their turns."""
    from corral.service.store import records

    folder = _folder(state_dir, config)
    found = _asked(lambda: records.history(folder, person, limit))
    if person is not None and not found:
        _refuse_unknown(person, folder, state_dir, config)
    if as_json:
        typer.echo(json.dumps({"conversations": [_history_json(one) for one in found]}, indent=2))
        return
    _print([_conversation(one) for one in found], "no conversations yet")


@app.command(
    help="""Show how agents ended: when, whose, the verdict and its proof, seconds, what was sent, what survived.

Agents of which nobody knows how they ended, because the program above them died and no report was found, are named
last.

**Examples**

    corral reports --survivors

    corral reports --person daniel --json | jq '.reports[].report.verdict'
"""
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
    from corral.service.store import records

    folder = _folder(state_dir, config)
    found = _asked(lambda: records.endings(folder, person, survivors=survivors, limit=limit))
    if person is not None and not (found.reports or found.unknown):
        _refuse_unknown(person, folder, state_dir, config)
    if as_json:
        typer.echo(json.dumps(_endings_json(found), indent=2))
        return
    _print(_endings(found), "no agent has left anything alive" if survivors else "no agent has ended yet")


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


def _print(blocks: list[RenderableType], nothing: str) -> None:
    from rich.console import Group

    from corral.terminal.render import console

    console().print(Group(*blocks) if blocks else nothing)


def _history_json(one: History) -> dict[str, Any]:
    turns = [
        {**asdict(turn), "seconds": round(seconds, 3) if (seconds := _seconds(turn)) is not None else None}
        for turn in one.turns
    ]
    return {**asdict(one.conversation), "turns": turns}


def _endings_json(found: Endings) -> dict[str, Any]:
    reports = [{**asdict(one), "report": one.report.to_json()} for one in found.reports]
    return {"reports": reports, "unknown": [asdict(one) for one in found.unknown]}


def _conversation(one: History) -> RenderableType:
    from rich.console import Group
    from rich.text import Text

    row = one.conversation
    about = [_shown(part) for part in (row.person, row.engine, row.model, row.workspace) if part]
    lines = [Text.assemble((row.id, "bold"), "  ", "  ".join(about), "  ", (_shown(row.title), "bold"))]
    if len(one.turns) > _TURNS:
        lines.append(Text(f"  … {len(one.turns) - _TURNS} earlier turns", style="dim"))
    return Group(*lines, *(_turn(turn) for turn in one.turns[-_TURNS:]))


def _turn(turn: TurnRow) -> Text:
    from rich.text import Text

    seconds = _seconds(turn)
    used = f"{turn.input_tokens:,} in ({turn.cached_input_tokens:,} cached), {turn.output_tokens:,} out"
    return Text.assemble(
        f"  {_when(turn.began)}  ",
        (f"{turn.state:<11}", _STATES.get(turn.state, "red")),
        f" {'' if seconds is None else f'{seconds:.1f} s':>9}  {used}",
        f", ${turn.cost:.2f}" if turn.cost else "",
        (f"  {_shown(turn.reason)}" if turn.reason else "", "dim"),
    )


def _endings(found: Endings) -> list[RenderableType]:
    from rich.text import Text

    blocks = [_ending(row) for row in found.reports]
    blocks += [
        Text(
            f"{_when(row.started)}  {_shown(row.person)}  {row.engine} as {row.account}, pid {row.pid}:"
            " started, and nobody knows how it ended",
            style="yellow",
        )
        for row in found.unknown
    ]
    return blocks


def _ending(row: ReportRow) -> RenderableType:
    from rich.console import Group
    from rich.text import Text

    one = row.report
    sent = ", ".join(f"{count.signal} to {count.processes}" for count in one.signals)
    lines = [
        Text.assemble(
            f"{_when(row.ended)}  {_shown(row.person)}  {row.engine} as {row.account}  ",
            (one.verdict, _VERDICTS.get(one.verdict, "bold red")),
            f" ({one.proof or 'no proof'})  {one.seconds:.3f} s  {sent or 'no signal was needed'}",
            (f"  {_shown(row.why)}" if row.why else "", "dim"),
        )
    ]
    lines += [
        Text(f"    pid {left.pid} ({left.user}, {left.state}) {_shown(left.command)}: {_shown(left.reason)}")
        for left in one.survivors
    ]
    return Group(*lines)


def _seconds(turn: TurnRow) -> float | None:
    """How long it took; of one that was cut only the next start is known, not the moment."""
    return None if turn.ended is None or turn.state == "cut" else turn.ended - turn.began


def _when(moment: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(moment))


def _shown(text: str) -> str:
    """What others wrote, on one line, without what would steer the terminal."""
    from corral.printable import harmless

    return " ".join(harmless(text).split())
