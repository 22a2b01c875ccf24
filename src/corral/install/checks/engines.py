"""The engines, each started once for each person: the rule, the program, its version, its login, its end."""

from __future__ import annotations

import os
import pwd
import re
import shlex
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from corral.backends import registry
from corral.install.attempt import SECONDS, Attempt, attempt
from corral.install.checks.rights import commands_to_fix
from corral.install.finding import Finding, Findings, error, ok, skip, warn
from corral.install.programs import commands
from corral.install.subjects import Subjects
from corral.install.sudoers import kept_variables
from corral.process.bare import sudo as calls
from corral.process.bare.report import SURVIVORS
from corral.process.bare.table import account_name

if TYPE_CHECKING:
    from corral.backends.entry import Version
    from corral.config import Person
    from corral.install.programs import Program


def engine(subjects: Subjects, person: Person, name: str) -> Findings:
    """Start it as the service would, and ask it for its version and its login."""
    label = f"{person.name}: {name}"
    program = subjects.program(person, name)
    needed = subjects.config.engine_of(person) == name
    if program is None:
        yield _missing(label, subjects, person, name, needed=needed)
        return
    tried = attempt(subjects.config, person, program, ["--version"])
    if fault := _fault(tried, program, "--version"):
        rule = "add to sudoers" in fault
        by_hand = f"{_through(subjects, person)}{shlex.join(program.command)} --version"
        todo = "`corral sudoers` writes all rules that are needed" if rule else f"see more of it: {by_hand}"
        say = error if needed else warn
        yield say(label, fault, todo, *(commands_to_fix(subjects) if rule else ()))
        return
    version = _version(tried.words)
    shown = ".".join(map(str, version)) or "an unknown version"
    oldest = registry.entry(name).oldest
    if version and version < oldest:
        least = ".".join(map(str, oldest))
        yield warn(label, f"{shown} at {program.path} is older than {least}, the oldest that is known", "update it")
    else:
        proof = tried.report.verdict if tried.report is not None else ""
        yield ok(label, f"{shown} at {program.path}; started and ended as {_account(person)}: {proof}")
    yield from _replaceable(label, program, _account(person))
    if subjects.crosses(person) and subjects.sudo is not None:
        yield from _dropped(f"{label} variables", subjects, subjects.sudo, person, program)
    yield _login(f"{label} login", subjects, person, program, version)


def _missing(label: str, subjects: Subjects, person: Person, name: str, *, needed: bool) -> Finding:
    command = commands(subjects.config)[name][0]
    where = f"on sudo's path, {subjects.sudo_path}" if subjects.crosses(person) else "on this account's PATH"
    where = "there" if "/" in command else where
    if not needed:
        return skip(label, f"{command} is not {where}; it is not the engine that {person.name} begins with")
    return error(
        label,
        f"{command} is not {where}",
        f"install it for all accounts, or set command below [engines.{name}] to its full path",
    )


def _fault(tried: Attempt, program: Program, arguments: str) -> str:
    """Why it cannot be used; empty if it can."""
    if tried.refusal:
        return tried.refusal
    if tried.report is not None and tried.report.verdict == SURVIVORS:
        return "what it started could not be ended: " + "; ".join(one.reason for one in tried.report.survivors)
    if tried.status is None:
        return f"{program.path} {arguments} gave no answer in time, and was ended"
    if tried.status != 0:
        return (
            f"{program.path} {arguments} ended with status {tried.status}: {_telling(tried.words) or 'without a word'}"
        )
    return ""


def _login(label: str, subjects: Subjects, person: Person, program: Program, version: Version) -> Finding:
    through = _through(subjects, person)
    if closed := _closed_home(label, subjects, person, program.engine):
        return closed
    check = registry.entry(program.engine).login
    if version < check.since:
        least = ".".join(map(str, check.since))
        return skip(label, f"unknown: a {program.engine} older than {least} does not say without asking its model")
    tried = attempt(subjects.config, person, program, check.arguments)
    said = check.read(tried.status, tried.out, tried.words)
    if said.state == "logged in":
        return ok(label, f"logged in, by {said.words}")
    if denied := _denied(label, subjects, person, program, tried):
        return denied
    if said.state == "not logged in":
        also = f"; {said.words}" if said.words else ""
        return warn(label, f"not logged in{also}", f"{through}{shlex.join([program.path, *check.login])}")
    why = _fault(tried, program, shlex.join(check.arguments)) or _telling(tried.words) or "no words"
    return skip(label, f"unknown: {program.engine} does not say ({why})")


