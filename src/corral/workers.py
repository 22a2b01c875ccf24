"""Threads for calls that may hang: a file system, a directory service, a call of sudo. Bounded in number and in time.

The event loop's default executor is not used for them. Its threads are few and shared by everything, so that eight hung
calls stop all other work, and the interpreter waits at its exit until each of them returns.
"""

from __future__ import annotations

import asyncio
import errno
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Generic, NamedTuple, TypeVar

T = TypeVar("T")

PATIENCE = 0.25  # seconds that a call waits for one of the usual threads, before another one is started for it


class NoThreadError(OSError):
    """No thread can be started: the account, or the service, is at its limit of processes."""

    def __init__(self) -> None:
        super().__init__(errno.EAGAIN, "the host refuses another thread: end some processes, or raise the limit")

    def __str__(self) -> str:
        return str(self.strerror)


class Workers:
    """Daemon threads under one name. They start when there is work, and end when there is none."""

    def __init__(self, name: str, *, usual: int, most: int) -> None:
        """`usual`: threads at once while nothing hangs. `most`: those that hang included."""
        self._name = name
        self._usual = usual
        self._most = most
        self._lock = threading.Lock()
        self._waiting: deque[_Call[Any]] = deque()
        self._threads = 0

    async def run(self, call: Callable[[], T], timeout: float) -> T:
        """Make the call in a thread, and return or raise what it does.

        Raises TimeoutError after `timeout` seconds: a call that has not started by then never does, and the result of
        one that has is dropped. NoThreadError if no thread can be started. Cancelling the caller leaves the call alone.
        """
        loop = asyncio.get_running_loop()
        one = _Call(call, loop, loop.create_future())
        with self._lock:
            self._waiting.append(one)
        self._start_thread(self._usual)
        done, _ = await asyncio.wait([one.outcome], timeout=min(PATIENCE, timeout))
        if not done:
            self._start_thread(self._most)
            done, _ = await asyncio.wait([one.outcome], timeout=max(timeout - PATIENCE, 0))
        if not done:
            with self._lock, suppress(ValueError):
                self._waiting.remove(one)
            raise TimeoutError(f"{self._name}: no result in {timeout:g} s")
        result, error = one.outcome.result()
        if error is not None:
            raise error
        return result  # type: ignore[return-value]  # without an error there is a result

    def _start_thread(self, most: int) -> None:
        with self._lock:
            if not self._waiting or self._threads >= most:
                return
            self._threads += 1
        try:
            # A daemon: the interpreter must not wait at its exit for a call that hangs.
            threading.Thread(target=self._work, name=self._name, daemon=True).start()
        except RuntimeError as error:  # the account's limit of processes
            with self._lock:
                self._threads -= 1
                if self._threads:
                    return  # the threads that run take it
                self._waiting.clear()
            raise NoThreadError from error

    def _work(self) -> None:
        while True:
            with self._lock:
                if not self._waiting:
                    self._threads -= 1
                    return
                one = self._waiting.popleft()
            one.make()


class _Call(NamedTuple, Generic[T]):
    """One call, and where its result goes."""

    call: Callable[[], T]
    loop: asyncio.AbstractEventLoop
    outcome: asyncio.Future[tuple[T | None, BaseException | None]]

    def make(self) -> None:
        outcome: tuple[T | None, BaseException | None]
        try:
            outcome = (self.call(), None)
        except BaseException as error:  # noqa: BLE001 - whatever it is, the caller gets it
            outcome = (None, error)
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self.loop.call_soon_threadsafe(self._tell, outcome)

    def _tell(self, outcome: tuple[T | None, BaseException | None]) -> None:
        if not self.outcome.done():
            self.outcome.set_result(outcome)
