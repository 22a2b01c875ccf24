"""Ending a part of a tree while the rest of it lives on: from the supervisor's side, by scan, and so without proof."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable

from corral.process.bare import procfs, signals
from corral.process.bare.errors import JobError, describe
from corral.process.bare.table import Identity, Process, account_uid

_PAUSE_FIRST, _PAUSE_LAST = 0.01, 0.1  # seconds between two looks


def end_part(
    reaper: Identity, user: str, choose: Callable[[Process], bool], *, grace: float, kill: float
) -> list[Process]:
    """End the living below a reaper that `choose` picks: TERM at once, KILL after `grace` seconds; who is left after.

    It takes `grace` + `kill` seconds at the most, beyond a call of sudo that hangs. What forks faster than the looks
    follow can escape it; the end of the whole job does not let it go. Where the reaper has gone, nothing is found.
    Raises JobError if the tree could not be looked at (no descriptors were left).
    """
    signaller = signals.Signaller(procfs, person=account_uid(user))
    began = time.monotonic()
    killed = False
    pause = _PAUSE_FIRST
    asked: set[Identity] = set()
    while True:
        now = time.monotonic() - began
        try:
            left = [process for process in procfs.tree_of(reaper) if choose(process)]
        except OSError as error:
            if now >= grace + kill:
                raise JobError(f"the tree could not be looked at: {describe(error)}") from error
            time.sleep(_PAUSE_LAST)
            continue
        # A call of sudo can take all the time there is: nobody is given up without a KILL.
        if not left or (now >= grace + kill and killed):
            return left
        spared = signals.spare_sudo(left)
        if now >= grace:
            signaller.send(signal.SIGKILL, spared)
            killed = True
        elif new := [process for process in spared if process.identity not in asked]:
            asked.update(process.identity for process in new)
            signaller.send(signal.SIGTERM, new)
            signaller.send(signal.SIGCONT, [process for process in new if process.stopped])
        time.sleep(pause)
        pause = min(pause * 1.5, _PAUSE_LAST)
