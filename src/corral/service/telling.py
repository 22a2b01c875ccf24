"""What the commands tell: where a conversation stands, as text for a person and as data for a program."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import structlog

from corral.backends.errors import BackendError
from corral.service.front import Reply
from corral.service.store.store import StoreError
from corral.spans import size, span

if TYPE_CHECKING:
    from corral.backends.backend import Backend
    from corral.process import Process
    from corral.service.conversation import Conversation
    from corral.service.seats import LocalSeat
    from corral.service.store.store import ConversationRow, UsageRow

log = structlog.get_logger(__name__)

MOST_ROWS = 200
NOT_SEEN = "the agent's processes could not be looked at: {}"


async def status(at: LocalSeat) -> Reply:
    """The conversation, its backend, what runs, what waits, and the last verdict."""
    conversation, backend = at.conversation, at.conversation.backend
    ref = conversation.ref
    data: dict[str, Any] = {
        "person": ref.person,
        "engine": ref.engine,
        "conversation": ref.id,
        "thread": ref.thread,
        "title": ref.title,
        "workspace": ref.workspace,
        "model": ref.model or (backend.started.model if backend is not None else ""),
        "effort": ref.effort,
        "tokens": conversation.tokens,
        "turn_seconds": round(time.monotonic() - conversation.began, 1) if conversation.began else None,
        "queued": conversation.waiting,
        "approvals": len(conversation.approvals),
        "backend": None,
        "background": [],
        "last_verdict": "",
    }
    lines = [_about(data), _doing(conversation)]
    if backend is None:
        lines.append("no agent runs; the next message starts one")
    elif backend.gone:
        lines.append(backend.gone)
    else:
        lines += await _of_backend(at, backend, data)
    try:
        data["last_verdict"] = await at.service.last_verdict(at.person)
    except StoreError as error:
        log.error("the store failed", person=at.person, error=str(error))
        lines.append(f"last ending: it cannot be read: {error}")
    if data["last_verdict"]:
        lines.append(f"last ending: {data['last_verdict']}")
    return Reply("\n".join(line for line in lines if line), "status", data)


async def _of_backend(at: LocalSeat, backend: Backend, data: dict[str, Any]) -> list[str]:
    """The agent that runs, as lines, and added to `data`; without its processes where they cannot be looked at."""
    age, user, pid = at.conversation.age, backend.started.user, backend.started.pid
    up = f"agent up for {span(age)} as {user}, pid {pid}"
    data["backend"] = {"pid": pid, "account": user, "age": round(age, 1), "processes": None, "rss": None}
    try:
        tree = await at.service.look(backend)
        left = [] if at.conversation.began else await at.service.background(backend)
    except (BackendError, OSError) as error:
        return [up, NOT_SEEN.format(error)]
    rss = sum(one.process.rss for one in tree)
    data["backend"] |= {"processes": len(tree), "rss": rss}
    data["background"] = [{"pid": one.process.pid, "command": one.command} for one in left]
    lines = [f"{up}: {_count(len(tree), 'process', 'processes')}, {size(rss)}"]
    if left:
        lines.append("left running in the background, which keeps the agent from being ended for idleness:")
        lines += [f"  {one.process.pid} {one.command}" for one in left[:10]]
    return lines


async def tree(at: LocalSeat) -> Reply:
    """The backend's processes, parents before their children."""
    backend = at.conversation.backend
    if backend is None or backend.gone:
        return Reply("no agent runs", "ps", {"tree": []})
    try:
        found = await at.service.look(backend)
    except OSError as error:
        return Reply(NOT_SEEN.format(error), "ps", {"tree": None})
    rows = [
        {
            "pid": one.process.pid,
            "ppid": one.process.ppid,
            "depth": one.process.depth,
            "user": one.account,
            "state": one.process.state,
            "rss": one.process.rss,
            "command": one.command,
        }
        for one in found[:MOST_ROWS]
    ]
    lines = [
        f"{one.account:<10}{one.process.pid:>8} {size(one.process.rss):>7}  {'  ' * one.process.depth}{one.command}"
        for one in found[:MOST_ROWS]
    ]
    if len(found) > MOST_ROWS:
        lines.append(f"… and {len(found) - MOST_ROWS} more")
    return Reply("\n".join(lines) or "no process is to be seen", "ps", {"tree": rows})


async def earlier(at: LocalSeat) -> Reply:
    """The person's earlier conversations, numbered."""
    rows = await at.service.earlier(at.person)
    if not rows:
        return Reply("there are no earlier conversations", "resume", {"conversations": []})
    here = at.conversation.ref.id
    lines = [_earlier(number, row, here) for number, row in enumerate(rows, start=1)]
    data = [
        {"id": row.id, "engine": row.engine, "title": row.title, "used": row.used, "workspace": row.workspace}
        for row in rows
    ]
    return Reply("\n".join([*lines, "/resume NUMBER goes on with one"]), "resume", {"conversations": data})


def usage(rows: Sequence[UsageRow], days: int) -> Reply:
    """What was used, by engine and model."""
    if not rows:
        return Reply(f"nothing was used in {days} days", "usage", {"days": days, "usage": []})
    lines = [
        f"{row.engine} {row.model or ''}: {_count(row.turns, 'turn', 'turns')}, {row.input_tokens:,} tokens in"
        f" ({row.cached_input_tokens:,} cached), {row.output_tokens:,} out{f', ${row.cost:.2f}' if row.cost else ''}"
        for row in rows
    ]
    data = [
        {
            "engine": row.engine,
            "model": row.model,
            "turns": row.turns,
            "input_tokens": row.input_tokens,
            "cached_input_tokens": row.cached_input_tokens,
            "output_tokens": row.output_tokens,
            "cost": row.cost,
        }
        for row in rows
    ]
    return Reply(
        "\n".join([f"in the last {_count(days, 'day', 'days')}:", *lines]), "usage", {"days": days, "usage": data}
    )


def _about(data: dict[str, Any]) -> str:
    parts = [data["engine"], data["model"], f"{data['effort']} effort" if data["effort"] else ""]
    parts.append(f"conversation {data['conversation'] or '(none yet)'}, {data['tokens']:,} tokens")
    parts.append(f"in {data['workspace']}" if data["workspace"] else "")
    return " · ".join(part for part in parts if part)


def _doing(conversation: Conversation) -> str:
    parts = []
    if conversation.began:
        parts.append(f"a turn runs for {span(time.monotonic() - conversation.began)}")
    if conversation.waiting:
        parts.append(f"{_count(conversation.waiting, 'message waits', 'messages wait')}")
    if conversation.approvals:
        parts.append(f"{_count(len(conversation.approvals), 'question is', 'questions are')} open")
    return "; ".join(parts)


def _earlier(number: int, row: ConversationRow, here: str) -> str:
    mark = "  (this one)" if row.id == here else ""
    return f"{number:>3}  {row.id}  {row.engine:<7}{span(time.time() - row.used):>4} ago  {row.title}{mark}"


def _count(number: int, one: str, more: str) -> str:
    return f"{number} {one if number == 1 else more}"


def names(processes: Iterable[Process], most: int = 10) -> str:
    """Their names, for a sentence."""
    return ", ".join(f"{process.comm} ({process.pid})" for process in list(processes)[:most])
