"""The people: their accounts, folders and secrets."""

from __future__ import annotations

import os
import pwd
import shlex
from collections.abc import Iterator
from typing import TYPE_CHECKING

from corral.backends.environment import ACCOUNT_TMP, agent_environment
from corral.backends.errors import SecretError
from corral.backends.secret_files import read_secret
from corral.install.finding import Finding, Findings, error, ok, skip, warn
from corral.install.subjects import Subjects
from corral.process.bare import folders as ways
from corral.service.starting import workspaces

if TYPE_CHECKING:
    from corral.config import Person


def account(subjects: Subjects, person: Person) -> Findings:
    """As whom the person's agents run, and who else does."""
    label = f"{person.name}: account"
    name = person.os_user or subjects.service
    sharing = [
        one.name for one in subjects.config.people if one is not person and (one.os_user or subjects.service) == name
    ]
    if pwd.getpwnam(name).pw_uid == 0:
        yield error(
            label,
            "agents run as root: they can do everything, and no sudo rule is written for that",
            "give os_user an account of the person's own",
        )
    elif sharing:
        yield warn(
            label,
            f"{name} is also the account of {', '.join(sharing)}: their agents can read each other's files and keys",
            "give each person an account",
        )
    elif not subjects.crosses(person) and len(subjects.config.people) > 1:
        yield warn(
            label,
            f"agents run as the service's own account, {name}: they can read what the service keeps, and end it",
            "give os_user an account of the person's own",
        )
    else:
        yield ok(label, f"{name}, through sudo" if subjects.crosses(person) else f"{name}, the service's own")


def secrets(person: Person) -> Findings:
    """Whether the files of secrets are there, and closed to everybody else."""
    wrong = False
    for variable, file in person.secrets.items():
        try:
            read_secret(file)
        except SecretError as problem:
            wrong = True
            yield error(f"{person.name}: secrets", f"{variable}: {problem}", "see what it says")
    if person.secrets and not wrong:
        yield ok(f"{person.name}: secrets", f"{len(person.secrets)} files, which nobody else may read")


def folders(subjects: Subjects, person: Person) -> Findings:
    """Whether the account may enter the folders that it is to work in."""
    where = workspaces(person)
    for name, place in {"": where.home, **where.named}.items():
        label = f"{person.name}: folder {name}" if name else f"{person.name}: workspace"
        yield from _folder(label, place, subjects, person)


def _folder(label: str, place: str, subjects: Subjects, person: Person) -> Iterator[Finding]:
    entry = pwd.getpwnam(person.os_user or subjects.service)
    try:
        os.close(ways.open_folder(place, entry))
    except ways.ClosedError as closed:
        fault = f"{entry.pw_name} may not enter {closed.place}"
        yield error(label, fault, f"let {entry.pw_name} in, or name another folder")
    except ways.UnknownRightsError:
        yield skip(label, f"{place} cannot be seen by {subjects.service}, as a home should be: only a start can tell")
    except FileNotFoundError:
        command = ("sudo", "-u", entry.pw_name) if subjects.crosses(person) else ()
        yield error(label, f"{place} is not there", "make it", shlex.join((*command, "mkdir", "-p", place)))
    except OSError as why:
        yield error(label, f"{place} is not a folder ({why.strerror})", "name another in the config")
    else:
        if not subjects.crosses(person) and not os.access(place, os.R_OK | os.X_OK):
            yield error(label, f"{entry.pw_name} may not read {place}", "let it in, or name another folder")
        else:
            yield ok(label, place)


def temporary_folder(account: str) -> Findings:
    """Whether an account has a folder for temporary files that nobody else may enter."""
    label = f"{account}: TMPDIR"
    notices = agent_environment(account).notices
    if notices:
        yield warn(
            label,
            f"{notices[0].partition(': make it with')[0]}; its agents use /tmp, which everybody shares",
            "`corral units tmpfiles` has systemd make it at each boot",
            f"sudo install -d -m 0700 -o {shlex.quote(account)} {shlex.quote(f'{ACCOUNT_TMP}/{account}')}",
        )
    else:
        yield ok(label, f"{ACCOUNT_TMP}/{account}")
