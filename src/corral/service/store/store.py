"""What outlives the process: conversations, turns, approvals, and how backends ended, in SQLite at STATE_DIR/corral.db.

Nothing that a person wrote is kept but the first line of a conversation's first message, as its title; what was said is
in the engine's own files. What an agent asked leave for is kept, shortened: for the person who must account for it.
"""

from __future__ import annotations

import json
import secrets
import sqlite3
import time
import uuid
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from corral.process import Report
from corral.service import instances, spool
from corral.service.store.database import Database, StoreError, transaction
from corral.service.store.pruning import prune
from corral.service.store.rows import (
    BACKEND,
    CONVERSATION,
    CUT,
    REPORT,
    RUNNING,
    TURN,
    BackendRow,
    ConversationRow,
    Pruned,
    ReportRow,
    TurnRow,
    UsageRow,
    report_row,
)
from corral.service.store.schema import SchemaError, migrate

__all__ = [
    "FILE",
    "BackendRow",
    "ConversationRow",
    "Pruned",
    "ReportRow",
    "Store",
    "StoreError",
    "TurnRow",
    "UsageRow",
]

FILE = "corral.db"
TITLE = 80
MOST_ASKED = 2000
"""Characters that are kept of what an agent asked leave for."""

# Crockford's base 32: what a person reads aloud or types, no letter of it is taken for a digit.
_LETTERS = "0123456789abcdefghjkmnpqrstvwxyz"
_MISREAD = str.maketrans("oil", "011")
_EPOCH = 1_700_000_000


