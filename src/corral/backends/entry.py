"""What the rest of Corral knows of an engine: one value, which the engine's package makes and `registry` names."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from corral.backends.engine import EngineKind
    from corral.backends.settings import EngineSettings

Version = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ProgramPatterns:
    """By what a process of the engine is told, whoever started it."""

    program: re.Pattern[str]
    """The name of its program, whole."""
    script: re.Pattern[str]
    """The name of the script that a JavaScript runtime runs as the engine, whole."""
    package: str
    """A part of the path of its package's scripts."""


@dataclass(frozen=True, slots=True)
class LoginState:
    """What an engine said when it was asked whether its account is logged in."""

    state: Literal["logged in", "not logged in", "unknown"]
    words: str
    """How it is logged in, or why that is not known; for a person, without secrets."""


@dataclass(frozen=True, slots=True)
class LoginCheck:
    """How an engine says whether an account is logged in, and how that account logs in."""

    arguments: tuple[str, ...]
    """Added to the engine's command, they print whether it is logged in."""
    read: Callable[[int | None, str, str], LoginState]
    """Its exit status (None: it gave no answer), standard output, and all its words: what they say."""
    login: tuple[str, ...]
    """Added to the engine's command, they log in."""
    since: Version = ()
    """An older version would take the arguments for something else."""


@dataclass(frozen=True, slots=True)
class EngineEntry:
    """One engine."""

    name: str
    """As the config, the commands and the store have it."""
    title: str
    """As people know it."""
    settings: type[EngineSettings]
    """Its table of the config, `[engines.NAME]`."""
    kind: Callable[[Any, Sequence[str], str | None], EngineKind]
    """Its settings (of the type `settings`), the command, and the model, as what starts it."""
    find: Callable[[str | None], Sequence[str]]
    """The command of the program that is installed here: on a path, None for PATH.

    Raises EngineNotFoundError, with what to install."""
    oldest: Version
    """Older versions were not tried, or speak another protocol."""
    home: tuple[str, str]
    """Where it keeps settings, login and conversations: the variable that names the folder, and else the folder in the
    account's home."""
    login: LoginCheck
    programs: ProgramPatterns
    offline: Callable[[Any, str], EngineKind]
    """What starts it, and the address of the offline model: the same, talking to that model."""
