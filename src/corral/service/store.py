"""What outlives the process: conversations, turns, endings and approvals, in SQLite. (A first one.)"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import sqlite3
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import aiosqlite

from corral.process import Report
from corral.process.host import host_table
from corral.process.table import find_living

T = TypeVar("T")


class StoreError(Exception):
    """The store cannot be read or written; the message says why."""


@dataclass(frozen=True, slots=True)
class ConversationRow:
    id: str
    person: str
    engine: str
    workspace: str
    model: str | None
    effort: str | None
    thread: str | None
    title: str
    created: float
    used: float


@dataclass(frozen=True, slots=True)
class TurnRow:
    id: str
    conversation: str
    person: str
    began: float


@dataclass(frozen=True, slots=True)
class UsageRow:
    engine: str
    model: str | None
    turns: int
    input_tokens: int
    cached_input_tokens: int
    output_tokens: int
    cost: float


@dataclass(frozen=True, slots=True)
class ReportRow:
    id: str
    person: str
    job_id: str
    verdict: str


SCHEMA = """
create table instances(id text primary key, pid int, start_time int, boot_id text, what text);
create table conversations(id text primary key, person text, engine text, workspace text, model text, effort text,
  thread text, title text not null default '', created real, used real, holder text);
create table channels(person text, name text, conversation text, primary key(person, name));
create table turns(id text primary key, conversation text, person text, instance text, state text, reason text,
  began real, ended real, told int default 0, input int default 0, cached int default 0, output int default 0, cost real default 0);
create table backends(id text primary key, conversation text, person text, account text, engine text, pid int, model text,
  job_id text, instance text, started real, ended real, verdict text, report text, steps text, why text);