class Store:
    """This process's hold on the store; others may have it open too. Each method is one transaction, whole or not at
    all, also when the caller is cancelled or the process killed in its middle. All of them raise StoreError.
    """

    def __init__(self, database: Database, instance: str) -> None:
        """`open` makes one."""
        self._database = database
        self._instance = instance

    @classmethod
    async def open(cls, state_dir: Path, what: str = "serve") -> Store:
        """Open the store of a state folder; what is missing is made, what is old is brought up to date.

        `what` says what this process is: `serve` or `chat`. Raises StoreError.
        """
        path = Path(state_dir).absolute() / FILE
        registered: list[str] = []

        def bring_up_to_date(connection: sqlite3.Connection) -> None:
            try:
                migrate(connection)
            except SchemaError as error:
                raise StoreError(f"{path} {error}") from error

        def prepare(connection: sqlite3.Connection) -> None:
            bring_up_to_date(connection)
            registered.append(transaction(connection, lambda inside: instances.register(inside, what)))

        database = await Database.open(path, bring_up_to_date, prepare)
        return cls(database, registered[0])

    async def aclose(self) -> None:
        """Let go of everything and close; bounded, and no error. A call after it is a StoreError."""
        left = await self._database.aclose(lambda connection: instances.leave(connection, self._instance))
        instances.unlock(self._state_dir, self._instance, left=left)

    # Conversations.

    async def new_conversation(
        self, person: str, engine: str, workspace: str, model: str | None = None, effort: str | None = None
    ) -> ConversationRow:
        """A new conversation, which nobody holds yet."""
        now = time.time()

        def insert(connection: sqlite3.Connection) -> ConversationRow:
            key = _new_id(now)
            while _exists(connection, key):
                key = _new_id(now)
            row = _plain((key, person, engine, workspace, model, effort, None, "", now, now))
            connection.execute(f"insert into conversations ({CONVERSATION}) values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", row)
            return ConversationRow(*row)

        return await self._database.write(insert)

    async def conversation(self, conversation: str) -> ConversationRow | None:
        """The conversation with that id, also as a person may type it; None if there is none."""
        typed = conversation.strip().lower().translate(_MISREAD)
        rows = await self._ask(f"select {CONVERSATION} from conversations where id = ?", (typed,))
        return ConversationRow(*rows[0]) if rows else None

    async def conversations(self, person: str, limit: int = 20) -> list[ConversationRow]:
        """The person's, last used first; only those in which something was said."""
        rows = await self._ask(
            f"select {CONVERSATION} from conversations c where person = ? and (thread is not null"
            " or exists (select 1 from turns where conversation = c.id)) order by used desc, id desc limit ?",
            (person, limit),
        )
        return [ConversationRow(*row) for row in rows]

    async def set_thread(self, conversation: str, thread: str | None) -> None:
        """Keep the engine's own id of the conversation."""
        await self._do("update conversations set thread = ? where id = ?", (thread, conversation))

    async def set_title(self, conversation: str, title: str) -> None:
        """Name the conversation by the first line of this text, if it has no name yet."""
        line = next((line.strip() for line in title.splitlines() if line.strip()), "")[:TITLE]
        await self._do("update conversations set title = ? where id = ? and title = ''", (line, conversation))

    async def set_choices(self, conversation: str, model: str | None = None, effort: str | None = None) -> None:
        """Keep what the person has chosen; None for the engine's own choice."""
        await self._do("update conversations set model = ?, effort = ? where id = ?", (model, effort, conversation))

    async def claim(self, conversation: str) -> bool:
        """Make this process the conversation's holder; False if there is no such one, or another holds it and lives."""

        def take(connection: sqlite3.Connection) -> bool:
            found = connection.execute("select holder from conversations where id = ?", (conversation,)).fetchone()
            if found is None:
                return False
            holder = found[0]
            if holder not in (None, self._instance) and instances.is_there(connection, holder):
                return False
            connection.execute("update conversations set holder = ? where id = ?", (self._instance, conversation))
            return True

        return await self._database.write(take)

    async def release(self, conversation: str) -> None:
        """Hold the conversation no more, if this process did."""
        await self._do(
            "update conversations set holder = null where id = ? and holder = ?", (conversation, self._instance)
        )

    async def channel(self, person: str, name: str) -> str | None:
        """The conversation that a lasting front end goes on with."""
        rows = await self._ask("select conversation from channels where person = ? and name = ?", (person, name))
        return rows[0][0] if rows else None

    async def set_channel(self, person: str, name: str, conversation: str | None) -> None:
        """Where a lasting front end is to go on after a restart; None for nowhere."""
        if conversation is None:
            await self._do("delete from channels where person = ? and name = ?", (person, name))
            return
        await self._do(
            "insert into channels (person, name, conversation) values (?, ?, ?)"
            " on conflict (person, name) do update set conversation = excluded.conversation",
            (person, name, conversation),
        )

    # Turns.

    async def turn_began(self, conversation: str, person: str) -> str:
        """A turn runs; its id. Of one whose caller was cancelled here nobody has the id: it ends as interrupted."""
        turn, now = uuid.uuid4().hex, time.time()

        def begin(connection: sqlite3.Connection) -> None:
            connection.execute(
                "insert into turns (id, conversation, person, instance, state, began) values (?, ?, ?, ?, ?, ?)",
                (turn, conversation, person, self._instance, RUNNING, now),
            )
            connection.execute("update conversations set used = ? where id = ?", (now, conversation))

        try:
            await self._database.write(begin)
        except BaseException:
            self._database.later(lambda connection: _end(connection, turn, "interrupted", "it did not begin", now))
            raise
        return turn

    async def turn_ended(self, turn: str, status: str, reason: str = "") -> bool:
        """A turn is over: `completed`, `interrupted`, `failed` or `timed_out`. False, and nothing done, if it was."""
        now = time.time()
        return await self._database.write(lambda connection: _end(connection, turn, status, reason, now))

    async def add_usage(
        self, turn: str, input_tokens: int, cached: int, output: int, cost: float | None = None
    ) -> None:
        """Add to what the turn has used, under the model that answers it."""
        await self._do(
            "update turns set input_tokens = input_tokens + ?, cached_input_tokens = cached_input_tokens + ?,"
            f" output_tokens = output_tokens + ?, cost = cost + ?, model = {_MODEL} where id = ?",
            (input_tokens, cached, output, cost or 0.0, turn),
        )

    async def cut_turns(self) -> list[TurnRow]:
        """Mark as cut what ran in processes that are dead, or gone from the store; all cut ones nobody was told of."""
        now = time.time()

        def cut(connection: sqlite3.Connection) -> list[TurnRow]:
            instances.mark_dead(connection, but=self._instance)
            connection.execute(
                f"update turns set state = ?, ended = ?, model = {_MODEL} where state = ?"
                " and instance in (select id from instances where closed is not null)",
                (CUT, now, RUNNING),
            )
            rows = connection.execute(f"select {TURN} from turns where state = ? and told = 0 order by began", (CUT,))
            return [TurnRow(*row) for row in rows]

        return await self._database.write(cut)

    async def told(self, turns: Iterable[str]) -> None:
        """The person knows of these cut turns."""
        known = [(turn,) for turn in turns]
        await self._database.write(lambda connection: connection.executemany(_TOLD, known).close())

    # Approvals.

    async def approval_asked(self, turn: str, approval_id: str, kind: str, what: str) -> None:
        """The agent asks for permission. An id that comes again in the same turn replaces the earlier question."""
        await self._do(
            "insert or replace into approvals (turn, approval, kind, what, asked) values (?, ?, ?, ?, ?)",
            (turn, approval_id, kind, what[:MOST_ASKED], time.time()),
        )

    async def approval_closed(self, turn: str, approval_id: str, decision: str | None, by: str) -> None:
        """The question is closed: by whom and how, or None if it lapsed."""
        await self._do(
            "update approvals set closed = ?, decision = ?, decided_by = ?"
            " where turn = ? and approval = ? and closed is null",
            (time.time(), decision, by, turn, approval_id),
        )

    # Backends and how they ended.

    async def new_backend(self, conversation: str, person: str, account: str, engine: str, job_id: str) -> str:
        """A backend is about to be started; the id of its record. Written first, so that its report finds its place."""
        key = uuid.uuid4().hex
        await self._do(
            f"insert into backends ({BACKEND}, instance) values (?, ?, ?, ?, ?, 0, null, ?, ?, ?)",
            (key, conversation, person, account, engine, job_id, time.time(), self._instance),
        )
        return key

    async def backend_started(self, backend: str, account: str, pid: int, model: str) -> None:
        """It runs."""
        await self._do(
            "update backends set account = ?, pid = ?, model = ? where id = ?", (account, pid, model or None, backend)
        )

    def backend_not_started(self, backend: str) -> None:
        """It could not be started. Its record goes, unless its reaper reported that something survived."""
        self._database.later(lambda connection: self._drop(connection, backend))

    async def backend_ended(self, backend: str, report: Report, steps: Sequence[dict[str, Any]], why: str) -> None:
        """Keep how a backend ended. The first report stays. What its reaper wrote is not needed any more."""
        job_id = await self._database.write(lambda connection: _ended(connection, backend, report, steps, why))
        if job_id and report.empty:  # else its reaper goes on, and will write once more
            await self._database.read(lambda _: spool.remove(self._state_dir, job_id))

    async def lost_backends(self) -> list[BackendRow]:
        """Those without a report whose process is dead, or gone from the store."""

        def find(connection: sqlite3.Connection) -> list[BackendRow]:
            instances.mark_dead(connection, but=self._instance)
            rows = connection.execute(
                f"select {BACKEND} from backends where ended is null"
                " and instance in (select id from instances where closed is not null) order by started"
            )
            return [BackendRow(*row) for row in rows]

        return await self._database.write(find)

    async def jobs(self, job_ids: Sequence[str]) -> dict[str, bool]:
        """Of these jobs those that have a record, and whether it tells how they ended."""
        rows = await self._ask(
            "select job_id, ended is not null from backends where job_id in (select value from json_each(?))",
            (json.dumps(list(job_ids)),),
        )
        return {job_id: bool(ended) for job_id, ended in rows}

    async def report_found(self, backend: str, report: Report) -> None:
        """Keep the report that a lost backend had left."""
        await self.backend_ended(backend, report, [], "the service died")

    async def last_report(self, person: str) -> ReportRow | None:
        """How the person's last backend ended."""
        rows = await self._ask(
            f"select {REPORT} from backends where person = ? and ended is not null order by ended desc limit 1",
            (person,),
        )
        return report_row(rows[0]) if rows else None

    # Both.

    async def usage(self, person: str | None, since: float) -> list[UsageRow]:
        """What turns that began since then used, of one person or of all, by engine and model."""
        rows = await self._ask(
            "select c.engine, t.model, count(*), sum(t.input_tokens), sum(t.cached_input_tokens),"
            " sum(t.output_tokens), sum(t.cost) from turns t join conversations c on c.id = t.conversation"
            " where t.began >= ?1 and (?2 is null or t.person = ?2) group by 1, 2 order by 1, 2",
            (since, person),
        )
        return [UsageRow(*row) for row in rows]

    async def prune(self, before: float) -> Pruned:
        """Delete what has been over since before then. The file gets no smaller: its room is used again."""
        return await self._database.write(lambda connection: prune(connection, before, but=self._instance))

    @property
    def _state_dir(self) -> Path:
        return self._database.path.parent

    def _drop(self, connection: sqlite3.Connection, backend: str) -> None:
        found = connection.execute("select job_id from backends where id = ? and ended is null", (backend,)).fetchone()
        if found is None:
            return
        report = spool.read(self._state_dir, found[0])
        if report is not None and not report.empty:
            _ended(connection, backend, report, [], "it did not start")
            return
        connection.execute("delete from backends where id = ?", (backend,))
        spool.remove(self._state_dir, found[0])

    async def _ask(self, sql: str, values: Sequence[Any]) -> list[tuple[Any, ...]]:
        return await self._database.read(lambda connection: connection.execute(sql, _plain(values)).fetchall())

    async def _do(self, sql: str, values: Sequence[Any]) -> None:
        await self._database.write(lambda connection: connection.execute(sql, _plain(values)).close())


