"""The process of one engine: its job, its wire, its error output, and how it ended."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Sequence
from typing import TYPE_CHECKING

from corral.backends.errors import BackendError, ConnectionEndedError, LookError, ResumeError
from corral.backends.events import BackendStarted
from corral.backends.stderr import ErrorOutput
from corral.workers import Workers

if TYPE_CHECKING:
    from corral.backends.engine import EngineKind, Host, Opening
    from corral.process import Job, Process

log = logging.getLogger(__name__)

OPEN_TIMEOUT = 60.0  # seconds until an engine that was started must be ready
STATUS_TIMEOUT = 2.0  # seconds between the end of the engine's output and its status, and the other way round
LOOK_TIMEOUT = 5.0  # seconds for a look at the process table
# Looks at the process table take as long as the trees are large, and a hundred backends may want one at once: they are
# taken beside the event loop, one at a time while none hangs.
LOOKING = Workers("corral-look", usual=1, most=8)


class EngineProcess:
    """An engine that was started. Its owner runs `read` and `stderr.run` as tasks."""

    def __init__(self, kind: EngineKind, job: Job, host: Host) -> None:
        assert job.stdin is not None, "the job was started with pipes"
        assert job.stdout is not None, "the job was started with pipes"
        assert job.stderr is not None, "the job was started with pipes"
        self.name = kind.name
        self.job = job
        self.engine = kind.connect(job.stdout, job.stdin, host)
        self.stderr = ErrorOutput(job.stderr)
        self._kind = kind
        self._stdin = job.stdin
        self._own_sessions: set[int] = set()
        """The sessions of the engine itself."""

    async def open(self, opening: Opening) -> BackendStarted:
        """Open the conversation. Raises BackendError, ResumeError."""
        try:
            async with asyncio.timeout(OPEN_TIMEOUT):
                opened = await self.engine.open(opening)
        except ConnectionEndedError as error:
            unknown = self._kind.is_unknown_conversation(opening, self.stderr.last_words)
            fault = ResumeError if unknown else BackendError
            raise fault(self.with_last_words(f"{self.name} did not start: {error}")) from error
        except TimeoutError as error:
            raise BackendError(self.with_last_words(f"{self.name} was not ready in {OPEN_TIMEOUT:g} s")) from error
        self._own_sessions = {self.job.pid, *(process.sid for process in await self.look_if_possible())}
        resumed = opening.conversation is not None
        return BackendStarted(self.name, self.job.pid, self.job.user, opened.conversation, opened.model, resumed)

    async def read(self) -> str:
        """Read what the engine writes until it ends; how it ended, for a sentence that begins with its name."""
        reading = asyncio.get_running_loop().create_task(self.engine.read())
        exiting = asyncio.get_running_loop().create_task(self.job.wait())
        try:
            await asyncio.wait([reading, exiting], return_when=asyncio.FIRST_COMPLETED)
            # The one follows the other soon; what the engine wrote before it died still counts.
            await asyncio.wait([reading, exiting], timeout=STATUS_TIMEOUT)
        finally:
            died = exiting.done() and not exiting.cancelled()
            how = f"ended with status {exiting.result()}" if died else "ended its output"
            for task in (reading, exiting):
                task.cancel()
            results = await asyncio.gather(reading, exiting, return_exceptions=True)
            self.engine.close()
        if isinstance(results[0], Exception):
            log.error("reading %s failed", self.name, exc_info=results[0])
            how = f"could not be read: {results[0]!r}"
        return how

    def with_last_words(self, reason: str) -> str:
        """The reason, and what the engine wrote last to its error output."""
        last = self.stderr.last_words
        return f"{reason}; it said last: {last}" if last else reason

    def close_input(self) -> None:
        """End its input."""
        self._stdin.close()

    async def bounded(self, what: str, work: Awaitable[object], seconds: float) -> None:
        """Do what an engine may refuse or leave undone, for `seconds` at the most."""
        try:
            async with asyncio.timeout(max(seconds, 0)):
                await work
        except (BackendError, TimeoutError) as error:
            log.debug("%s, %s: %r", self.name, what, error)

    # Its processes.

    async def look(self) -> Sequence[Process]:
        """The tree now. Raises LookError."""
        try:
            return await LOOKING.run(self.job.tree, LOOK_TIMEOUT)
        except OSError as error:  # a TimeoutError too
            raise LookError(f"the processes of {self.name} could not be looked at: {error}") from error

    async def look_if_possible(self) -> Sequence[Process]:
        """The tree now; empty where it cannot be looked at."""
        try:
            return await self.look()
        except LookError as error:
            log.warning("%s", error)
            return ()

    async def background(self) -> list[Process]:
        """What the agent left running. Raises LookError."""
        # What an engine keeps, its MCP servers and helpers, shares the engine's session; commands have their own.
        seen = [process for process in await self.look() if process.readable and process.living]
        return [process for process in seen if process.sid not in self._own_sessions]