create table approvals(turn text, approval text, kind text, what text, asked real, closed real, decision text, by text);
"""
ROW = "id, person, engine, workspace, model, effort, thread, title, created, used"


class Store:
    def __init__(self, db: aiosqlite.Connection, instance: str) -> None:
        self._db, self._instance, self._lock = db, instance, asyncio.Lock()

    @classmethod
    async def open(cls, state_dir: Path, what: str = "serve") -> Store:
        try:
            Path(state_dir).mkdir(mode=0o700, parents=True, exist_ok=True)
            db = await aiosqlite.connect(Path(state_dir) / "corral.db", isolation_level=None, timeout=10)
            await db.execute("pragma journal_mode=wal")
            await db.execute("begin immediate")
            (version,) = await (await db.execute("pragma user_version")).fetchone()
            if version == 0:
                for one in SCHEMA.split(";"):
                    await db.execute(one)
                await db.execute("pragma user_version=1")
            instance = uuid.uuid4().hex
            me = host_table().read(os.getpid())
            await db.execute(
                "insert into instances values(?,?,?,?,?)",
                (instance, me.pid, me.start_time, host_table().boot_id(), what),
            )
            await db.execute("commit")
        except (OSError, sqlite3.Error) as error:
            raise StoreError(str(error)) from error
        return cls(db, instance)

    async def aclose(self) -> None:
        await self._db.close()

    async def _do(self, *steps: tuple[str, tuple[Any, ...]]) -> list[Any]:
        async with self._lock:
            try:
                await self._db.execute("begin immediate")
                found: list[Any] = []
                for sql, values in steps:
                    found = list(await (await self._db.execute(sql, values)).fetchall())
                await self._db.execute("commit")
                return found
            except sqlite3.Error as error:
                raise StoreError(str(error)) from error

    async def new_conversation(
        self, person: str, engine: str, workspace: str, model: str | None = None, effort: str | None = None
    ) -> ConversationRow:
        now = time.time()
        row = ConversationRow(secrets.token_hex(4), person, engine, workspace, model, effort, None, "", now, now)
        await self._do(
            (
                f"insert into conversations({ROW}) values(?,?,?,?,?,?,?,?,?,?)",
                (row.id, person, engine, workspace, model, effort, None, "", now, now),
            )
        )
        return row

    async def conversation(self, id: str) -> ConversationRow | None:
        rows = await self._do((f"select {ROW} from conversations where id=?", (id,)))
        return ConversationRow(*rows[0]) if rows else None

    async def conversations(self, person: str, limit: int = 20) -> list[ConversationRow]:
        rows = await self._do(
            (
                f"select {ROW} from conversations where person=? and (thread is not null or exists(select 1 from turns where conversation=conversations.id)) order by used desc limit ?",
                (person, limit),
            )
        )
        return [ConversationRow(*row) for row in rows]

    async def set_thread(self, id: str, thread: str | None) -> None:
        await self._do(("update conversations set thread=? where id=?", (thread, id)))

    async def set_title(self, id: str, title: str) -> None:
        await self._do(("update conversations set title=? where id=? and title=''", (title, id)))

    async def set_choices(self, id: str, model: str | None = None, effort: str | None = None) -> None:
        await self._do(("update conversations set model=?, effort=? where id=?", (model, effort, id)))

    async def _dead(self) -> list[str]:
        table = host_table()
        rows = await self._do(("select id, pid, start_time, boot_id from instances", ()))
        return [i for i, pid, start, boot in rows if boot != table.boot_id() or not find_living(table, (pid, start))]

    async def claim(self, id: str) -> bool:
        dead = set(await self._dead())
        rows = await self._do(("select holder from conversations where id=?", (id,)))
        if not rows or (rows[0][0] and rows[0][0] != self._instance and rows[0][0] not in dead):
            return False
        await self._do(("update conversations set holder=? where id=?", (self._instance, id)))
        return True

    async def release(self, id: str) -> None:
        await self._do(("update conversations set holder=null where id=? and holder=?", (id, self._instance)))

    async def channel(self, person: str, name: str) -> str | None:
        rows = await self._do(("select conversation from channels where person=? and name=?", (person, name)))
        return rows[0][0] if rows else None

    async def set_channel(self, person: str, name: str, conversation: str | None) -> None:
        await self._do(("insert or replace into channels values(?,?,?)", (person, name, conversation)))

    async def turn_began(self, conversation: str, person: str) -> str:
        turn = uuid.uuid4().hex
        now = time.time()
        await self._do(
            (
                "insert into turns(id, conversation, person, instance, state, began) values(?,?,?,?,'running',?)",
                (turn, conversation, person, self._instance, now),
            ),
            ("update conversations set used=? where id=?", (now, conversation)),
        )
        return turn

    async def turn_ended(self, turn: str, status: str, reason: str = "") -> None:
        await self._do(
            (
                "update turns set state=?, reason=?, ended=? where id=? and state='running'",
                (status, reason, time.time(), turn),
            )
        )

    async def add_usage(self, turn: str, input_tokens: int, cached: int, output: int, cost: float | None) -> None:
        await self._do(
            (
                "update turns set input=input+?, cached=cached+?, output=output+?, cost=cost+? where id=?",
                (input_tokens, cached, output, cost or 0, turn),
            )
        )

    async def cut_turns(self) -> list[TurnRow]:
        dead = await self._dead()
        marks = ",".join("?" * len(dead))
        rows = await self._do(
            (
                f"update turns set state='cut', ended=? where state='running' and instance in ({marks})",
                (time.time(), *dead),
            ),
            ("select id, conversation, person, began from turns where state='cut' and not told", ()),
        )
        return [TurnRow(*row) for row in rows]

    async def told(self, turns: list[str]) -> None:
        for turn in turns:
            await self._do(("update turns set told=1 where id=?", (turn,)))

    async def backend_started(
        self, conversation: str, person: str, account: str, engine: str, pid: int, model: str, job_id: str
    ) -> str:
        key = uuid.uuid4().hex
        await self._do(
            (
                "insert into backends(id, conversation, person, account, engine, pid, model, job_id, instance, started) values(?,?,?,?,?,?,?,?,?,?)",
                (key, conversation, person, account, engine, pid, model, job_id, self._instance, time.time()),
            )
        )
        return key

    async def backend_ended(self, backend: str, report: Report, steps: list[dict[str, Any]], why: str) -> None:
        await self._do(
            (
                "update backends set ended=?, verdict=?, report=?, steps=?, why=? where id=? and verdict is null",
                (time.time(), report.verdict, json.dumps(report.to_json()), json.dumps(steps), why, backend),
            )
        )

    async def lost_backends(self) -> list[ReportRow]:
        dead = await self._dead()
        marks = ",".join("?" * len(dead))
        rows = await self._do(
            (
                f"select id, person, job_id, '' from backends where verdict is null and instance in ({marks})",
                tuple(dead),
            )
        )
        return [ReportRow(*row) for row in rows]

    async def report_found(self, backend: str, report: Report) -> None:
        await self.backend_ended(backend, report, [], "the service died")

    async def approval_asked(self, turn: str, approval_id: str, kind: str, what: str) -> None:
        await self._do(
            (
                "insert into approvals(turn, approval, kind, what, asked) values(?,?,?,?,?)",
                (turn, approval_id, kind, what, time.time()),
            )
        )

    async def approval_closed(self, turn: str, approval_id: str, decision: str | None, by: str) -> None:
        await self._do(
            (
                "update approvals set closed=?, decision=?, by=? where turn=? and approval=?",
                (time.time(), decision, by, turn, approval_id),
            )
        )

    async def usage(self, person: str | None, since: float) -> list[UsageRow]:
        rows = await self._do(
            (
                "select c.engine, c.model, count(*), sum(t.input), sum(t.cached), sum(t.output), sum(t.cost) from turns t join conversations c on c.id=t.conversation where t.person=? and t.began>=? group by 1,2",
                (person, since),
            )
        )
        return [UsageRow(*row) for row in rows]

    async def last_report(self, person: str) -> ReportRow | None:
        rows = await self._do(
            (
                "select id, person, job_id, verdict from backends where person=? and verdict is not null order by ended desc limit 1",
                (person,),
            )
        )
        return ReportRow(*rows[0]) if rows else None

    async def prune(self, before: float) -> None:
        await self._do(("delete from turns where began<? and state<>'running'", (before,)))
