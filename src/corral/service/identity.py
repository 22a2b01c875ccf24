"""Who is asking, as a front end has authenticated it, and which people that identity may act for.

This is the one place that decides it: the service asks at every new seat, at every call and after every reload.
"""

from __future__ import annotations

import os
import pwd
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self, TypeAlias

if TYPE_CHECKING:
    from corral.config import Config


@dataclass(frozen=True, slots=True)
class Account:
    """An account of this machine, by the kernel's word (peer credentials of a Unix socket)."""

    uid: int

    def __str__(self) -> str:
        return f"account {self.uid}"


@dataclass(frozen=True, slots=True)
class TelegramUser:
    """A user of Telegram, by the word of its Bot API."""

    number: int

    def __str__(self) -> str:
        return f"telegram {self.number}"


@dataclass(frozen=True, slots=True)
class WebSession:
    """A browser's session, opened by somebody who was authenticated already; it may do no more than they may."""

    session: str
    """Names it in lists and logs; never the cookie's secret."""
    person: str
    """The one person that it was opened for."""
    opened_by: Account | TelegramUser

    def __str__(self) -> str:
        return f"web {self.session}, opened by {self.opened_by}"


Identity: TypeAlias = Account | TelegramUser | WebSession
"""Who is asking. `str` gives its name for logs."""

_Lasting: TypeAlias = Account | TelegramUser
"""Those that the configuration names."""


def own_account() -> Account:
    """This process's own account, which may act for everybody: it runs their agents."""
    return Account(os.getuid())


@dataclass(frozen=True, slots=True)
class Access:
    """Which people each identity may act for, by one configuration. An identity that is not in it is refused."""

    _everybody: tuple[str, ...]
    _people: Mapping[_Lasting, tuple[str, ...]]

    @classmethod
    def look_up(cls, config: Config) -> Self:
        """Read the people table, and look up its accounts.

        May block on a directory service: not for the event loop. Raises OSError if that fails.
        """
        found: dict[_Lasting, tuple[str, ...]] = {}
        for identity, person in _named(config):
            found[identity] = (*found.get(identity, ()), person)
        return cls(_names(config), found)

    @classmethod
    def own(cls, config: Config) -> Self:
        """Only this process's own account and root, for a service that nobody else can reach."""
        return cls(_names(config), {})

    def people(self, identity: Identity) -> tuple[str, ...]:
        """The people that it may act for.

        The service's account and root may act for all, others for their own. A person without an account of their own
        is the service's account's alone: anybody else who acted for them would run commands as the service.
        """
        if isinstance(identity, WebSession):
            return (identity.person,) if identity.person in self.people(identity.opened_by) else ()
        if isinstance(identity, Account) and identity.uid in (0, os.getuid()):
            return self._everybody
        return self._people.get(identity, ())

    def allows(self, identity: Identity, person: str) -> bool:
        """Whether it may act for this person."""
        return person in self.people(identity)


def _names(config: Config) -> tuple[str, ...]:
    return tuple(person.name for person in config.people)


def _named(config: Config) -> Iterator[tuple[_Lasting, str]]:
    """Each identity that the people table names, with its person. A new kind of identity is looked up here."""
    for person in config.people:
        if person.os_user is not None and (uid := _uid(person.os_user)) is not None:
            yield Account(uid), person.name
        if person.telegram is not None:
            yield TelegramUser(person.telegram), person.name


def _uid(name: str) -> int | None:
    try:
        return pwd.getpwnam(name).pw_uid
    except KeyError:
        return None
