"""Which program an engine is, looked for as it is when it is started for a person."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from corral.backends import registry
from corral.backends.environment import search_path
from corral.backends.errors import EngineNotFoundError
from corral.install.calls import call
from corral.process.bare import sudo

if TYPE_CHECKING:
    from corral.config import Config

_FIRST_LINE_OF_ROOT = "Value to override user's $PATH with: "
_SECURE_PATH = re.compile(r"secure_path=((?:\\.|[^\\,\s])+)")


@dataclass(frozen=True, slots=True)
class Program:
    """An engine's command, with the full path of its program."""

    engine: str
    command: tuple[str, ...]

    @property
    def path(self) -> str:
        return self.command[0]

    @property
    def starts_in_workspace(self) -> bool:
        """Whether sudo must be able to start it in a folder that the service may not enter."""
        entry = registry.entry(self.engine)
        return entry.kind(entry.settings(), self.command, None).starts_in_workspace


def commands(config: Config) -> Mapping[str, Sequence[str]]:
    """The command of each engine, as configured."""
    return {engine: config.engines.settings(engine).command for engine in registry.names()}


def find(config: Config, engine: str, path: str, *, own: bool) -> Program | None:
    """The engine's program on `path`, or None if there is none.

    own: whether it runs as the service's account, for which an engine may know another place than the path.
    """
    command = tuple(commands(config)[engine])
    name = command[0]
    if "/" in name:
        # In a home that this account may not enter it cannot be seen, and may be there all the same.
        return Program(engine, command) if _may_be_there(name) else None
    if found := shutil.which(name, path=path):
        return Program(engine, (found, *command[1:]))
    entry = registry.entry(engine)
    if own and command == entry.settings().command:
        try:
            return Program(engine, tuple(entry.find(path)))
        except EngineNotFoundError:
            return None
    return None


def own_path() -> str:
    """Where programs of the service's own account are looked for."""
    return search_path(os.environ.get("PATH", ""))


def sudo_path(program: str) -> str:
    """Where sudo looks a bare name up: its secure_path, where it has one and says so, else as for this account."""
    if os.geteuid() == 0:
        for line in call([program, "-V"]).out.splitlines():
            if line.startswith(_FIRST_LINE_OF_ROOT):
                return line.removeprefix(_FIRST_LINE_OF_ROOT)
        # The service's PATH then, and what root has on its own says nothing of that.
        return search_path("")
    # A long list of defaults goes on in the next line, behind four spaces.
    said = call([program, "-n", "-l"]).out.replace("\n    ", " ")
    if match := _SECURE_PATH.search(said):
        return match[1].replace("\\", "")
    return own_path()


def path_for_others() -> str:
    """Where programs of other accounts are looked for."""
    program = sudo.find()
    return sudo_path(program) if program else own_path()


def _may_be_there(path: str) -> bool:
    try:
        return Path(path).is_file() and os.access(path, os.X_OK)
    except OSError:
        return True
