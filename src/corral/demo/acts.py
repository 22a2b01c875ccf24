"""The two acts: `/stop` ends the tree, and so does the death of the supervisor. Each is proven, or the demo fails."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from rich.text import Text

from corral.backends.backend import Input
from corral.backends.codex.offline import codex_overrides
from corral.backends.events import BackendEnded, Notice, TurnEnded
from corral.demo.place import DemoFailed, Place
from corral.demo.server import Server
from corral.demo.supervised import SupervisedCodex
from corral.display import processes
from corral.offline import OfflineModel, Run, Say, Script, Turn
from corral.process import Report, live_jobs
from corral.service.front import Shown
from corral.terminal.connectors import InProcess
from corral.terminal.printing import TextPrinter
from corral.terminal.render import rich_block

MESSAGE = "Start a small web server and leave it running."
TURN_TIMEOUT = 60.0  # seconds for a turn that is over in two
REPORT_TIMEOUT = 30.0  # seconds from the supervisor's death to the reaper's report
PAUSE = 0.05  # seconds between two looks


def script(server: Server) -> Script:
    """What the model says and does."""
    return Script(
        [
            Turn(
                Say("I start one in the background, in a session of its own.", pause=0.02),
                Run(server.command, wait=5.0),
                Say(f"It runs: http://127.0.0.1:{server.port}/ answers.", pause=0.02),
            )
        ]
    )


@dataclass
class Stage:
    """What the acts have in common: the place, and where they show what happens."""

    place: Place
    printer: TextPrinter

    def tell(self, text: str) -> None:
        """What happens, in a line."""
        self.printer.say(Text(text))

    def typed(self, text: str) -> None:
        """What a person would type."""
        self.printer.say(Text.assemble(("> ", "bold"), (text, "bold cyan")))

    async def show_alive(self, server: Server) -> None:
        """The server must answer, and the look must find it: a look that sees nothing proves nothing."""
        if not await server.starts_to_answer():
            raise DemoFailed(f"the server that codex started does not answer on port {server.port}")
        found = self.place.alive()
        if not any(str(server.port) in line for line in found):
            raise DemoFailed("the look at the process table does not find the server, so it would prove nothing")
        self.tell("The turn is over. The server answers; in a session of its own, it is out of codex's reach:")

    async def show_empty(self, report: Report, server: Server) -> None:
        """Nothing may be left, by the verdict, by the process table and by the port. Raises DemoFailed."""
        expected = "proven_empty" if sys.platform == "linux" else "empty_by_scan"
        if report.verdict != expected:
            raise DemoFailed(f"the verdict is {report.verdict}, and should be {expected}")
        if left := self.place.alive():
            raise DemoFailed(f"the process table shows {len(left)} processes that are left: {'; '.join(left)}")
        if await server.answers():
            raise DemoFailed(f"something still answers on port {server.port}")
        if live_jobs(self.place.state_dir):
            raise DemoFailed("the ledger still shows a live job")
        self.tell("An independent look at the process table finds 0 processes of this demo, and the port is silent.")


@dataclass
class _Front:
    """Shows a conversation, and remembers what the act needs (a corral.service.front.Front)."""

    printer: TextPrinter
    turn: TurnEnded | None = None
    report: Report | None = None
    over: str | None = None
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def show(self, event: Shown) -> None:
        if not isinstance(event, Notice):  # codex's advice on its sandbox, which the demo does not use
            self.printer.show(event)
        if isinstance(event, TurnEnded):
            self.turn = event
        elif isinstance(event, BackendEnded):
            self.report = event.report
        self.changed.set()

    async def ready(self) -> None:
        """A demo's output is short."""

    def idle(self) -> None:
        """What counts is told by events."""

    def closed(self, reason: str) -> None:
        self.over = reason
        self.changed.set()

    async def until(self, condition: Callable[[], object], what: str) -> None:
        """Wait for what is shown to make it true. Raises DemoFailed."""
        try:
            async with asyncio.timeout(TURN_TIMEOUT):
                while not condition():
                    if self.over is not None:
                        raise DemoFailed(self.over or "the conversation ended")
                    self.changed.clear()
                    await self.changed.wait()
        except TimeoutError:
            raise DemoFailed(f"{what} in {TURN_TIMEOUT:g} s") from None


async def stop_on_request(stage: Stage) -> None:
    """A turn leaves a server behind; /stop ends it all. Raises DemoFailed."""
    place, server = stage.place, Server.on_free_port(stage.place.python)
    front = _Front(stage.printer)
    async with OfflineModel(script(server)) as model:
        codex = place.codex(codex_overrides(model.base_url))
        own = InProcess(
            kinds=lambda *_: codex,
            user=place.user,
            state_dir=place.state_dir,
            cwd=place.workspace,
            env=place.env,
        )
        async with own.connector()(front) as seat:
            stage.typed(MESSAGE)
            seat.send(Input(MESSAGE))
            await front.until(lambda: front.turn, "the turn was not over")
            if front.turn is not None and front.turn.status != "completed":
                raise DemoFailed(f"the turn ended {front.turn.status}: {front.turn.reason}")
            await stage.show_alive(server)
            for job in live_jobs(place.state_dir):
                stage.printer.say(rich_block(processes.tree(job.tree)))
            stage.typed("/stop")
            seat.command("/stop")
            await front.until(lambda: front.report, "/stop ended nothing")
    assert front.report is not None
    await stage.show_empty(front.report, server)


async def kill_the_supervisor(stage: Stage) -> None:
    """The same under `corral run`, which is killed: its reaper ends the tree and reports. Raises DemoFailed."""
    place, server = stage.place, Server.on_free_port(stage.place.python)
    report_file = place.folder / "report.json"
    async with OfflineModel(script(server)) as model:
        codex = await SupervisedCodex.start(place, codex_overrides(model.base_url), report_file)
        try:
            stage.typed(MESSAGE)
            await codex.converse(place, MESSAGE, stage.printer)
            await stage.show_alive(server)
            for job in live_jobs(place.state_dir):
                stage.printer.say(rich_block(processes.tree(job.tree)))
            stage.typed(f"kill -KILL {codex.process.pid}    # corral run, the supervisor")
            await codex.kill()
            report = await _report(report_file)
        finally:
            await codex.close()
    stage.printer.show(BackendEnded(report))
    await stage.show_empty(report, server)


async def _report(file: Path) -> Report:
    try:
        async with asyncio.timeout(REPORT_TIMEOUT):
            while not file.exists():  # noqa: ASYNC110 - another process writes it, and sets no event here
                await asyncio.sleep(PAUSE)
    except TimeoutError:
        raise DemoFailed(f"the reaper wrote no report in {REPORT_TIMEOUT:g} s") from None
    # It is put in its place whole.
    return Report.from_json(json.loads(file.read_text()))
