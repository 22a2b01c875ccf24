"""Which processes of a host run an agent, whoever started it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import PurePath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from corral.process import Process

# Older packages of codex name the binary after its target. Letters count: "Codex" and "Claude" are desktop programs.
_PROGRAM = re.compile(r"(codex|claude)(-(x86_64|aarch64)-[a-z0-9_-]+)?")
_RUNTIMES = frozenset({"node", "nodejs", "bun", "deno"})
_SCRIPT = re.compile(r"(codex|claude)(\.[cm]?js)?")
_PACKAGES = ("/@openai/codex", "/@anthropic-ai/claude-code/")


def is_agent(process: Process, arguments: Sequence[str]) -> bool:
    """Whether it is codex or claude, or a node or bun that runs one of the two."""
    if not arguments:
        return False
    program = PurePath(arguments[0]).name
    if _PROGRAM.fullmatch(program):
        return True
    if program not in _RUNTIMES and process.comm not in _RUNTIMES:
        return False
    script = next((argument for argument in arguments[1:] if not argument.startswith("-")), "")
    return bool(_SCRIPT.fullmatch(PurePath(script).name)) or any(package in script for package in _PACKAGES)
