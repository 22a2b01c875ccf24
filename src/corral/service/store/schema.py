"""The shape of the store's database, and how an older one is brought to it."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

APPLICATION_ID = 0x436F_7231
"""What SQLite keeps in the file's header to tell whose it is: `Cor1`."""

Rung = Sequence[str]
"""The statements that lead from one version to the next."""

_FIRST: Rung = (
    # A process that has, or had, the store open. `closed` is when it closed it, or when others found it dead.
    """
    create table instances (
        id text primary key,
        pid integer not null check (pid > 0),
        start_time integer not null,
        boot_id text not null,
        what text not null,
        opened real not null,
        closed real
    )
    """,
    """
    create table conversations (
        id text primary key,
        person text not null,
        engine text not null,
        workspace text not null,
        model text,
        effort text,
        thread text,
        title text not null default '',
        created real not null,
        used real not null,
        holder text references instances (id) on delete set null
    )
    """,
    "create index conversations_of on conversations (person, used)",
    "create index conversations_held on conversations (holder) where holder is not null",
    """
    create table channels (
        person text not null,
        name text not null,
        conversation text not null references conversations (id) on delete cascade,
        primary key (person, name)
    )
    """,
    "create index channels_at on channels (conversation)",
    """
    create table turns (
        id text primary key,
        conversation text not null references conversations (id) on delete cascade,
        person text not null,
        instance text not null references instances (id),
        model text,
        state text not null,
        reason text not null default '',
        began real not null,
        ended real,
        told integer not null default 0,
        input_tokens integer not null default 0,
        cached_input_tokens integer not null default 0,
        output_tokens integer not null default 0,
        cost real not null default 0,
        check ((state = 'running') = (ended is null))
    )
    """,
    "create index turns_of on turns (conversation, began)",
    "create index turns_since on turns (began)",
    "create index turns_in on turns (instance)",
    "create index turns_cut on turns (state) where state in ('running', 'cut')",
    """
    create table approvals (
        turn text not null references turns (id) on delete cascade,
        approval text not null,
        kind text not null,
        what text not null,
        asked real not null,
        closed real,
        decision text,
        decided_by text not null default '',
        primary key (turn, approval)
    )
    """,
    # A report outlives its conversation: it is the host's record of what was ended, not the person's.
    """
    create table backends (
        id text primary key,
        conversation text references conversations (id) on delete set null,
        person text not null,
        account text not null,
        engine text not null,
        pid integer not null,
        model text,
        job_id text not null,
        instance text not null references instances (id),
        started real not null,
        ended real,
        verdict text,
        report text,
        steps text,
        why text not null default '',
        check ((ended is null) = (verdict is null) and (ended is null) = (report is null))
    )
    """,
    "create index backends_of on backends (conversation)",
    "create index backends_ended on backends (ended)",
    "create index backends_in on backends (instance)",
)

LADDER: tuple[Rung, ...] = (_FIRST,)
"""Rung N leads from version N to N+1. A rung that was released is never changed: add one."""


class SchemaError(Exception):
    """The database is none of Corral's, or of a version that this one does not know; the message says what to do."""


def version_of(connection: sqlite3.Connection) -> int:
    """The version of a database that can be read: from 1 to the ladder's; 0 for an empty one. Raises SchemaError."""
    (version,) = connection.execute("pragma user_version").fetchone()
    (application,) = connection.execute("pragma application_id").fetchone()
    (objects,) = connection.execute("select count(*) from sqlite_master").fetchone()
    if (application != APPLICATION_ID) if objects else (version or application):
        raise SchemaError("is a database, but not one of Corral's: move it out of the way")
    if version > len(LADDER):
        raise SchemaError(
            f"was written by a newer Corral (its version is {version}, this one knows up to {len(LADDER)}):"
            " use that one, or put back the copy from before the upgrade"
        )
    return int(version)


def migrate(connection: sqlite3.Connection) -> None:
    """Bring the database to the newest version; all in one transaction, so that a failure leaves the old state.

    Raises SchemaError, sqlite3.Error. The connection must be in autocommit mode, and outside of a transaction.
    """
    # Asked with the lock held: of a database that another process is just making, separate questions see two states.
    connection.execute("begin immediate")
    try:
        for rung in LADDER[version_of(connection) :]:
            for statement in rung:
                connection.execute(statement)
        connection.execute(f"pragma application_id = {APPLICATION_ID}")
        connection.execute(f"pragma user_version = {len(LADDER)}")
        connection.execute("commit")
    except BaseException:
        if connection.in_transaction:
            connection.execute("rollback")
        raise
