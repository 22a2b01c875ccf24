"""What wakes the reaper: its lifeline, its supervisor's death, signals, and the answers that it waits for."""

from __future__ import annotations

import os
import select
import signal
import sys
import time
from collections.abc import Callable

from corral.process.bare.lifeline import ReaperEnd
from corral.process.bare.typed import Any

_POLL_REFUSED_PAUSE = 0.02


class Events:
    """One wait for all of it, in one thread. The callbacks are called from `wait`; on_term from a signal handler.

    Nothing that happens on the lifeline raises; what a callback raises passes through.
    """

    def __init__(
        self,
        wire: ReaperEnd,
        *,
        on_message: Callable[[dict[str, Any]], None],
        on_lost: Callable[[], None],
        on_term: Callable[[], None],
    ) -> None:
        """on_lost: the lifeline has closed, or the supervisor has died; it can be called for both."""
        self.ignored: list[int] = []
        """The signals that the supervisor ignored (nohup)."""
        self._wire = wire
        self._on_message = on_message
        self._on_lost = on_lost
        self._on_term = on_term
        self._poll = select.poll()
        self._wake = -1
        self._supervisor: int | None = None
        """A pidfd of the supervisor."""

    def listen(self) -> None:
        """Turn signals and the lifeline into something to poll for."""
        # A supervisor with threads that wait for signals has them blocked, and a mask is inherited.
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        reading, writing = os.pipe()
        for descriptor in (reading, writing):
            os.set_blocking(descriptor, False)
        self._wake = reading
        signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, _nothing)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            if signal.signal(number, lambda _number, _frame: self._on_term()) is signal.SIG_IGN:
                self.ignored.append(number)
        self._poll.register(reading, select.POLLIN)
        self._poll.register(self._wire.descriptor, select.POLLIN)

    def watch_supervisor(self, pid: int) -> None:
        """Hear of the supervisor's death from here on, where the kernel has pidfds.

        A fork of the supervisor's that did not exec holds the other end of the lifeline open.
        """
        try:
            self._supervisor = os.pidfd_open(pid) if sys.platform == "linux" else None
        except OSError:
            return
        if self._supervisor is not None:
            self._poll.register(self._supervisor, select.POLLIN)

    def wait(self, seconds: float, descriptor: int = -1) -> bool:
        """Wait for news, this long at the most, and take in what there is. Whether `descriptor` can be read."""
        ready = False
        if descriptor >= 0:
            self._poll.register(descriptor, select.POLLIN)
        try:
            events = self._poll.poll(max(0.0, seconds) * 1000)
        except OSError:
            events = self._select(seconds, descriptor)
        finally:
            if descriptor >= 0:
                self._poll.unregister(descriptor)
        for number, _ in events:
            if number == descriptor:
                ready = True
            elif number == self._wake:
                _drain(number)
            elif number == self._wire.descriptor:
                self.take_messages()
            elif number == self._supervisor:
                self._poll.unregister(number)
                os.close(number)
                self._supervisor = None
                self._on_lost()
        return ready

    def take_messages(self) -> None:
        """Take in what the supervisor has sent."""
        for message in self._wire.receive():
            self._on_message(message)
        if self._wire.closed:
            self._poll.unregister(self._wire.descriptor)
            self._on_lost()

    def _select(self, seconds: float, descriptor: int) -> list[tuple[int, int]]:
        """Wait as poll does, which fails with EINVAL where the limit is lower than the number of its descriptors."""
        watched = [self._wake, descriptor, -1 if self._supervisor is None else self._supervisor]
        if not self._wire.closed:
            watched.append(self._wire.descriptor)
        try:
            ready, _, _ = select.select([one for one in watched if one >= 0], [], [], max(0.0, seconds))
        except (OSError, ValueError):
            time.sleep(min(max(0.0, seconds), _POLL_REFUSED_PAUSE))
            return []
        return [(number, select.POLLIN) for number in ready]


def _drain(descriptor: int) -> None:
    try:
        while os.read(descriptor, 4096):
            pass
    except BlockingIOError:
        pass


def _nothing(_number: int, _frame: object) -> None:
    """A handler, so that the signal interrupts poll through the wake-up pipe."""
