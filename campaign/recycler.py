"""Pids that are used again at the worst moment.

When a member of the tree has died, the next process of the namespace is given its pid: a stranger's, as a rule, since
they fork all the time. And Corral's own processes are held up for some milliseconds again and again, as a busy machine
does, so that much can happen between two reads of theirs.
"""

import os
import random
import select
import signal
import time
from typing import NoReturn

from campaign.observer import Observer, lives
from tests.harness import truth
from tests.harness.truth import Identity, Seen

LOOK_EVERY = 0.01
TICKS = os.sysconf("SC_CLK_TCK")
LAST_PID = "/proc/sys/kernel/ns_last_pid"


def recycle(observer: Observer, supervisor: Identity, stop: str, dice: random.Random) -> NoReturn:
    """Go on, as root, until the file `stop` is there."""
    last = os.open(LAST_PID, os.O_WRONLY)
    known: dict[int, int] = {}
    held: list[Seen] = []
    corral: list[Seen] = []
    turns_at = next_look = 0.0
    while not os.path.exists(stop):  # noqa: PTH110
        now = time.monotonic()
        if now >= next_look:
            look = observer.look()
            known.update((one.pid, one.start_time) for one in look.tree)
            sweeps = [one for one in look.others if one.parent == 1 and one.session == one.pid and 0 not in one.uids]
            corral = [*look.reapers, *sweeps, *filter(None, [lives(supervisor)])]
            next_look = now + LOOK_EVERY
        if now >= turns_at:
            held = _release(held) if held else _hold(corral)
            turns_at = now + dice.random() * (0.012 if held else 0.004)
        # Not within one tick of the clock: pid and start time are all that tells two processes apart.
        tick = int(time.clock_gettime(time.CLOCK_BOOTTIME) * TICKS)
        for pid in [pid for pid, start in known.items() if start < tick and not _exists(pid)]:
            del known[pid]
            os.pwrite(last, str(pid - 1).encode(), 0)
            select.select([], [], [], 0.0003)
        select.select([], [], [], 0.0003)
    _release(held)
    os._exit(0)


def _hold(whom: list[Seen]) -> list[Seen]:
    return [one for one in whom if truth.kill(one, signal.SIGSTOP)]


def _release(held: list[Seen]) -> list[Seen]:
    for one in held:
        truth.kill(one, signal.SIGCONT)
    return []


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
