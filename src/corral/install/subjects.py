"""What the checks are about: the config, this account, and the accounts of its people."""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from corral.backends import registry
from corral.install import programs, sudoers
from corral.process.bare import sudo
from corral.process.bare.table import account_name

if TYPE_CHECKING:
    from corral.config import Config, Person


@dataclass(frozen=True)
class Subjects:
    """Made once for an examination."""

    config: Config
    service: str
    """The account that the doctor runs as, which should be the service's."""
    sudo: str | None
    """The sudo of this host."""
    others: dict[str, list[Person]]
    """People by their account, where it is not the service's."""

    @classmethod
    def of(cls, config: Config) -> Subjects:
        """Look once at what everybody asks for."""
        service = account_name(os.getuid())
        return cls(config, service, sudo.find(), sudoers.others(config, service))

    @property
    def engines(self) -> tuple[str, ...]:
        return registry.names()

    @cached_property
    def sudo_path(self) -> str:
        """Where sudo looks for programs."""
        return programs.sudo_path(self.sudo) if self.sudo else programs.own_path()

    def as_service(self, command: str) -> str:
        """A command that only the service's account may do, as the operator types it."""
        return f"sudo -u {shlex.quote(self.service)} {command}" if self.others else command

    def program(self, person: Person, engine: str) -> programs.Program | None:
        """The engine's program, as it would be started for the person; None if it is not there."""
        own = not self.crosses(person)
        return programs.find(self.config, engine, programs.own_path() if own else self.sudo_path, own=own)

    def crosses(self, person: Person) -> bool:
        """Whether the person's agents run under another account, through sudo."""
        return person.os_user in self.others
