"""Stopping a tree and continuing it, without continuing what it had stopped itself."""

from __future__ import annotations

import os
import signal

from corral.process.bare.signals import Signaller
from corral.process.bare.table import Identity
from corral.process.bare.trackers import Tracker


class Suspension:
    """Which processes of a tree were stopped on request."""

    def __init__(self) -> None:
        self._stopped: set[Identity] = set()

    def stop(self, tracker: Tracker, signaller: Signaller) -> bool:
        """One round of STOP, from the root down: what is stopped starts nobody. Whether there was anything to stop."""
        running = [
            process
            for process in tracker.members()
            # One in state D stops when it returns.
            if not process.stopped and not (process.state == "D" and process.identity in self._stopped)
        ]
        self._stopped.update(process.identity for process in running)
        signaller.send(signal.SIGSTOP, running, outermost_first=True)
        return bool(running)

    def resume(self, tracker: Tracker, signaller: Signaller) -> bool:
        """One round of CONT to what `stop` stopped. Whether there was anything to continue.

        What runs below sudo comes first: a sudo that finds its command stopped stops itself, and is continued again.
        """
        stopped = [process for process in tracker.members() if process.stopped and process.identity in self._stopped]
        signaller.send(signal.SIGCONT, [process for process in stopped if process.uid != os.getuid()])
        signaller.send(signal.SIGCONT, [process for process in stopped if process.uid == os.getuid()])
        return bool(stopped)
