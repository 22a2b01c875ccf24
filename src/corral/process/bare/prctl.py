"""The two things that are asked of prctl(2). On hosts without it each answers False and changes nothing."""

from __future__ import annotations

import ctypes
import sys

_SET_NAME = 15
_SET_CHILD_SUBREAPER = 36
_GET_CHILD_SUBREAPER = 37


def set_child_subreaper(wanted: bool) -> bool:
    """Adopt every descendant that loses its parent, or no longer. Whether the kernel did it."""
    if sys.platform != "linux":
        return False
    return bool(ctypes.CDLL(None).prctl(_SET_CHILD_SUBREAPER, int(wanted), 0, 0, 0) == 0)


def is_child_subreaper() -> bool:
    """Whether this process adopts its descendants."""
    flag = ctypes.c_int(0)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_GET_CHILD_SUBREAPER, ctypes.byref(flag), 0, 0, 0)
    return bool(flag.value)


def set_name(name: str) -> None:
    """Call this thread something of up to 15 bytes in the process table."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_SET_NAME, name.encode(), 0, 0, 0)
