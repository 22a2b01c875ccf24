"""The questions of `corral init`, on a terminal. What flags have answered already is not asked."""

from __future__ import annotations

import pwd
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, get_args

from rich.prompt import Confirm, Prompt
from rich.text import Text

from corral.backends import registry
from corral.config.faults import fault_in
from corral.install.initial import Answers, Newcomer, own_account, own_name
from corral.values.kinds import Approval, Name, Workspace

if TYPE_CHECKING:
    from rich.console import Console


def ask(given: Answers, console: Console) -> Answers:
    """Ask for what is not given. EOFError when the terminal is closed."""
    people = given.people or tuple(_people(given, console))
    engine = given.engine or _engine(console)
    approval = given.approval or _choose(
        "What should an agent do where it needs leave: ask the person, or never ask and do only what it may?",
        get_args(Approval),
        console,
    )
    return replace(given, people=people, engine=engine, approval=approval)


def _people(given: Answers, console: Console) -> Sequence[Newcomer]:
    people: list[Newcomer] = []
    while not people or Confirm.ask("Another person?", default=False, console=console):
        taken = {person.name.casefold() for person in people}
        default = own_name() if not people else None
        name = _until_right("Who may talk with an agent? A name", default, _new_name(taken), console)
        account = _until_right(
            f"Which account of this machine do {name}'s agents run as?",
            name if _is_account(name) else own_account(),
            lambda answer: "" if _is_account(answer) else f'"{answer}" is no account of this machine.',
            console,
        )
        # The service's own account is not written down: the service may get another one later.
        os_user = None if account == own_account() else account
        workspace = given.workspace or _until_right(
            "Which folder do they work in? (~ is the account's home)", "~", _fault_in_workspace, console
        )
        people.append(Newcomer(name, os_user, workspace))
    return people


def _engine(console: Console) -> str:
    names = registry.names()
    found = {name: shutil.which(name) for name in names}
    for name, program in found.items():
        where = f"found at {program}" if program else "not found on this account's PATH"
        console.print(Text(f"{name}: {where}", style="dim"))
    default = next((name for name in names if found[name]), names[0])
    return _choose("Which engine do people begin with?", names, console, default)


def _choose(question: str, choices: Sequence[str], console: Console, default: str | None = None) -> str:
    return Prompt.ask(Text(question), choices=list(choices), default=default or choices[0], console=console)


def _until_right(question: str, default: str | None, fault: Callable[[str], str], console: Console) -> str:
    while True:
        prompt = Text(question)
        answer = (
            Prompt.ask(prompt, console=console)
            if default is None
            else Prompt.ask(prompt, default=default, console=console)
        )
        wrong = fault(answer)
        if not wrong:
            return answer
        console.print(Text(wrong, style="red"))


def _new_name(taken: set[str]) -> Callable[[str], str]:
    return lambda answer: f'"{answer}" is taken already.' if answer.casefold() in taken else fault_in(Name, answer)


def _fault_in_workspace(answer: str) -> str:
    return fault_in(Workspace, answer)


def _is_account(name: str) -> bool:
    try:
        pwd.getpwnam(name)
    except (KeyError, ValueError):
        return False
    return True
