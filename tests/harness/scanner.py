"""A program that cannot be started for a while: a scanner of files (fanotify) that does not answer, as a real one does.

The process that executes it waits in the kernel, in state D, in execve(2) itself. KILL ends it; nothing else does.
"""

import ctypes
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.harness.waiting import wait_until

FAN_CLOEXEC, FAN_NONBLOCK, FAN_CLASS_CONTENT = 0x1, 0x2, 0x4
FAN_MARK_ADD = 0x1
FAN_OPEN_EXEC_PERM = 0x00040000
EVENT = struct.Struct("=IBBHQii")
AT_FDCWD = -100

_libc = ctypes.CDLL(None, use_errno=True)


class NoScannerError(Exception):
    """This machine gives none, and why."""


@dataclass
class Scanner:
    """Holds whoever executes one program."""

    descriptor: int

    def holds(self) -> int:
        """Wait until a process executes the program, and return its pid. It is held until the scanner goes away."""
        return wait_until(self._event, 20, "a process executed the program")

    def _event(self) -> int:
        try:
            data = os.read(self.descriptor, 4096)
        except BlockingIOError:
            return 0
        _length, _version, _reserved, _metadata, _mask, file, pid = EVENT.unpack(data[: EVENT.size])
        os.close(file)
        return int(pid)


@contextmanager
def scanner(program: Path) -> Iterator[Scanner]:
    """A scanner that does not answer for this program, as root. Closing it lets everybody go on. NoScannerError."""
    flags = FAN_CLASS_CONTENT | FAN_CLOEXEC | FAN_NONBLOCK
    descriptor = _libc.fanotify_init(flags, os.O_RDONLY | os.O_CLOEXEC)
    if descriptor < 0:
        raise NoScannerError(f"the kernel gives no fanotify ({os.strerror(ctypes.get_errno())})")
    try:
        mask = ctypes.c_uint64(FAN_OPEN_EXEC_PERM)
        if _libc.fanotify_mark(descriptor, FAN_MARK_ADD, mask, AT_FDCWD, str(program).encode()) != 0:
            raise NoScannerError(f"the kernel holds no exec ({os.strerror(ctypes.get_errno())})")
        yield Scanner(descriptor)
    finally:
        os.close(descriptor)
