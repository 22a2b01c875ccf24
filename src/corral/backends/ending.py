"""How a backend is ended: the engine's goodbye, the end of its input, and the job's own ending."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from corral.backends.events import BackendEnded, Step, StepName, TurnEnded

if TYPE_CHECKING:
    from corral.backends.engine_process import EngineProcess
    from corral.backends.turn import Turn

log = logging.getLogger(__name__)


async def end(process: EngineProcess, turn: Turn | None, goodbye: float) -> BackendEnded:
    """End the engine and all that it started; bounded by `goodbye` seconds and by the job's own ladder.

    `turn`: the turn that runs, or the last one.
    """
    ladder = _Ladder()
    if process.job.returncode is not None:
        ladder.done("death")
    else:
        try:
            await _say_goodbye(process, turn, goodbye, ladder)
        except Exception:  # whatever goes wrong in a goodbye, the tree must be ended
            log.exception("the goodbye to %s failed", process.name)
    process.close_input()
    report = await process.job.end()
    ladder.done("signals")
    return BackendEnded(report, tuple(ladder.steps))


async def _say_goodbye(process: EngineProcess, turn: Turn | None, seconds: float, ladder: _Ladder) -> None:
    deadline = time.monotonic() + seconds
    engine = process.engine
    if turn is not None and not turn.over:
        turn.stop(TurnEnded("interrupted", "the backend was ended"))
        await process.bounded("interrupt at the goodbye", engine.interrupt(turn), seconds / 3)
    elif engine.at_work:
        await process.bounded("interrupt at the goodbye", engine.interrupt(None), seconds / 3)
    await process.bounded("cleaning at the goodbye", engine.stop_background_work(everything=True), seconds / 3)
    ladder.done("goodbye")
    process.close_input()
    await process.bounded("exit at the goodbye", process.job.wait(), deadline - time.monotonic())
    ladder.done("end_of_input")


class _Ladder:
    """The steps that were taken, with their times."""

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self._since = time.monotonic()

    def done(self, name: StepName) -> None:
        """A step is over."""
        now = time.monotonic()
        self.steps.append(Step(name, round(now - self._since, 3)))
        self._since = now
