"""What a config says that can be done and was hardly meant: warnings of the doctor, and in the service's log.

What cannot work is a fault, and refused by `load`.
"""

from __future__ import annotations

import os
import pwd
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from corral.config.models import Config, Person
from corral.process.bare.table import is_this_account
from corral.values.quantities import as_time

_SECRET = re.compile(r"(^|_)(KEY|TOKEN|SECRET|PASSWORD|PASSWD|PASSPHRASE|CREDENTIALS?)$")


class Doubt(NamedTuple):
    """One of them."""

    key: str
    sentence: str
    todo: str


def of_the_text(config: Config) -> Iterator[Doubt]:
    """Those that the file alone tells."""
    timeouts, ladder = config.timeouts, config.ladder
    if timeouts.silence > timeouts.turn:
        yield Doubt(
            "timeouts.silence",
            f"it is {as_time(timeouts.silence)} and never acts: a turn ends after {as_time(timeouts.turn)}",
            "make silence shorter than turn",
        )
    longest = ladder.goodbye + ladder.grace + ladder.kill
    if config.service.shutdown < longest:
        yield Doubt(
            "service.shutdown",
            f"it is {as_time(config.service.shutdown)} and the ladder up to {as_time(longest)}: endings are cut short",
            "make shutdown at least as long as goodbye, grace and kill together",
        )
    for person in config.people:
        for variable in person.env:
            if _SECRET.search(variable.upper()):
                yield Doubt(
                    f"people.{person.name}.env",
                    f"{variable} sounds like a secret, and everybody who may read this file may read it",
                    f"put it into a file of its own, and name that in people.{person.name}.secrets",
                )


def of_the_host(config: Config) -> Iterator[Doubt]:
    """Those about accounts and folders. The doctor looks at these more closely."""
    accounts: dict[str | None, list[str]] = defaultdict(list)
    for person in config.people:
        accounts[None if is_this_account(person.os_user) else person.os_user].append(person.name)
        key = f"people.{person.name}"
        if person.os_user is not None and _uid(person.os_user) == 0:
            yield Doubt(f"{key}.os_user", "agents run as root, and can do everything", "name another account")
        for place in _missing(person):
            yield Doubt(f"{key}.workspace", f"{place} is not there: no agent can start in it", "make it")
    for account, names in accounts.items():
        if len(names) > 1:
            yield Doubt(
                f"people.{names[1]}.os_user",
                f"{', '.join(names)} share {account or 'the account of the service'}: their agents can read each"
                " other's files and keys",
                "give each person an account",
            )


def _missing(person: Person) -> Iterator[Path]:
    """The person's folders that are known not to be there: a home that this account may not enter tells nothing."""
    for written in (person.workspace, *person.workspaces.values()):
        place = Path(written)
        if written.startswith("~"):
            home = _home(person.os_user)
            if home is None:
                continue
            place = home / written.removeprefix("~").lstrip("/")
        try:
            place.stat()
        except FileNotFoundError:
            yield place
        except OSError:
            continue


def _home(account: str | None) -> Path | None:
    try:
        return Path(pwd.getpwnam(account).pw_dir if account else pwd.getpwuid(os.getuid()).pw_dir)
    except KeyError:
        return None


def _uid(account: str) -> int | None:
    try:
        return pwd.getpwnam(account).pw_uid
    except KeyError:
        return None
