"""The state of a job as its supervisor knows it: one value, and what may follow it.

    Starting ──► Running ──► Ending ──► Ended
        │                      ▲
        ├──────────────────────┘   ended before its command ran, or refused by its reaper
        └──► Failed                no reaper was ever there

Callers that wait for a step await `started`, `ending`, `exited` or `reported`. Only the transitions here set them.
"""

from __future__ import annotations

import asyncio
import signal
from dataclasses import dataclass, replace

from corral.process.bare.errors import StartError
from corral.process.bare.report import Report
from corral.process.bare.table import Identity


@dataclass(frozen=True, slots=True)
class Starting:
    """Nothing is known of the command yet."""

    grace: float | None = None
    """The grace of an end that was requested before there was a reaper to send it to; the shortest, of several."""


@dataclass(frozen=True, slots=True)
class Running:
    """The command runs, or its reaper has not said yet that the ending begins."""

    command: Identity | None
    """Until the reaper has collected it: from then on its pid can be another process's."""


@dataclass(frozen=True, slots=True)
class Ending:
    """The tree is being ended: by its reaper, or by this process if the reaper was killed."""

    command: Identity | None = None


@dataclass(frozen=True, slots=True)
class Ended:
    """The ending is over. Survivors, if the report names any, are still held, and killed as soon as they can be."""

    report: Report


@dataclass(frozen=True, slots=True)
class Failed:
    """There was no reaper to start anything."""

    error: BaseException


State = Starting | Running | Ending | Ended | Failed


class Lifecycle:
    """The owner of the state. Its methods are the transitions; one that comes too late changes nothing."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.state: State = Starting()
        self.started: asyncio.Future[None] = loop.create_future()
        self.ending = asyncio.Event()
        self.exited: asyncio.Future[int] = loop.create_future()
        """The command's status, or -N if signal N ended it."""
        self.reported: asyncio.Future[Report] = loop.create_future()

    @property
    def is_over(self) -> bool:
        return self.reported.done()

    @property
    def command(self) -> Identity | None:
        """The command, while its pid is surely its own."""
        return self.state.command if isinstance(self.state, (Running, Ending)) else None

    def end_later(self, grace: float) -> None:
        """An end was requested, and there is no reaper yet."""
        if isinstance(self.state, Starting):
            before = self.state.grace
            self.state = Starting(grace if before is None else min(grace, before))
            self.ending.set()

    def run(self, command: Identity) -> None:
        """The command runs."""
        if isinstance(self.state, Starting):
            self.state = Running(command)
        elif isinstance(self.state, Ending):
            self.state = Ending(command)
        if not self.started.done():
            self.started.set_result(None)

    def refuse(self, error: StartError) -> None:
        """The reaper could not start the command, and ends what it had begun."""
        self.begin_ending()
        if not self.started.done():
            self.started.set_exception(error)

    def exit(self, status: int) -> None:
        """The command has exited."""
        if isinstance(self.state, (Running, Ending)):
            self.state = replace(self.state, command=None)
        if not self.exited.done():
            self.exited.set_result(status)

    def begin_ending(self) -> None:
        """The end was requested of the reaper, or has begun."""
        if isinstance(self.state, (Starting, Running)):
            self.state = Ending(self.command)
        self.ending.set()

    def end(self, report: Report) -> None:
        """The ending is over. A status that nobody has told by now was lost with the reaper: it counts as KILL's."""
        if isinstance(self.state, (Ended, Failed)):
            return
        self.begin_ending()
        self.state = Ended(report)
        if not self.started.done():
            why = "; ".join(report.notes) or "no reason is known"
            self.started.set_exception(StartError("internal", f"the command could not be held: {why}"))
        if not self.exited.done():
            self.exited.set_result(-signal.SIGKILL)
        self.reported.set_result(report)

    def fail(self, error: BaseException) -> None:
        """The start failed. Callers that wait already are told."""
        if not isinstance(self.state, Ended):
            self.state = Failed(error)
        self.ending.set()
        if isinstance(error, StartError) and error.report is not None and not self.reported.done():
            self.reported.set_result(error.report)
        failure = error if isinstance(error, Exception) else StartError("interrupted", "the event loop was closed")
        for awaited in (self.reported, self.exited):
            if not awaited.done():
                awaited.set_exception(failure)
                awaited.exception()
