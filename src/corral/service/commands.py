"""The commands, the same in every front end. Each is a plain function; what it returns is shown to whoever asked."""

from __future__ import annotations

import re
import time
from collections.abc import Coroutine
from typing import Any

from corral.backends.backend import Answer, Input
from corral.backends.errors import BackendError
from corral.backends.events import Decision
from corral.service import telling
from corral.service.front import CommandHelp, Reply
from corral.service.seats import Answered, Command, Handler, LocalSeat

LONGEST_NAME = 200  # characters of a model's name, or of an effort's
NOT_A_NAME = f"that is not a name: one line of up to {LONGEST_NAME} letters is"
DECISIONS: dict[str, Decision] = {"": "accept", "once": "accept", "session": "accept_for_session"}


def find(line: str) -> tuple[Command | None, str, str]:
    """The command of a line, its name and the rest of the line; None where there is no such command."""
    name, _, argument = line.strip().partition(" ")
    return COMMANDS.get(name.lower()), name, argument.strip()


# Ending, and going on.


def stop(at: LocalSeat, _: str) -> Coroutine[Any, Any, Answered]:
    """End the turn, the queue and the backend."""
    return _ended(at.conversation.stop())


def new(at: LocalSeat, _: str) -> Coroutine[Any, Any, Answered]:
    """End the backend, and go on with nothing."""
    return _then(at.move(at.ref()), "the next message begins a new conversation")


def restart(at: LocalSeat, _: str) -> Coroutine[Any, Any, Answered]:
    """End the backend and start another."""
    return _ended(at.conversation.restart())


def steer(at: LocalSeat, argument: str) -> Answered | Coroutine[Any, Any, Answered]:
    """Fold words into the running turn."""
    if not argument:
        return "say what: /steer TEXT"
    return _steer(at, argument)


async def _steer(at: LocalSeat, text: str) -> Answered:
    try:
        taken = await at.conversation.steer(Input(text))
    except TimeoutError:
        return "the agent gave no sign whether it took that"
    except BackendError as error:
        return str(error)
    return "it was folded into the turn" if taken else "no turn runs that could take it: send it as a message"


def approve(at: LocalSeat, argument: str) -> Answered:
    """Say yes to the oldest question."""
    decision = DECISIONS.get(argument.lower())
    if decision is None:
        return "say /approve, or /approve session for the whole session"
    return _decide(at, decision)


def deny(at: LocalSeat, _: str) -> Answered:
    """Say no to the oldest question."""
    return _decide(at, "decline")


def _decide(at: LocalSeat, decision: Decision) -> Answered:
    oldest = next(iter(at.conversation.approvals), None)
    if oldest is None:
        return "nothing is asked"
    if decision != "decline" and oldest.questions:
        return "it is a question: answer it, or say /deny"
    at.answer(oldest.approval_id, Answer(decision))
    return None


# Where things stand.


async def status(at: LocalSeat, _: str) -> Answered:
    """The conversation and its backend."""
    return await telling.status(at)


async def ps(at: LocalSeat, _: str) -> Answered:
    """The tree."""
    return await telling.tree(at)


async def usage(at: LocalSeat, argument: str) -> Answered:
    """Tokens and cost."""
    if argument and not re.fullmatch("[1-9][0-9]{0,3}", argument):
        return f"/usage counts the last days, 1 to 9999 of them, and not {argument[:20]!r}"
    days = int(argument or 30)
    rows = await at.service.usage(at.person, time.time() - days * 86400)
    return telling.usage(rows, days)


def show_help(_: LocalSeat, __: str) -> Answered:
    """This list."""
    lines = [(f"{one.help.name} {one.help.arguments}".rstrip(), one.help.summary) for one in COMMANDS.values()]
    width = max(len(usage) for usage, _ in lines)
    text = "\n".join(f"{usage:<{width}}  {summary}" for usage, summary in lines)
    more = "Anything else is a message. Begin with // to send the agent a line that begins with a slash."
    return Reply(f"{text}\n{more}", "help")


# Choosing.


def model(at: LocalSeat, argument: str) -> Answered | Coroutine[Any, Any, Answered]:
    """Which model answers from the next turn on."""
    ref = at.conversation.ref
    if not argument:
        backend = at.conversation.backend
        now = ref.model or (backend.started.model if backend is not None else "") or "the agent's own choice"
        return Reply(f"model: {now}. /model NAME chooses another, /model default the agent's own", "model")
    if not is_name(argument):
        return NOT_A_NAME
    ref.model = _choice(at, argument, ref.model, "model")
    return _then(at.conversation.keep_choices(), f"from the next turn on: {ref.model or 'the default model'}")


