"""The demo from its first line to its exit status."""

from __future__ import annotations

import asyncio
import io
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, cast

from rich.console import Console
from rich.text import Text

from corral.backends.codex import Codex
from corral.backends.errors import BackendError
from corral.demo import offline
from corral.demo.acts import Stage, kill_the_supervisor, stop_on_request
from corral.demo.place import DemoFailed, Place, prepared
from corral.process import JobError
from corral.terminal import render
from corral.terminal.connectors import InProcess
from corral.terminal.printing import TextPrinter

FAILED = 1


class _Signalled(KeyboardInterrupt):
    """TERM or HUP came. An event loop lets a KeyboardInterrupt through, and then unwinds its tasks."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


class _Stdout(io.TextIOBase):
    """Standard output for as long as somebody reads it: the demo plays to its end, and cleans up, without a reader."""

    def fileno(self) -> int:
        return sys.stdout.fileno()

    def isatty(self) -> bool:
        return sys.stdout.isatty()

    def write(self, text: str) -> int:
        try:
            sys.stdout.write(text)
            sys.stdout.flush()
        except BrokenPipeError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, sys.stdout.fileno())
            os.close(nowhere)
        return len(text)


@dataclass(frozen=True, slots=True)
class _Teller:
    console: Console

    def heading(self, text: str) -> None:
        self.console.print()
        self.console.print(Text(text, "bold"))

    def tell(self, text: str) -> None:
        self.console.print(Text(text))


def main() -> int:
    """Play the demo; 0 if everything was proven, 1 if not, 128+N after signal N."""
    console = render.console(cast("IO[str]", _Stdout()))
    teller = _Teller(console)
    try:
        with _signals(), prepared(teller.tell) as place:
            asyncio.run(_play(place, teller))
            if sys.stdin is not None and sys.stdin.isatty() and sys.stdout.isatty():
                _offer_chat(place, teller)
    except (DemoFailed, JobError, BackendError, OSError) as error:
        console.print()
        console.print(Text(f"The demo failed: {error}", "bold red"))
        return FAILED
    except _Signalled as signalled:
        return 128 + signalled.number
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    return 0


async def _play(place: Place, teller: _Teller) -> None:
    stage = Stage(place, TextPrinter(teller.console, prompts=False))
    whose = f"{place.user}, another account, through sudo" if place.user else f"{place.account}, this account"
    teller.heading(f"1. Codex as {whose}; it starts a server with setsid, and /stop ends all of it")
    await stop_on_request(stage)
    teller.heading("2. The same under `corral run`, whose process is then killed with SIGKILL")
    await kill_the_supervisor(stage)
    teller.heading("Nothing is left, twice over: once on request, once with nobody there to ask.")


def _offer_chat(place: Place, teller: _Teller) -> None:
    teller.heading("Your turn: the same Codex, the same offline model. /help shows the commands, /quit leaves.")
    teller.tell(offline.HINT)
    codex = Codex(place.command, sandbox="danger-full-access")
    own = InProcess(
        kinds=lambda *_: codex,
        user=place.user,
        cwd=place.workspace,
        env=place.env,
        state_dir=place.state_dir,
    )
    asyncio.run(offline.chat(own))


@contextmanager
def _signals() -> Iterator[None]:
    """INT, TERM and HUP unwind the stack, so that the tree is ended and the folders go."""

    def raise_it(number: int, _: object) -> None:
        raise _Signalled(number)

    before = {number: signal.signal(number, raise_it) for number in (signal.SIGTERM, signal.SIGHUP)}
    # Python's own: an event loop puts a cancellation in its place.
    before[signal.SIGINT] = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
