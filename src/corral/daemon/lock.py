"""One service to a state folder: the kernel's lock on a file, released however the service dies."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

FILE = "serve.lock"


class TakenError(Exception):
    """Another service has this state folder."""


def take(state_dir: Path) -> int:
    """Lock the folder for as long as this process lives; the descriptor. Raises TakenError, OSError."""
    state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(state_dir / FILE, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        other = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip()
        os.close(descriptor)
        raise TakenError(
            f"{state_dir} is in use by another service (pid {other}): stop that, or give this one another state_dir"
        ) from None
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    return descriptor
