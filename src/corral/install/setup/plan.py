"""The steps of an installation, made from what the operator wants."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from corral.backends.environment import ACCOUNT_TMP
from corral.config import Config, ConfigError, load
from corral.config.commented import commented
from corral.install import initial, launchd, programs, sudoers, units
from corral.install.accounts import program as own_program
from corral.install.initial import Answers, Newcomer
from corral.install.setup.errors import SetupError
from corral.install.setup.step import Look, Step
from corral.install.setup.steps import SYSTEMD, AccountStep, FileStep, FolderStep, UnitStep, account, as_account
from corral.process.bare import sudo

if TYPE_CHECKING:
    from corral.install.setup.receipt import Receipt

UNIT = "corral.service"
SUDOERS = Path("/etc/sudoers")
PROPERTY_LIST = Path("/Library/LaunchDaemons/org.corral.serve.plist")
_ACCOUNT = re.compile(r"[a-z_][a-z0-9_-]{0,31}")
_INCLUDES = re.compile(r"^[@#]includedir\s+/etc/sudoers\.d\s*$", re.MULTILINE)
_PROGRAM_TIMEOUT = 30.0  # seconds
_DOCTOR_TIMEOUT = 300.0  # seconds: it starts each engine of each person


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the operator wants."""

    people: tuple[Newcomer, ...]
    service_user: str = "corral"
    engine: str | None = None
    config: Path = Path("/etc/corral/corral.toml")
    state_dir: Path = Path("/var/lib/corral")
    socket: Path = Path("/run/corral/corral.sock")
    unit: bool = True
    create_accounts: bool = False


def newcomer(written: str) -> Newcomer:
    """A person from `NAME` or `NAME:ACCOUNT`; without an account, the one of that name."""
    person = initial.newcomer(written)
    return person if person.os_user is not None else replace(person, os_user=person.name)


def steps(wanted: Wanted) -> list[Step]:
    """The steps in their order. Raises SetupError for what can be no installation."""
    _check(wanted)
    config = _Config(wanted)
    accounts = [person.os_user for person in wanted.people if person.os_user is not None]
    service = (*("useradd", "--system", "--user-group", "--no-create-home"), *("--home-dir", str(wanted.state_dir)))
    found: list[Step] = [
        AccountStep(wanted.service_user, (*service, "--shell", "/usr/sbin/nologin", wanted.service_user), allowed=True),
        ProgramStep(wanted.service_user),
    ]
    found += [
        AccountStep(name, ("useradd", "--create-home", "--shell", "/bin/bash", name), allowed=wanted.create_accounts)
        for name in dict.fromkeys(accounts)
    ]
    found += [
        FileStep(
            wanted.config,
            lambda: commented(config.built()),
            mode=0o640,
            group=wanted.service_user,
            keep=True,
            fault=config.lacks,
        ),
        FolderStep(wanted.state_dir, wanted.service_user, 0o700),
        *_temporary(config, accounts),
        SudoStep(),
        FileStep(Path(sudoers.FILE), config.sudoers, mode=0o440, check=_without_visudo),
    ]
    return [*found, *_service(wanted, config), DoctorStep(wanted)]


def _check(wanted: Wanted) -> None:
    if not wanted.people:
        raise SetupError("nobody is named: say who may talk with an agent, --person NAME[:ACCOUNT]")
    for name in (wanted.service_user, *(person.os_user or "" for person in wanted.people)):
        if not _ACCOUNT.fullmatch(name):
            raise SetupError(f"{name!r} is not a name for an account: letters (a-z), digits, _ and -, up to 32")
    service = account(wanted.service_user)
    uids = {entry.pw_uid for person in wanted.people if (entry := account(person.os_user or "")) is not None}
    same = any(person.os_user == wanted.service_user for person in wanted.people)
    if same or (service is not None and service.pw_uid in uids):
        raise SetupError(
            f"{wanted.service_user} is the service's account: an agent that ran as it could read what everybody said; "
            "give the person an account of their own"
        )


def _temporary(config: _Config, accounts: Sequence[str]) -> list[Step]:
    """Each account's folder for temporary files."""
    if SYSTEMD.exists():
        command = ("systemd-tmpfiles", "--create", units.TMPFILES)
        return [FileStep(Path(units.TMPFILES), config.tmpfiles, after=[command])]
    return [FolderStep(Path(ACCOUNT_TMP) / name, name, 0o700) for name in dict.fromkeys(accounts)]


def _service(wanted: Wanted, config: _Config) -> list[Step]:
    if not wanted.unit:
        return []
    if sys.platform == "darwin":
        return [FileStep(PROPERTY_LIST, config.property_list)]
    return [FileStep(Path(units.UNIT), config.unit), UnitStep(UNIT, wanted.config)]


def _without_visudo(text: str) -> str:
    return sudoers.verify(text)


