"""The real engines: where their programs are, and homes that point them at the offline model without a word of env."""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from corral.backends.claude import Claude
from corral.backends.claude.offline import claude_environment
from corral.backends.codex import Codex
from corral.backends.codex.offline import codex_overrides
from corral.backends.engine import EngineKind

REPOSITORY = Path(__file__).resolve().parents[2]
# Older npm on older Node would take an older claude than the newest: the version is named.
PACKAGES = {"codex": "@openai/codex", "claude": "@anthropic-ai/claude-code@2.1.330"}
OLDEST_CODEX = "@openai/codex@0.125.0"
INSTALLED, INSTALLED_OLDEST = REPOSITORY / ".cache" / "npm", REPOSITORY / ".cache" / "npm-oldest"


@dataclass(frozen=True)
class Engine:
    """A real engine, readable by every account of the stage."""

    name: str
    program: str
    origin: str
    """npm, wheel or path."""

    def kind(self, **settings: Any) -> EngineKind:
        """Its settings; by default it may do whatever the script says."""
        if self.name == "codex":
            return Codex((self.program,), **{"sandbox": "danger-full-access", "approval": "never", **settings})
        return Claude((self.program,), **settings)

    def asking(self) -> EngineKind:
        """The same, asking for leave before it writes."""
        return self.kind(sandbox="read-only", approval="ask") if self.name == "codex" else self.kind()

    def point(self, home: Path, base_url: str, owner: int | None = None, *, allow: bool = True) -> None:
        """Write the settings with which it talks to the offline model into a home.

        `allow`: claude may run every command unasked, as codex may by `kind`.
        """
        if self.name == "codex":
            folder, name, text = home / ".codex", "config.toml", "\n".join(codex_overrides(base_url)) + "\n"
        else:
            permissions = {"permissions": {"allow": ["Bash"]}} if allow else {}
            settings = {"env": claude_environment(base_url), **permissions}
            folder, name, text = home / ".claude", "settings.json", json.dumps(settings)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
        if owner is not None and os.geteuid() == 0:
            for path in (folder, folder / name):
                os.chown(path, owner, -1)

    def add_server(self, home: Path, command: list[str], owner: int) -> None:
        """Give it an MCP server, in a home that `point` was called for."""
        if self.name == "codex":
            path = home / ".codex" / "config.toml"
            program, *arguments = command
            server = f"\n[mcp_servers.stubborn]\ncommand = {json.dumps(program)}\nargs = {json.dumps(arguments)}\n"
            path.write_text(path.read_text() + server)
        else:
            path = home / ".claude.json"
            entry = {"type": "stdio", "command": command[0], "args": command[1:]}
            path.write_text(json.dumps({"mcpServers": {"stubborn": entry}}))
        os.chown(path, owner, -1)

    def forget(self, home: Path) -> None:
        """Take all that it wrote out of a home."""
        for name in (".codex", ".claude", ".claude.json", ".cache", ".npm", ".config", ".local"):
            path = home / name
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)


def find(name: str) -> str | None:
    """CORRAL_TEST_CODEX or CORRAL_TEST_CLAUDE, what .ci/run installed from npm, the wheel of codex, or PATH."""
    wheel = find_codex_wheel() if name == "codex" else None
    given = os.environ.get(f"CORRAL_TEST_{name.upper()}")
    return given or _installed(INSTALLED, name) or wheel or shutil.which(name)


def find_codex_wheel() -> str | None:
    try:
        import codex_cli_bin
    except ImportError:
        return None
    return str(Path(codex_cli_bin.__file__).with_name("bin") / "codex")


def find_codex_oldest() -> str | None:
    """CORRAL_TEST_CODEX_OLDEST, or what .ci/run installed from npm."""
    return os.environ.get("CORRAL_TEST_CODEX_OLDEST") or _installed(INSTALLED_OLDEST, "codex")


def _installed(folder: Path, name: str) -> str | None:
    path = folder / "node_modules" / ".bin" / name
    return str(path) if path.exists() else None


def expose(program: str, expose_folder: Callable[[Path], Path]) -> str:
    """Bind the whole installation: the npm package finds its native binary beside itself, the wheel its tools."""
    path = Path(program).resolve()
    top = next((folder for folder in path.parents if folder.name in ("node_modules", "codex_cli_bin")), path)
    return str(expose_folder(top) / path.relative_to(top))
