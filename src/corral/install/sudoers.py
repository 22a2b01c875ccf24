"""The rules that sudo needs for the people of a config: what starts an agent, what ends it, and nothing else.

A rule that says more than it seems to would make the service's account somebody else. So only plain words are written
into it: accounts with odd names are named by their number, and a path that sudoers(5) has no words for is refused.
"""

from __future__ import annotations

import os
import pwd
import re
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from shutil import which
from typing import TYPE_CHECKING

from corral.backends.environment import HOST_NAMES
from corral.install import programs
from corral.install.calls import call
from corral.process.bare import sudo
from corral.service import files

if TYPE_CHECKING:
    from corral.config import Config, Person
    from corral.install.programs import Program

FILE = "/etc/sudoers.d/corral"

# Uppercase words are aliases in sudoers, and ALL is everybody: a name like that is written as a number.
_PLAIN_NAME = re.compile(r"[a-z_][a-z0-9_-]*")
# Everything else is a pattern (* ? [ ]), ends a word in some version of sudo, or cannot be written at all: with sudo
# 1.9.13 the backslash is taken before these five only.
_ESCAPED = frozenset(",:=# ")
_AS_IT_IS = frozenset("/._-+@~%")
_BY_SUDO_ITSELF = frozenset({"LANG", "LANGUAGE", "TZ", "TERM", "COLORTERM"})
_KEPT = """\
# Variables that sudo hands on to the agents, beside those of language, time and terminal; it drops all others. Values
# are not here: they are the service's to give, from the config and from the files of secrets."""
_NEVER_KEPT = frozenset({"HOME", "USER", "LOGNAME", "SHELL", "MAIL", "PATH"})
_PLACES_OF_VISUDO = "/usr/sbin:/sbin:/usr/local/sbin:/usr/bin:/opt/homebrew/sbin"


class SudoersError(Exception):
    """There are no rules for this config. `faults` are sentences, one for each thing to fix."""

    def __init__(self, faults: Sequence[str]) -> None:
        super().__init__("\n".join(faults))
        self.faults = tuple(faults)


@dataclass(frozen=True, slots=True)
class Rules:
    """A file for sudoers.d."""

    text: str
    notices: tuple[str, ...] = ()
    """Sentences for whoever installs it."""


def others(config: Config, service: str) -> dict[str, list[Person]]:
    """The people by the account that their agents run as, for accounts that are not the service's own."""
    found: dict[str, list[Person]] = {}
    own = _uid(service)
    for person in config.people:
        if person.os_user is not None and _uid(person.os_user) != own:
            found.setdefault(person.os_user, []).append(person)
    return found


def rules(config: Config, service: str, path: str) -> Rules:
    """The rules for a service that runs as `service`; bare names of engines are looked up on `path`.

    Raises SudoersError.
    """
    if _uid(service) is None:
        raise SudoersError([f"{_shown(service)} is no account of this machine: name the one that the service runs as"])
    accounts = others(config, service)
    if not accounts or _uid(service) == 0:
        why = "root may do all this without" if accounts else f"all agents run as {_shown(service)} itself"
        return Rules(f"# Corral needs no rules of sudo here: {why}.\n")
    faults: list[str] = []
    notices: list[str] = []
    blocks = [_head(config, service)]
    kept: dict[str, set[str]] = {}
    for account, people in accounts.items():
        found = _programs(config, people, path, faults, notices)
        try:
            blocks.append("\n".join(_of_account(service, account, people, found)))
            for program in found:
                kept.setdefault(escaped(program.path), set()).update(kept_variables(people))
        except SudoersError as error:
            faults += error.faults
    blocks.append("\n".join((_KEPT, *(sudo.keep_line(command, sorted(names)) for command, names in kept.items()))))
    if faults:
        raise SudoersError(tuple(dict.fromkeys(faults)))
    return Rules("\n\n".join(blocks) + "\n", tuple(dict.fromkeys(notices)))


def verify(text: str) -> str:
    """What visudo says against the text, or that there is none; empty when it is content."""
    visudo = which("visudo", path=f"{os.environ.get('PATH', '')}:{_PLACES_OF_VISUDO}")
    if visudo is None:
        return "there is no visudo to check these rules with: have them checked where they are installed, by visudo -c"
    with tempfile.TemporaryDirectory(prefix="corral-sudoers-") as folder:
        draft = Path(folder) / "corral"
        draft.write_text(text)
        draft.chmod(0o440)
        said = call([visudo, "-c", "-f", str(draft)])
        if said.status == 0:
            return ""
        words = (said.out + said.err).replace(str(draft), "the rules").strip()
        return f"visudo refuses these rules: {words or 'it gave no reason'}"


