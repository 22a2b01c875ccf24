"""A `corral chat` that a test talks with: over pipes as a program would, or on a terminal as a person would."""

import json
import os
import re
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from corral.backends.codex.offline import codex_overrides
from tests.harness.service import Service
from tests.harness.waiting import until

Event = dict[str, Any]
SEQUENCE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
TIMEOUT = 40.0  # seconds


def offline_home(folder: Path, base_url: str, owner: int) -> Path:
    """Make a CODEX_HOME whose settings point at the offline model; each override is a line of TOML."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.toml").write_text("\n".join(codex_overrides(base_url)) + "\n")
    folder.chmod(0o700)
    if os.geteuid() == 0:
        for path in (folder, folder / "config.toml"):
            os.chown(path, owner, -1)
    return folder


def on_path(service: Service, command: Sequence[str]) -> dict[str, str]:
    """An environment in which `codex` is the test's, and which sudo lets through."""
    folder = service.folder / "bin"
    folder.mkdir(exist_ok=True)
    (folder / "codex").symlink_to(command[0])
    service.stage.allow(str(folder / "codex"))
    return {"PATH": f"{folder}:{service.env['PATH']}"}


@dataclass
class Piped:
    """`corral chat --json` over pipes; `events` grows as they come."""

    process: subprocess.Popen[bytes]
    events: list[Event] = field(default_factory=list)
    _lines: threading.Thread | None = None

    @classmethod
    def start(cls, service: Service, env: dict[str, str], *arguments: str) -> "Piped":
        argv = service.corral("chat", "--json", "--state-dir", str(service.state_dir), *arguments)
        with (service.folder / "chat.err").open("wb") as err:
            chat = cls(service.start(argv, env=env, stderr=err))
        chat._lines = threading.Thread(target=chat._read, daemon=True)
        chat._lines.start()
        return chat

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.events.append(json.loads(line))

    def send(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line.encode() + b"\n")
        self.process.stdin.flush()

    def close_input(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()

    def named(self, name: str) -> list[Event]:
        return [event for event in self.events if event["event"] == name]

    @property
    def text(self) -> str:
        return "".join(event["delta"] for event in self.named("text"))

    def __str__(self) -> str:
        return "\n".join(map(str, self.events))

    async def until(self, condition: Callable[[], object], what: str) -> None:
        await until(condition, TIMEOUT, what, lambda: str(self))

    async def count(self, name: str, number: int) -> list[Event]:
        """Wait for so many events of a kind, and return them."""
        await self.until(lambda: len(self.named(name)) >= number, f"there were {number} of {name}")
        return self.named(name)

    async def exited(self) -> int:
        """Wait for the end of the process and of its output, and return the status."""
        await self.until(lambda: self.process.poll() is not None, "corral chat ended")
        assert self._lines is not None
        await self.until(lambda: self._lines is not None and not self._lines.is_alive(), "its output ended")
        return self.process.returncode


@dataclass
class OnTerminal:
    """`corral chat` on a terminal of its own; `screen` is what it printed, without colours."""

    process: subprocess.Popen[bytes]
    terminal: int
    _seen: bytes = b""

    @property
    def screen(self) -> str:
        try:
            while data := os.read(self.terminal, 65536):
                self._seen += data
        except OSError:  # nothing there now, or nobody writes any more
            pass
        return SEQUENCE.sub("", self._seen.decode(errors="replace")).replace("\r", "")

    def type(self, text: str) -> None:
        os.write(self.terminal, text.encode())

    async def until(self, condition: Callable[[str], object], what: str) -> None:
        await until(lambda: condition(self.screen), TIMEOUT, what, lambda: self.screen)

    async def shows(self, text: str, times: int = 1) -> None:
        await self.until(lambda screen: screen.count(text) >= times, f"it showed {text!r} {times} times")

    async def prompts(self) -> None:
        await self.until(lambda screen: screen.endswith("\n> ") or screen == "> ", "it showed its prompt, last")

    async def exited(self) -> int:
        await self.until(lambda _: self.process.poll() is not None, "it ended")
        return self.process.returncode


@contextmanager
def on_terminal(service: Service, env: dict[str, str], *arguments: str, state_dir: bool = True) -> Iterator[OnTerminal]:
    """Start corral with a new pseudo-terminal as its controlling terminal."""
    master, slave = os.openpty()
    os.set_blocking(master, False)
    try:
        with os.fdopen(slave, "r+b", buffering=0) as other:
            # Not the leader of a group yet, setsid makes itself one without a fork: the pid is corral's.
            state = ["--state-dir", str(service.state_dir)] if state_dir else []
            argv = ["setsid", "-c", *service.corral(*arguments, *state)]
            env = {"TERM": "xterm-256color", **env}
            process = service.start(argv, env=env, stdin=other, stdout=other, stderr=other)
        yield OnTerminal(process, master)
    finally:
        os.close(master)
