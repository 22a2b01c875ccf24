"""The first config: made from what the operator answered, checked as every config is, and put in its place whole."""

from __future__ import annotations

import os
import shlex
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from corral.backends import registry
from corral.config import Config, ConfigError, find, load
from corral.config.commented import commented
from corral.config.faults import sentences
from corral.config.loading import SYSTEM_FILE, user_file
from corral.process.bare.table import account_name
from corral.values.kinds import NAME


@dataclass(frozen=True, slots=True)
class Newcomer:
    """A person of the first config."""

    name: str
    os_user: str | None = None
    """None: the service's own account."""
    workspace: str | None = None
    """None: the account's home."""


@dataclass(frozen=True, slots=True)
class Answers:
    """What the operator wants; None leaves a key at its default."""

    people: tuple[Newcomer, ...] = ()
    engine: str | None = None
    approval: str | None = None
    workspace: str | None = None
    """Of people who have none of their own."""
    state_dir: str | None = None
    socket: str | None = None


def usual_place() -> Path:
    """Where a config goes that was not told where: the system's folder for root, else the account's own."""
    if named := os.environ.get("CORRAL_CONFIG", ""):
        return Path(named)
    return SYSTEM_FILE if os.geteuid() == 0 else user_file()


def own_account() -> str:
    """The account of this process, which is to be the service's."""
    return account_name(os.geteuid())


def own_name() -> str:
    """A name for whoever runs this."""
    name = own_account()
    return name if NAME.fullmatch(name) else "me"


def newcomer(written: str) -> Newcomer:
    """A person from `NAME` or `NAME:OS_USER`."""
    name, _, os_user = written.partition(":")
    return Newcomer(name, os_user or None)


def build(answers: Answers) -> Config:
    """The config of these answers. Raises ConfigError."""
    document = _document(answers)
    try:
        return Config.model_validate(document)
    except ValidationError as error:
        raise ConfigError(tuple(sentences(error, document))) from None


def refuse_overwriting(path: Path) -> None:
    """Raise ConfigError if something lies where the config is to go."""
    if os.path.lexists(path):
        raise ConfigError((f"{path}: this file is there already: --force replaces it, --config names another",))


def write(config: Config, path: Path, *, force: bool) -> None:
    """Write the file, mode 0600, whole or not at all. Raises ConfigError, also for what `load` finds wrong with it."""
    try:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    except OSError as error:
        raise ConfigError((f"{path}: it cannot be written ({error.strerror})",)) from None
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(commented(config))
            file.flush()
            os.fsync(file.fileno())
        load(temporary)
        _publish(temporary, path, force=force)
    except ConfigError as error:
        raise ConfigError(tuple(fault.replace(name, str(path)) for fault in error.faults)) from None
    except OSError as error:
        raise ConfigError((f"{path}: it cannot be written ({error.strerror})",)) from None
    finally:
        temporary.unlink(missing_ok=True)


def next_steps(config: Config, path: Path) -> Iterator[tuple[str, str]]:
    """What to do now: a command each, and what it is for."""
    option = "" if find() == path else f" --config {shlex.quote(str(path))}"
    yield f"corral doctor{option}", "tries everything that must be right, and says what is not"
    if any(person.os_user for person in config.people):
        yield f"corral sudoers{option}", "the sudo rules that these people's accounts need"
    yield f"corral units{option}", "a service unit for systemd or launchd"
    yield f"corral serve{option}", "the service"


def missing_engine(config: Config) -> str:
    """A sentence if the engine that people begin with is not on this account's PATH; else empty."""
    engine = config.service.engine
    program = config.engines.settings(engine).command[0]
    if shutil.which(program):
        return ""
    return (
        f"{program} was not found on this account's PATH: install it, or set command below [engines.{engine}] to its "
        "full path"
    )


def _document(answers: Answers) -> dict[str, Any]:
    service = _given(engine=answers.engine, state_dir=answers.state_dir, socket=answers.socket)
    # For every engine: what an agent may do was said of all of them.
    engines = {name: {"approval": answers.approval} for name in registry.names()} if answers.approval else {}
    people = [
        _given(name=person.name, os_user=person.os_user, workspace=person.workspace or answers.workspace)
        for person in answers.people or (Newcomer(own_name()),)
    ]
    return {"service": service, "engines": engines, "people": people}


def _given(**values: object) -> dict[str, object]:
    return {key: value for key, value in values.items() if value is not None}


def _publish(temporary: Path, path: Path, *, force: bool) -> None:
    if force:
        temporary.replace(path)
        return
    try:
        # A link, unlike a rename, fails where something has come to lie meanwhile.
        path.hardlink_to(temporary)
    except FileExistsError:
        refuse_overwriting(path)
        raise