@dataclass(frozen=True)
class _Config:
    """The config of the installation: the file that is there, else what will be written."""

    wanted: Wanted

    def built(self) -> Config:
        """What is written where there is none. Raises SetupError."""
        answers = Answers(
            people=self.wanted.people,
            engine=self.wanted.engine,
            state_dir=str(self.wanted.state_dir),
            socket=str(self.wanted.socket),
        )
        try:
            return initial.build(answers)
        except ConfigError as error:
            raise SetupError("; ".join(error.faults)) from None

    def current(self) -> Config:
        """The one that holds. Raises SetupError."""
        if not self.wanted.config.exists():
            return self.built().model_copy(update={"path": self.wanted.config})
        try:
            return load(self.wanted.config)
        except ConfigError as error:
            raise SetupError("; ".join(error.faults)) from None

    def lacks(self) -> str:
        """What a file that is there has to say besides; empty if nothing. Raises SetupError."""
        config = self.current()
        missing = []
        for person in self.wanted.people:
            there = config.person(person.name)
            if there is None:
                missing.append(f'[[people]] name = "{person.name}" os_user = "{person.os_user}"')
            elif there.os_user != person.os_user:
                missing.append(f'os_user = "{person.os_user}" for {person.name}, who has {there.os_user or "none"}')
        if config.service.state_dir != self.wanted.state_dir:
            missing.append(f'state_dir = "{self.wanted.state_dir}", or --state-dir {config.service.state_dir} here')
        return f"edit it: {'; '.join(missing)}" if missing else ""

    def ready(self) -> bool:
        """Whether all accounts are there that the texts name."""
        names = [self.wanted.service_user, *(person.os_user for person in self.current().people if person.os_user)]
        return all(account(name) is not None for name in names)

    def sudoers(self) -> str | None:
        """The rules."""
        if not self.ready():
            return None
        try:
            path = programs.path_for_others()
            return sudoers.rules(self.current(), self.wanted.service_user, path).text
        except sudoers.SudoersError as error:
            raise SetupError("; ".join(error.faults)) from None

    def tmpfiles(self) -> str | None:
        """The fragment of tmpfiles.d."""
        return self._unit(partial(units.tmpfiles, self.current(), self.wanted.service_user))

    def unit(self) -> str | None:
        """The unit."""
        return self._unit(partial(units.systemd, self.current(), self.wanted.service_user, own_program()))

    def property_list(self) -> str | None:
        """The property list of launchd."""
        return self._unit(partial(launchd.plist, self.current(), self.wanted.service_user, own_program()))

    def _unit(self, text: partial[str]) -> str | None:
        if not self.ready():
            return None
        try:
            return text()
        except units.UnitsError as error:
            raise SetupError(str(error)) from None


@dataclass(frozen=True)
class ProgramStep:
    """Whether the service's account may run this Corral."""

    service_user: str
    title: str = "program"

    def look(self, receipt: Receipt) -> Look:  # noqa: ARG002 - it makes nothing
        if account(self.service_user) is None:
            return Look("todo", f"try {own_program()[0]} as {self.service_user}")
        said = as_account(self.service_user, [*own_program(), "--version"], _PROGRAM_TIMEOUT)
        if said.status == 0:
            return Look("done", f"{own_program()[0]}: {said.first_line}")
        remedy = "install Corral where every account may read it: python3 -m venv /opt/corral && /opt/corral/bin/pip"
        return Look("refused", f"{self.service_user} cannot run it: {said.first_line}", f"{remedy} install corral")

    def do(self, receipt: Receipt) -> None:
        if (look := self.look(receipt)).state != "done":
            raise SetupError(f"{look.detail}; {look.remedy}")


@dataclass(frozen=True)
class SudoStep:
    """Whether this machine's sudo reads the rules."""

    title: str = "sudo"

    def look(self, receipt: Receipt) -> Look:  # noqa: ARG002 - it makes nothing
        if sudo.find() is None:
            return Look("refused", "is not installed", "install it (Debian: apt-get install sudo)")
        try:
            included = _INCLUDES.search(SUDOERS.read_text(errors="replace"))
        except OSError as error:
            return Look("refused", f"{SUDOERS} cannot be read: {error.strerror}", "run this as root")
        if not included:
            return Look("refused", f"{SUDOERS} does not read /etc/sudoers.d", "visudo: add @includedir /etc/sudoers.d")
        return Look("done", "reads /etc/sudoers.d")

    def do(self, receipt: Receipt) -> None:
        """There is nothing to do."""


@dataclass(frozen=True)
class DoctorStep:
    """`corral doctor` as the service's account: whether all of it works."""

    wanted: Wanted
    title: str = "doctor"

    @property
    def _argv(self) -> list[str]:
        return [*own_program(), "doctor", "--config", str(self.wanted.config)]

    def look(self, receipt: Receipt) -> Look:  # noqa: ARG002 - it makes nothing
        return Look("todo", f"try everything as {self.wanted.service_user}: `corral doctor`")

    def do(self, receipt: Receipt) -> None:  # noqa: ARG002 - it makes nothing
        said = as_account(self.wanted.service_user, self._argv, _DOCTOR_TIMEOUT)
        if said.status != 0:
            errors = [line for line in said.out.splitlines() if line.startswith("error")]
            words = "; ".join(" ".join(line.split()) for line in errors) or said.first_line
            raise SetupError(f"{words} (all of it: sudo -u {self.wanted.service_user} corral doctor)")
