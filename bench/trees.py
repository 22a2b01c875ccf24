"""The trees that are ended: the real Codex where there is one, and scripted ones."""

import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench.ground import REPOSITORY, Ground
from bench.judge import Row

STANDS_WITHIN = 60.0
STILL_FOR = 0.2
"""Seconds without a change before a tree counts as standing: the real Codex runs git and others as it starts."""
_NOT_OF_THE_TREE = {"sudo", "corral-reaper"}


@dataclass(frozen=True)
class Tree:
    """A command, what it is told, and how to see that it stands."""

    name: str
    argv: list[str]
    stands: Callable[[list[Row]], bool]
    text: str = ""


def wait_standing(ground: Ground, tree: Tree) -> list[Row]:
    """Wait until the tree stands still, and return everything alive of it."""
    deadline = time.monotonic() + STANDS_WITHIN
    seen: set[tuple[int, int]] = set()
    since = time.monotonic()
    while time.monotonic() < deadline:
        rows = ground.judge.standing()
        now = {(row.pid, row.start_time) for row in rows}
        if now != seen or not tree.stands(rows):
            seen, since = now, time.monotonic()
        elif time.monotonic() - since >= STILL_FOR:
            return rows
        time.sleep(0.02)
    raise TimeoutError(f"{tree.name} does not stand after {STANDS_WITHIN:g} s: {ground.judge.standing()}")


def _counts(number: int) -> Callable[[list[Row]], bool]:
    return lambda rows: sum(row.name not in _NOT_OF_THE_TREE for row in rows) >= number


def scripted_codex(ground: Ground, daemons: int) -> Tree:
    """Wrapper, native program, three servers in groups of their own, a command in a session with a child in another."""
    argv = [*ground.tree, "codex", str(daemons)]
    return Tree("scripted tree of Codex's shape", argv, _counts(7 + daemons))


def bush(ground: Ground, number: int, daemons: int) -> Tree:
    """So many processes in three levels, some of which have lost their parent."""
    argv = [*ground.tree, "bush", str(number), str(daemons)]
    return Tree(f"{number:,} processes", argv, _counts(number))


def codex(ground: Ground, daemons: int) -> Tree:
    """`codex app-server` with a background command that has a setsid child; scripted where there is no codex."""
    program = _find_codex()
    if program is None:
        return scripted_codex(ground, daemons)
    exposed = _expose(ground, program)
    ground.stage.allow(exposed)
    # Codex runs them as its model would have it run a command: each in a process group of its own.
    commands = ["setsid sleep 600 & exec sleep 600"]
    commands += ["setsid sleep 600 </dev/null >/dev/null 2>&1 & sleep 0.3"] * daemons
    sleeps = 2 + daemons

    def stands(rows: list[Row]) -> bool:
        return sum(row.name == "sleep" for row in rows) == sleeps

    return Tree("real codex app-server", [exposed, "app-server"], stands, _messages(commands))


def _messages(commands: list[str]) -> str:
    client = {"name": "corral-bench", "title": "Corral bench", "version": "0"}
    first = {"id": 0, "method": "initialize", "params": {"clientInfo": client, "capabilities": {}}}
    lines: list[dict[str, object]] = [first, {"method": "initialized"}]
    for number, command in enumerate(commands, 1):
        params = {
            "command": ["/bin/sh", "-c", command],
            "sandboxPolicy": {"type": "dangerFullAccess"},
            "timeoutMs": 600_000,
        }
        lines.append({"id": number, "method": "command/exec", "params": params})
    return "".join(json.dumps(line) + "\n" for line in lines)


def _find_codex() -> Path | None:
    found = [
        os.environ.get("CORRAL_TEST_CODEX"),
        str(REPOSITORY / ".cache" / "npm" / "node_modules" / ".bin" / "codex"),
        shutil.which("codex"),
        _wheel(),
    ]
    return next((Path(path).resolve() for path in found if path and Path(path).exists()), None)


def _wheel() -> str | None:
    try:
        import codex_cli_bin
    except ImportError:
        return None
    return str(codex_cli_bin.bundled_codex_path())


def _expose(ground: Ground, program: Path) -> str:
    """Make the whole installation readable for every account: the npm package finds its binary beside itself."""
    top = next((folder for folder in program.parents if folder.name in {"node_modules", "codex_cli_bin"}), program)
    return str(ground.stage.expose(top) / program.relative_to(top))