def escaped(path: str) -> str:
    """A path as sudoers takes it literally. Raises SudoersError where it has no words for it."""
    fault = ""
    if not path.startswith("/") or path.endswith("/"):
        fault = "it is not the absolute path of a program"
    elif odd := [one for one in path if not _can_be_said(one)]:
        fault = f"sudoers cannot name {', '.join(map(_shown, dict.fromkeys(odd)))} literally"
    if fault:
        raise SudoersError([f"no rule can be written for {_shown(path)}: {fault}. Make a link to it with a plain name"])
    return "".join(f"\\{one}" if one in _ESCAPED else one for one in path)


def named(account: str) -> str:
    """An account as sudoers takes it: by its name, or by its number where the name could be read as something else.

    Raises SudoersError for one that does not exist.
    """
    uid = _uid(account)
    if uid is None:
        raise SudoersError([f"{_shown(account)} is no account of this machine"])
    return account if _PLAIN_NAME.fullmatch(account) else f"#{uid}"


def hand_over() -> str:
    """The command that hands files over, as sudoers takes it: to its last word. Raises SudoersError."""
    return " ".join(escaped(word) if word.startswith("/") else word for word in files.command())


def kept_variables(people: Iterable[Person]) -> set[str]:
    """The names that sudo must hand on for these people's agents, beside those that it keeps by itself."""
    names = {"TMPDIR", *(HOST_NAMES - _BY_SUDO_ITSELF)}
    for person in people:
        names.update((*person.env, *person.secrets, *person.keep_env))
    # The loader's names never reach sudo, and the account's own are sudo's to say.
    return {name for name in names - _NEVER_KEPT if not name.startswith(("LD_", "DYLD_", "SUDO_"))}


def _head(config: Config, service: str) -> str:
    return "\n".join(
        (
            f"# What sudo lets {_shown(service)} do for Corral: `corral sudoers` wrote it from {_shown(config.path)}.",
            "# Each rule holds for one account, needs no password (a service has no terminal to be asked at), and",
            "# allows no other program. Whoever may run an agent as an account can do as that account what it likes:",
            "# an agent runs commands. So each account is somebody's own, and none is root.",
        )
    )


def _programs(
    config: Config, people: Sequence[Person], path: str, faults: list[str], notices: list[str]
) -> list[Program]:
    """All engines that are there: people choose among them with /engine."""
    found = []
    for engine, command in programs.commands(config).items():
        if (program := programs.find(config, engine, path, own=False)) is not None:
            found.append(program)
            continue
        where = "is no program that is there" if "/" in command[0] else f"was not found on sudo's path, {path}"
        sentence = f"{_shown(command[0])} {where}"
        remedy = f"install it, or set command below [engines.{engine}] to its full path, and write the rules again"
        if any(config.engine_of(person) == engine for person in people):
            names = ", ".join(person.name for person in people if config.engine_of(person) == engine)
            faults.append(f"{sentence}, and {names} would begin with it: {remedy}")
        else:
            notices.append(f"{sentence}, and has no rule: {remedy}, if anybody is to use it")
    return found


def _of_account(service: str, account: str, people: Sequence[Person], found: Sequence[Program]) -> Iterator[str]:
    if _uid(account) == 0:
        raise SudoersError(
            [f"{people[0].name}: an agent that runs as root can do everything: give os_user an account of their own"]
        )
    who, whom = named(service), named(account)
    yield f"# {', '.join(person.name for person in people)}, as {_shown(account)}"
    for program in found:
        where = ""
        if program.starts_in_workspace:
            where = " CWD=*: its project is the folder that it is started in, which may be a home that only they enter."
        yield f"# Starts {program.engine}.{where}"
        yield sudo.rule(who, whom, _command(program), directory=program.starts_in_workspace)
    yield "# Hands files over to the workspace and out of it: this command line, with no other word."
    yield sudo.rule(who, whom, hand_over())
    yield "# Ends what the agent leaves running: TERM, CONT, STOP, KILL and 0, to any of the account's processes."
    yield sudo.rule(who, whom, sudo.KILL)


def _command(program: Program) -> str:
    """The path, and where the command has more words, those: `node` alone would be any script."""
    path, *words = program.command
    if not words:
        return escaped(path)
    if bad := [word for word in words if any(not _can_be_said(one) or one in "# " for one in word)]:
        raise SudoersError(
            [f"sudoers cannot name the argument {_shown(bad[0])} of {_shown(path)}: put the command into a script"]
        )
    arguments = " ".join("".join(f"\\{one}" if one in _ESCAPED else one for one in word) for word in words)
    return f"{escaped(path)} {arguments} *"


def _can_be_said(one: str) -> bool:
    if one.isascii():
        return one.isalnum() or one in _ESCAPED or one in _AS_IT_IS
    return one.isprintable()


def _uid(account: str) -> int | None:
    try:
        return pwd.getpwnam(account).pw_uid
    except (KeyError, ValueError):
        return None


def _shown(text: object) -> str:
    """For a comment or a sentence: one line, whatever is in it."""
    plain = str(text)
    return plain if re.fullmatch(r"[A-Za-z0-9/._@+-]+", plain) else ascii(plain).replace("\\", "?")