def _closed_home(label: str, subjects: Subjects, person: Person, engine: str) -> Finding | None:
    """An error where the engine's own folder belongs to another account; None where that is not so, or not to be seen.

    `sudo codex`, run once with the person's HOME, leaves such a one.
    """
    folder = _engine_home(subjects, person, engine)
    entry = pwd.getpwnam(person.os_user or subjects.service)
    try:
        about = folder.stat()
    except OSError:
        return None
    if about.st_uid == entry.pw_uid or _open_to(about, entry):
        return None
    return _not_its_own(label, subjects, person, engine, f"it belongs to {account_name(about.st_uid)}")


def _denied(label: str, subjects: Subjects, person: Person, program: Program, tried: Attempt) -> Finding | None:
    """The same by the engine's own words, from a home that this account may not look into."""
    if tried.status in (None, 0) or not re.search(r"permission denied|EACCES", tried.words, re.IGNORECASE):
        return None
    line = next(one for one in tried.words.splitlines() if re.search(r"permission denied|EACCES", one, re.IGNORECASE))
    return _not_its_own(label, subjects, person, program.engine, f"{program.engine} says: {line.strip()}")


def _not_its_own(label: str, subjects: Subjects, person: Person, engine: str, why: str) -> Finding:
    folder, account = _engine_home(subjects, person, engine), _account(person)
    say = error if subjects.config.engine_of(person) == engine else warn
    return say(
        label,
        f"{account} may not use {folder}, where its agents keep settings, login and conversations: {why}",
        "give it back to the account",
        f"sudo chown -R {shlex.quote(account)} {shlex.quote(str(folder))}",
    )


def _engine_home(subjects: Subjects, person: Person, engine: str) -> Path:
    variable, folder = registry.entry(engine).home
    entry = pwd.getpwnam(person.os_user or subjects.service)
    return Path(person.env.get(variable) or Path(entry.pw_dir) / folder)


def _open_to(about: os.stat_result, entry: pwd.struct_passwd) -> bool:
    groups = os.getgrouplist(entry.pw_name, entry.pw_gid)
    bits = about.st_mode >> 3 if about.st_gid in groups else about.st_mode
    return entry.pw_uid == 0 or bits & 0o7 == 0o7


def _replaceable(label: str, program: Program, account: str) -> Iterator[Finding]:
    """Whether somebody else could put another program in its place, which would then run as the person."""
    trusted = {"root", account}
    for place in (Path(program.path), *Path(program.path).parents):
        try:
            about = place.stat()
        except OSError:
            return
        writable = about.st_mode & 0o002 and not (stat.S_ISDIR(about.st_mode) and about.st_mode & stat.S_ISVTX)
        owner = account_name(about.st_uid)
        if writable or owner not in trusted:
            who = "everybody" if writable else owner
            yield warn(
                label,
                f"{place} can be changed by {who}, who could run anything as {account} with it",
                "install the engine where only root or the account itself may write",
            )
            return


def _dropped(label: str, subjects: Subjects, sudo: str, person: Person, program: Program) -> Iterator[Finding]:
    """Whether sudo hands on what the service gives, which it would drop without a word.

    On its command line it refuses exactly what its rules do not keep, and names it. Here all are empty.
    """
    names = sorted(kept_variables([person]))
    given = [f"{name}=" for name in names]
    argv = [sudo, "-n", "-u", _account(person), *given, "--", *program.command, "--version"]
    said = calls.run(argv, SECONDS)
    match = re.search(r"not allowed to set the following environment variables: (.+)", said.message)
    if match is None:
        yield ok(label, f"sudo hands on {', '.join(names)}")
        return
    dropped = match[1].split(", ")
    own = {*person.env, *person.secrets, *person.keep_env}.intersection(dropped)
    say = error if own else warn
    yield say(
        label,
        f"sudo drops {', '.join(dropped)}: agents start without",
        f"add to sudoers: {calls.keep_line(program.path, names)}",
        *commands_to_fix(subjects),
    )


def _account(person: Person) -> str:
    return person.os_user if person.os_user is not None else account_name(os.getuid())


def _version(words: str) -> Version:
    match = re.search(r"\b(\d+)\.(\d+)\.(\d+)", words)
    return tuple(map(int, match.groups())) if match else ()


def _through(subjects: Subjects, person: Person) -> str:
    """How a person with the right to does the same by hand, as the account and in its home."""
    return f"sudo -u {shlex.quote(_account(person))} -H " if subjects.crosses(person) else ""


def _telling(words: str) -> str:
    """The line that says what went wrong, as sudo and node write it; else the last one."""
    lines = [line.strip() for line in words.splitlines() if line.strip()]
    telling = (line for line in lines if line.startswith(("sudo: ", "Error: ", "error: ")))
    return next(telling, lines[-1] if lines else "")