def effort(at: LocalSeat, argument: str) -> Answered | Coroutine[Any, Any, Answered]:
    """How much it thinks from the next turn on."""
    ref = at.conversation.ref
    if not argument:
        now = ref.effort or "the agent's own choice"
        return Reply(f"effort: {now}. /effort low, medium, high or whatever the model knows; /effort default", "effort")
    if not is_name(argument):
        return NOT_A_NAME
    ref.effort = _choice(at, argument, ref.effort, "effort")
    return _then(at.conversation.keep_choices(), f"from the next turn on: {ref.effort or 'the default'} effort")


def is_name(argument: str) -> bool:
    """Whether it can be handed to an engine, which knows the names: the first of them on its command line."""
    return len(argument) <= LONGEST_NAME and argument.isprintable()


def _choice(at: LocalSeat, argument: str, before: str | None, what: str) -> str | None:
    if argument != "default":
        return argument
    if before is not None:
        # What was chosen in a running agent stays chosen there.
        at.conversation.mark_stale(f"it goes back to the default {what}")
    return None


def engine(at: LocalSeat, argument: str) -> Answered | Coroutine[Any, Any, Answered]:
    """Which agent: that is another conversation."""
    ref = at.conversation.ref
    known = at.service.engines
    if not argument:
        return Reply(f"engine: {ref.engine}; there are {', '.join(known)}", "engine")
    if argument not in known:
        return f"unknown engine {argument!r}: choose {', '.join(known)}"
    if argument == ref.engine:
        return f"it is {argument} already"
    return _then(at.move(at.ref(engine=argument)), f"the next message begins a conversation with {argument}")


def workspace(at: LocalSeat, argument: str) -> Answered | Coroutine[Any, Any, Answered]:
    """Which folder: that is another conversation."""
    places = at.service.workspaces(at.person)
    ref = at.conversation.ref
    if not argument:
        named = "".join(f"\n  {name}: {path}" for name, path in places.named.items())
        return Reply(
            f"workspace: {ref.workspace or places.home}{named}", "workspace", {"workspaces": dict(places.named)}
        )
    try:
        folder = places.find(argument)
    except ValueError as error:
        return str(error)
    if folder == ref.workspace:
        return f"it is {folder} already"
    return _then(at.move(at.ref(workspace=folder)), f"the next message begins a conversation in {folder}")


def resume(at: LocalSeat, argument: str) -> Coroutine[Any, Any, Answered]:
    """List earlier conversations, or go on with one."""
    return _resume(at, argument) if argument else telling.earlier(at)


async def _resume(at: LocalSeat, argument: str) -> Answered:
    rows = await at.service.earlier(at.person)
    number = int(argument) if re.fullmatch("[0-9]{1,9}", argument) else 0
    found = (
        [row for row in rows if row.id == argument] or rows[number - 1 : number]
        if number
        else [
            row
            for row in rows
            if argument in (row.id, row.thread) or (len(argument) >= 4 and row.id.startswith(argument))
        ]
    )
    if len(found) != 1:
        return f"there is no conversation {argument!r}: /resume lists them"
    return await at.resume(found[0])


async def _ended(ending: Coroutine[Any, Any, object]) -> Answered:
    await ending
    return None


async def _then(doing: Coroutine[Any, Any, None], done: str) -> Answered:
    await doing
    return done


def _command(name: str, arguments: str, summary: str, act: Handler) -> tuple[str, Command]:
    return name, Command(CommandHelp(name, arguments, summary), act)


COMMANDS: dict[str, Command] = dict(
    [
        _command("/stop", "", "stop the turn, drop the queue, end the agent with all that it started", stop),
        _command("/new", "", "the same, and begin a new conversation", new),
        _command("/restart", "", "end the agent and start it again in the same conversation", restart),
        _command("/status", "", "the agent, the conversation, what runs and for how long", status),
        _command("/ps", "", "the agent's processes", ps),
        _command("/steer", "TEXT", "fold words into the turn that runs", steer),
        _command("/approve", "[session]", "say yes to what is asked", approve),
        _command("/deny", "", "say no to what is asked", deny),
        _command("/model", "[NAME]", "the model, from the next turn on", model),
        _command("/effort", "[NAME]", "how much it thinks, from the next turn on", effort),
        _command("/engine", "[NAME]", "another agent, in a new conversation", engine),
        _command("/workspace", "[NAME|PATH]", "another folder, in a new conversation", workspace),
        _command("/resume", "[NUMBER|ID]", "list earlier conversations, or go on with one", resume),
        _command("/usage", "[DAYS]", "tokens and cost", usage),
        _command("/help", "", "this list", show_help),
    ]
)
