"""How a turn is handed to an engine, and stopped with what it left running.

A function that finds the engine unusable returns why: what it will do is not known, and the next turn would be folded
into this one.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from corral.backends.engine_process import STATUS_TIMEOUT
from corral.backends.errors import BackendError, ConnectionEndedError, RefusedError
from corral.process import JobError, Process

if TYPE_CHECKING:
    from corral.backends.attachments import Message
    from corral.backends.backend import Choices
    from corral.backends.engine_process import EngineProcess
    from corral.backends.turn import Turn

log = logging.getLogger(__name__)

INTERRUPT_TIMEOUT = 5.0  # seconds for an engine to confirm that it stopped
INTERRUPT_PAUSE = 0.1  # seconds until a turn that did not end is interrupted again


async def hand_over(process: EngineProcess, turn: Turn, message: Message, choices: Choices) -> str:
    """Give the message to the engine; why the engine cannot be used any more, or ''."""
    try:
        await process.engine.begin(turn, message, choices)
    except RefusedError as error:
        turn.fail(str(error))
    except ConnectionEndedError as error:
        # The death of an engine ends the turn, with its status as the reason; one that lives on is stuck.
        if not await turn.ended(3 * STATUS_TIMEOUT):
            return str(error)
    except TimeoutError:
        return f"{process.name} did not take the message in time"
    except BackendError as error:
        return str(error)
    return ""


async def stop(process: EngineProcess, turn: Turn, before: Sequence[Process]) -> str:
    """Interrupt the turn, wait for its end, and end what it left running; why the engine cannot be used, or ''.

    `before`: the tree when the turn began.
    """
    if turn.engine_stops:
        await turn.ended(INTERRUPT_TIMEOUT)
    if not turn.over and not await _interrupt(process, turn):
        return f"{process.name} did not confirm the stop in {INTERRUPT_TIMEOUT:g} s"
    try:
        async with asyncio.timeout(INTERRUPT_TIMEOUT):
            await process.engine.stop_background_work(everything=False)
    except (BackendError, TimeoutError) as error:
        log.warning("%s did not clean up behind the turn: %s", process.name, error)
    await _end_what_it_started(process, before)
    return ""


async def stop_own_turn(process: EngineProcess) -> bool:
    """Stop a turn that the engine began itself; whether there was one."""
    if not process.engine.at_work:
        return False
    await process.bounded("interrupt", process.engine.interrupt(None), INTERRUPT_TIMEOUT)
    await process.bounded("cleaning", process.engine.stop_background_work(everything=False), INTERRUPT_TIMEOUT)
    return True


async def _interrupt(process: EngineProcess, turn: Turn) -> bool:
    """Interrupt the turn until it is over; False if the engine does not obey in time."""
    try:
        async with asyncio.timeout(INTERRUPT_TIMEOUT):
            while not turn.over:
                await process.engine.interrupt(turn)
                await turn.ended(INTERRUPT_PAUSE)
    except (BackendError, TimeoutError) as error:
        log.debug("%s was interrupted: %s", process.name, error)
        # The death of an engine ends the turn a moment later.
        return await turn.ended(3 * STATUS_TIMEOUT if isinstance(error, ConnectionEndedError) else 0)
    return True


async def _end_what_it_started(process: EngineProcess, before: Sequence[Process]) -> None:
    """End what the engine lost sight of: every process in a session of its own, made since the turn began.

    What an engine keeps, its MCP servers and helpers, shares the engine's session; commands have their own.
    """
    if not before:
        return  # the tree could not be seen when the turn began: old and new cannot be told apart
    processes = {one.identity for one in before}
    # The command leads a session of its own: it is spared even if the look had missed it.
    sessions = {process.job.pid, *(one.sid for one in before)}
    try:
        left = await process.job.end_part(lambda one: one.identity not in processes and one.sid not in sessions)
    except (JobError, OSError) as error:  # a TimeoutError too
        log.warning("what a turn left running could not be ended: %s", error)
        return
    if left:
        log.warning("%d processes outlived the turn that started them", len(left))
