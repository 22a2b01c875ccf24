"""Reading the store beside a service that writes it, or after one that died: for the command line."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

from corral.process.bare.report import SURVIVORS
from corral.service import instances
from corral.service.store.database import StoreError, connect, damage, refuse_empty, sentence
from corral.service.store.rows import (
    BACKEND,
    CONVERSATION,
    CUT,
    REPORT,
    RUNNING,
    TURN,
    BackendRow,
    ConversationRow,
    ReportRow,
    TurnRow,
)
from corral.service.store.rows import report_row as _report
from corral.service.store.schema import LADDER, SchemaError, version_of
from corral.service.store.store import FILE

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class History:
    """A conversation with its turns, the oldest first."""

    conversation: ConversationRow
    turns: tuple[TurnRow, ...]

    def to_json(self) -> dict[str, Any]:
        """The document of `corral history --json`."""
        return {**asdict(self.conversation), "turns": [_turn_json(turn) for turn in self.turns]}


@dataclass(frozen=True, slots=True)
class Endings:
    """How backends ended, the newest first; and those of which nobody knows, because their program died."""

    reports: tuple[ReportRow, ...] = ()
    unknown: tuple[BackendRow, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The document of `corral reports --json`."""
        reports = [{**asdict(one), "report": one.report.to_json()} for one in self.reports]
        return {"reports": reports, "unknown": [asdict(one) for one in self.unknown]}


def seconds(turn: TurnRow) -> float | None:
    """How long it took; of one that was cut only the next start is known, not the moment."""
    return None if turn.ended is None or turn.state == CUT else turn.ended - turn.began


def _turn_json(turn: TurnRow) -> dict[str, Any]:
    took = seconds(turn)
    return {**asdict(turn), "seconds": None if took is None else round(took, 3)}


def history(state_dir: Path, person: str | None = None, limit: int = 20) -> tuple[History, ...]:
    """The conversations in which something was said, last used first. Empty without a store. Raises StoreError."""

    def find(connection: sqlite3.Connection) -> tuple[History, ...]:
        rows = connection.execute(
            f"select {CONVERSATION} from conversations c where (?1 is null or person = ?1)"
            " and exists (select 1 from turns where conversation = c.id) order by used desc, id desc limit ?2",
            (person, limit),
        ).fetchall()
        return tuple(History(ConversationRow(*row), _turns(connection, row[0])) for row in rows)

    return _ask(state_dir, find, ())


def endings(state_dir: Path, person: str | None = None, *, survivors: bool = False, limit: int = 20) -> Endings:
    """The last endings, or the last that left something alive. Empty without a store. Raises StoreError."""

    def find(connection: sqlite3.Connection) -> Endings:
        verdict = SURVIVORS if survivors else None
        rows = connection.execute(
            f"select {REPORT} from backends where ended is not null and (?1 is null or person = ?1)"
            " and (?2 is null or verdict = ?2) order by ended desc limit ?3",
            (person, verdict, limit),
        ).fetchall()
        return Endings(tuple(_report(row) for row in rows), _unknown(connection, person, limit))

    return _ask(state_dir, find, Endings())


def people(state_dir: Path) -> frozenset[str]:
    """Everybody of whom the store knows anything. Empty without a store. Raises StoreError."""

    def find(connection: sqlite3.Connection) -> frozenset[str]:
        rows = connection.execute("select person from conversations union select person from backends").fetchall()
        return frozenset(person for (person,) in rows)

    return _ask(state_dir, find, frozenset())


def _turns(connection: sqlite3.Connection, conversation: str) -> tuple[TurnRow, ...]:
    rows = connection.execute(
        f"select instance, {TURN} from turns where conversation = ? order by began", (conversation,)
    ).fetchall()
    running = {instance for instance, *row in rows if TurnRow(*row).state == RUNNING}
    there = {instance: instances.is_there(connection, instance) for instance in running}
    return tuple(_told(TurnRow(*row), lives=there.get(instance, True)) for instance, *row in rows)


def _told(turn: TurnRow, *, lives: bool) -> TurnRow:
    """The turn as it is: one of a program that died was cut, also before another program has marked it."""
    return turn if lives or turn.state != RUNNING else replace(turn, state=CUT)


def _unknown(connection: sqlite3.Connection, person: str | None, limit: int) -> tuple[BackendRow, ...]:
    rows = connection.execute(
        f"select instance, {BACKEND} from backends where ended is null and (?1 is null or person = ?1)"
        " order by started desc",
        (person,),
    ).fetchall()
    there = {instance: instances.is_there(connection, instance) for instance in {row[0] for row in rows}}
    return tuple(BackendRow(*row[1:]) for row in rows if not there[row[0]])[:limit]


def examined(path: Path, seconds_allowed: float) -> tuple[int, str]:
    """The version of the store, and the first damage that is found in that time; empty if there is none.

    Raises FileNotFoundError, another OSError, or StoreError for what no store is.
    """
    refuse_empty(path)

    def look(connection: sqlite3.Connection) -> tuple[int, str]:
        return version_of(connection), damage(connection, seconds_allowed)

    return _read(path, look)


def _ask(state_dir: Path, find: Callable[[sqlite3.Connection], T], nothing: T) -> T:
    path = state_dir.absolute() / FILE
    try:
        refuse_empty(path)
    except (FileNotFoundError, NotADirectoryError):
        return nothing
    except OSError as error:
        raise StoreError(f"{path} cannot be read: {error.strerror}; it is its account's and root's alone") from None

    def ask(connection: sqlite3.Connection) -> T:
        version = version_of(connection)
        if version == 0:
            return nothing
        if version < len(LADDER):
            raise SchemaError("is an older Corral's: the next `corral serve` or `corral chat` brings it up to date")
        return find(connection)

    return _read(path, ask)


def _read(path: Path, look: Callable[[sqlite3.Connection], T]) -> T:
    try:
        with closing(connect(f"file:{quote(str(path))}?mode=ro", uri=True)) as connection:
            # One view of it all, whatever is written meanwhile.
            connection.execute("begin")
            return look(connection)
    except SchemaError as error:
        raise StoreError(f"{path} {error}") from None
    except sqlite3.Error as error:
        raise StoreError(sentence(path, error)) from None
