"""Which processes of a host run an agent, whoever started it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePath
from typing import TYPE_CHECKING

from corral.backends import registry

if TYPE_CHECKING:
    from corral.process import Process

_RUNTIMES = frozenset({"node", "nodejs", "bun", "deno"})


def is_agent(process: Process, arguments: Sequence[str]) -> bool:
    """Whether it is the program of an engine, or a JavaScript runtime that runs one."""
    if not arguments:
        return False
    patterns = [entry.programs for entry in registry.entries()]
    program = PurePath(arguments[0]).name
    if any(one.program.fullmatch(program) for one in patterns):
        return True
    if program not in _RUNTIMES and process.comm not in _RUNTIMES:
        return False
    script = next((argument for argument in arguments[1:] if not argument.startswith("-")), "")
    name = PurePath(script).name
    return any(one.script.fullmatch(name) or one.package in script for one in patterns)
