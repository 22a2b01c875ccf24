"""A real `corral serve`, as a process of its own."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from corral.remote import wire
from corral.remote.client import AttachedSeat
from tests.harness.backends import PEER
from tests.harness.hosting import Watcher
from tests.harness.waiting import wait_until

TIMEOUT = 30.0  # seconds


class Attached(Watcher):
    """A front end at the service."""

    seat: AttachedSeat


@dataclass
class Daemon:
    """The process, its folder, and what it logs."""

    folder: Path
    process: subprocess.Popen[bytes]

    @property
    def socket(self) -> Path:
        return self.folder / "state" / "corral.sock"

    @property
    def log(self) -> list[dict[str, Any]]:
        lines = (self.folder / "log").read_text().splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]

    def logged(self, event: str) -> list[dict[str, Any]]:
        return [line for line in self.log if line["event"] == event]

    def wait_logged(self, event: str, count: int = 1) -> dict[str, Any]:
        wait_until(lambda: len(self.logged(event)) >= count, TIMEOUT, f"the log has {event!r}", self.text)
        return self.logged(event)[-1]

    def text(self) -> str:
        return (self.folder / "log").read_text()

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def wait(self, timeout: float = TIMEOUT) -> int:
        return self.process.wait(timeout)

    @asynccontextmanager
    async def attached(self, **hello: Any) -> AsyncIterator[Attached]:
        front = Attached()
        front.seat = await AttachedSeat.open(self.socket, wire.Hello(**hello))
        reading = asyncio.create_task(front.seat.read(front))
        try:
            yield front
        finally:
            front.seat.detach()
            await asyncio.wait_for(asyncio.wait([reading]), 5)


def write_config(folder: Path, *people: str, more: str = '[ladder]\ngrace = "500ms"') -> Path:
    """A config with scripted codex for these people. Without `more`, what ignores TERM is soon killed."""
    (folder / "work").mkdir(parents=True, exist_ok=True)
    command = json.dumps([sys.executable, str(PEER), "codex", "obey"])
    named = "\n".join(f'[[people]]\nname = "{name}"\nworkspace = "{folder}/work"' for name in people or ("anna",))
    file = folder / "corral.toml"
    text = f'[service]\nstate_dir = "{folder}/state"\n[engines.codex]\ncommand = {command}\n{more}\n{named}\n'
    file.write_text(text)
    file.chmod(0o600)
    return file


def start(folder: Path, config: Path, env: dict[str, str] | None = None, *, before: Sequence[str] = ()) -> Daemon:
    """Start it, behind the words of `before`; it may not be ready yet."""
    with (folder / "log").open("ab") as log:
        process = subprocess.Popen(
            [*before, sys.executable, "-m", "corral", "serve", "--config", str(config)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={**os.environ, **(env or {})},
        )
    return Daemon(folder, process)


@contextmanager
def serving(folder: Path, config: Path, env: dict[str, str] | None = None) -> Iterator[Daemon]:
    """A service that is ready, and is killed at the end if it still runs."""
    folder.mkdir(parents=True, exist_ok=True)
    before = (folder / "log").read_text().count('"serving"') if (folder / "log").exists() else 0
    daemon = start(folder, config, env)
    try:
        daemon.wait_logged("serving", before + 1)
        yield daemon
    finally:
        if daemon.process.poll() is None:
            daemon.signal(signal.SIGKILL)
            daemon.wait()
