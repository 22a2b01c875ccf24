"""What goes from the store for its age."""

from __future__ import annotations

import sqlite3

from corral.service import instances
from corral.service.store.rows import RUNNING, Pruned

_OLD_TURNS = "select id from turns where state <> ? and ended < ?"

_OLD_BACKENDS = """
delete from backends where ended < ?1
or (ended is null and started < ?1 and instance in (select id from instances where closed is not null))
"""

# A conversation goes when nothing tells of it any more: that of a person who was away for long goes too.
_OLD_CONVERSATIONS = """
delete from conversations where used < ? and holder is null
and not exists (select 1 from turns where conversation = conversations.id)
and not exists (select 1 from backends where conversation = conversations.id)
"""

_DEAD_INSTANCES = """
delete from instances where closed is not null
and not exists (select 1 from turns where instance = instances.id)
and not exists (select 1 from backends where instance = instances.id)
"""


def prune(connection: sqlite3.Connection, before: float, but: str) -> Pruned:
    """Delete what has been over since before then, inside of a transaction; `but` is this process's own entry."""
    instances.mark_dead(connection, but=but)
    approvals = connection.execute(f"delete from approvals where turn in ({_OLD_TURNS})", (RUNNING, before)).rowcount
    return Pruned(
        approvals=approvals,
        turns=connection.execute(f"delete from turns where id in ({_OLD_TURNS})", (RUNNING, before)).rowcount,
        backends=connection.execute(_OLD_BACKENDS, (before,)).rowcount,
        conversations=connection.execute(_OLD_CONVERSATIONS, (before,)).rowcount,
        instances=connection.execute(_DEAD_INSTANCES).rowcount,
    )
