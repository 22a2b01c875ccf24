"""A reaper as its supervisor has it: the process, its lifeline, and the news that it is gone."""

from __future__ import annotations

import asyncio
import fcntl
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from corral.process.bare import lifeline
from corral.process.bare.environment import BARE_NAMES
from corral.process.bare.errors import StartError
from corral.process.bare.host import host_table
from corral.process.bare.table import UNKNOWN, Identity

NOT_STARTED = "the reaper could not be started"

Stdio = tuple[int | None, int | None, int | None]
"""Standard input, output and error, each as `subprocess.Popen` takes it."""

_BOOT = os.path.join(os.path.dirname(__file__), "bare", "boot.py")
_EXIT_WITHIN = 5.0
"""Seconds between the end of the lifeline and the reaper's exit, after which it is taken for killed."""


class ReaperProcess:
    """One reaper. It belongs to the event loop that it was connected in.

    Two things tell that it is gone: the lifeline's end, and a pidfd where the kernel has them. A child of the reaper's
    that hangs between fork and exec holds its end of the lifeline open, but not its pidfd.
    """

    def __init__(self, stdio: Stdio) -> None:
        """Start it. Raises StartError or OSError, with nothing left."""
        own, theirs = _lifeline()
        try:
            self.process = _start(theirs.fileno(), stdio)
        except BaseException:
            own.close()
            raise
        finally:
            theirs.close()
        self.wire: Wire | None = None
        self._end = own
        self._pidfd: int | None = None
        self._watchdog: asyncio.TimerHandle | None = None
        self._is_going = False
        self._waited = 0.0
        self._on_gone: Callable[[], None] = lambda: None

    @property
    def pid(self) -> int:
        return self.process.pid

    async def connect(self, on_message: Callable[[dict[str, Any]], None], on_gone: Callable[[], None]) -> Identity:
        """Hear it from now on: its messages, and at last, once, that it has been collected. Its identity.

        on_gone is called as well for one that closes its lifeline and does not exit. Raises OSError, and ends the
        reaper, which has nothing yet, by closing the lifeline.
        """
        self._on_gone = on_gone
        loop = asyncio.get_running_loop()
        try:
            # Nobody has waited for it: the pid is surely its own.
            identity = (self.pid, host_table().start_time(self.pid) or UNKNOWN)
            _, self.wire = await loop.create_connection(lambda: Wire(on_message, self._go), sock=self._end)
        except BaseException:
            self._end.close()
            raise
        self._pidfd = _open_pidfd(self.pid)
        if self._pidfd is not None:
            loop.add_reader(self._pidfd, self._go)
        return identity

    def send(self, message: dict[str, Any]) -> None:
        """Send a message; one to a reaper that is gone is dropped."""
        if self.wire is not None:
            self.wire.send(message)

    def kill_after(self, seconds: float) -> None:
        """A reaper that was stopped would neither report nor let go: give it its time, then kill it. Once."""
        if self._watchdog is None:
            self._watchdog = asyncio.get_running_loop().call_later(seconds, self.process.kill)

    def spare(self) -> None:
        """Never mind `kill_after`: it has reported."""
        if self._watchdog is not None:
            self._watchdog.cancel()
            self._watchdog = None

    def _go(self) -> None:
        if self._is_going:
            return
        self._is_going = True
        if self._pidfd is not None:
            asyncio.get_running_loop().remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = None
        if self.wire is not None:
            self.wire.read_rest()
        self._collect()

    def _collect(self) -> None:
        if self.process.poll() is None and self._waited < _EXIT_WITHIN:
            # Its end of the lifeline closes a moment before it can be waited for.
            pause = max(0.0005, min(self._waited, 0.05))
            self._waited += pause
            asyncio.get_running_loop().call_later(pause, self._collect)
            return
        self._on_gone()


class Wire(asyncio.Protocol):
    """The supervisor's end of the lifeline."""

    def __init__(self, on_message: Callable[[dict[str, Any]], None], on_closed: Callable[[], None]) -> None:
        self.transport: asyncio.WriteTransport | None = None
        self._on_message = on_message
        self._on_closed = on_closed
        self._decoder = lifeline.Decoder()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        for message in self._decoder.feed(data):
            if isinstance(message, dict):
                self._on_message(message)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the protocol's own
        self.transport = None
        self._on_closed()

    def send(self, message: dict[str, Any]) -> None:
        transport = self.transport
        if transport is None:
            return
        data = lifeline.encode(message)
        if not transport.get_write_buffer_size():
            # Not by the transport, as long as the kernel takes it: a write that failed, because the reaper has just
            # gone, would make the transport throw its last report away unread.
            try:
                data = data[os.write(transport.get_extra_info("socket").fileno(), data) :]
            except BlockingIOError:
                pass
            except OSError:
                return
        if data:
            transport.write(data)

    def read_rest(self) -> None:
        """Take in the last words of a reaper that is dead, and close: another process may hold its end open."""
        transport, self.transport = self.transport, None
        if transport is None:
            return
        descriptor = transport.get_extra_info("socket").fileno()
        try:
            while data := os.read(descriptor, 65536):
                self.data_received(data)
        except OSError:
            pass  # There is nothing more to read.
        transport.abort()


def _open_pidfd(pid: int) -> int | None:
    """None where there is none to be had: then the lifeline has to do."""
    try:
        return os.pidfd_open(pid) if sys.platform == "linux" else None
    except OSError:
        return None


def _lifeline() -> tuple[socket.socket, socket.socket]:
    try:
        own, theirs = (_above_the_streams(end) for end in socket.socketpair())
    except OSError as error:
        raise StartError("fork", f"{NOT_STARTED} ({error.strerror}): close some files, or raise the limit") from error
    own.setblocking(False)
    return own, theirs


def _above_the_streams(end: socket.socket) -> socket.socket:
    # Where the caller has closed its standard streams, a new socket would get the number of one of them.
    if end.fileno() > 2:
        return end
    above = fcntl.fcntl(end.fileno(), fcntl.F_DUPFD_CLOEXEC, 3)
    end.close()
    return socket.socket(fileno=above)


def _start(descriptor: int, stdio: Stdio) -> subprocess.Popen[bytes]:
    stdin, stdout, stderr = stdio
    if not sys.executable:
        raise StartError("internal", "this Python does not know its own interpreter (sys.executable is empty)")
    try:
        return subprocess.Popen(
            [sys.executable, "-I", "-S", _BOOT, str(descriptor)],
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            bufsize=0,
            pass_fds=[descriptor],
            start_new_session=True,
            env={name: os.environ[name] for name in BARE_NAMES if name in os.environ},
            cwd="/",
        )
    except OSError as error:
        raise StartError("fork", f"{NOT_STARTED} ({error.strerror}): end some processes, or raise the limit") from error
