"""Starting an engine once, just as the service starts it, and ending it with a report."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from corral.backends.errors import BackendError
from corral.process import JobError, Report, StartError
from corral.service.conversation_ref import ConversationRef
from corral.service.starting import Starter, configured_kind

if TYPE_CHECKING:
    from asyncio import StreamReader

    from corral.backends.launch import Launch
    from corral.config import Config, Person
    from corral.install.programs import Program

SECONDS = 20.0
"""For one program to say what it was asked."""

_MOST_WORDS = 1 << 16


@dataclass(frozen=True, slots=True)
class Attempt:
    """How it went."""

    status: int | None
    """The program's own; None if it was not started, or gave no answer in time."""
    out: str = ""
    err: str = ""
    refusal: str = ""
    """Why it was not started."""
    report: Report | None = None
    """What was proven of its end."""
    notices: tuple[str, ...] = ()
    """What a person would be told in the first turn."""

    @property
    def words(self) -> str:
        """What it said, on both streams."""
        return f"{self.out}\n{self.err}".strip()


def attempt(
    config: Config, person: Person, program: Program, arguments: Sequence[str], seconds: float = SECONDS
) -> Attempt:
    """Run an engine for a person with other arguments: account, environment, folder and limits are the service's.

    Nothing is written to the service's state, and whatever is left is ended. Bounded; a refusal is an answer.
    """
    with tempfile.TemporaryDirectory(prefix="corral-doctor-") as folder:
        apart = config.model_copy(update={"service": config.service.model_copy(update={"state_dir": Path(folder)})})
        starter = Starter(lambda: apart, configured_kind)
        try:
            launch = starter.launch(apart, person, ConversationRef(person.name, program.engine, ""))
            cwd = launch.folder() if program.starts_in_workspace else None
            return asyncio.run(_attempt(launch, [*program.command, *arguments], cwd, seconds))
        except (BackendError, JobError) as error:
            return Attempt(None, refusal=str(error))


async def _attempt(launch: Launch, argv: Sequence[str], cwd: str | None, seconds: float) -> Attempt:
    try:
        job = await launch.start(argv, cwd, "corral doctor")
    except StartError as error:
        return Attempt(None, refusal=str(error), notices=tuple(launch.notices))
    async with job:
        assert job.stdin is not None
        assert job.stdout is not None
        assert job.stderr is not None
        job.stdin.close()
        out, err = bytearray(), bytearray()
        status = None
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await asyncio.gather(_read(job.stdout, out), _read(job.stderr, err))
                status = await job.wait()
        report = await job.end()
    said = (out.decode("utf-8", "replace"), err.decode("utf-8", "replace"))
    return Attempt(status, *said, report=report, notices=(*launch.notices, *job.notices))


async def _read(stream: StreamReader, into: bytearray) -> None:
    """Read to the end; what is beyond the most that anybody says in a line or two is dropped."""
    while chunk := await stream.read(4096):
        into += chunk[: max(0, _MOST_WORDS - len(into))]