_TOLD = "update turns set told = 1 where id = ?"
_MODEL = (
    "coalesce(model, (select c.model from conversations c where c.id = conversation), (select b.model from backends b"
    " where b.conversation = turns.conversation and b.model is not null order by b.started desc limit 1))"
)
"""The model of a turn: kept from before, else the person's choice, else what the backend said it runs."""


def _end(connection: sqlite3.Connection, turn: str, state: str, reason: str, now: float) -> bool:
    done = connection.execute(
        f"update turns set state = ?, reason = ?, ended = ?, model = {_MODEL} where id = ? and state = ?",
        _plain((state, reason, now, turn, RUNNING)),
    )
    if done.rowcount:
        connection.execute(
            "update conversations set used = ? where id = (select conversation from turns where id = ?)", (now, turn)
        )
    return bool(done.rowcount)


def _ended(
    connection: sqlite3.Connection, backend: str, report: Report, steps: Sequence[dict[str, Any]], why: str
) -> str:
    """Write down how it ended, if that is not known; the id of its job."""
    connection.execute(
        "update backends set ended = ?, verdict = ?, report = ?, steps = ?, why = ? where id = ? and ended is null",
        _plain((time.time(), report.verdict, json.dumps(report.to_json()), json.dumps(list(steps)), why, backend)),
    )
    found = connection.execute("select job_id from backends where id = ?", (backend,)).fetchone()
    return found[0] if found is not None else ""


def _new_id(now: float) -> str:
    """Ten letters: the second it was made in, then random, so that they sort by age."""
    number = (int(now) - _EPOCH) % 2**30 << 20 | secrets.randbits(20)
    return "".join(_LETTERS[number >> shift & 31] for shift in range(45, -1, -5))


def _exists(connection: sqlite3.Connection, conversation: str) -> bool:
    return connection.execute("select 1 from conversations where id = ?", (conversation,)).fetchone() is not None


def _plain(values: Sequence[Any]) -> tuple[Any, ...]:
    """Half a surrogate pair, which JSON can carry and a path can hold, is nothing that UTF-8 could."""
    return tuple(
        value.encode("utf-8", "replace").decode("utf-8") if isinstance(value, str) else value for value in values
    )
