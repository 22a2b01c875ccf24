"""Resource limits of a command, for it and for all that it starts: never for the reaper, nor for its calls of sudo.

They are set between fork and exec, soft and hard alike, so that nobody below can raise them again. sudo hands on what
it was started with, unless sudoers or PAM say otherwise.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Mapping

from corral.process.bare.errors import StartError

_KERNELS = {"data": "RLIMIT_DATA", "processes": "RLIMIT_NPROC", "open_files": "RLIMIT_NOFILE", "core": "RLIMIT_CORE"}
NAMES = tuple(_KERNELS)
"""`data`: bytes that each process may allocate; `processes`: how many processes and threads the account may have when
one of the tree starts another; `open_files`: descriptors of each process; `core`: bytes of a core dump."""
_MOST = 2**63 - 1


def check(limits: Mapping[str, object]) -> None:
    """Raise StartError of kind `limits` for what cannot be set, as far as this process can tell beforehand."""
    for name, value in limits.items():
        if name not in _KERNELS:
            raise StartError("limits", f"there is no limit named {name!r}: {', '.join(NAMES)} can be set")
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= _MOST:
            raise StartError("limits", f"the limit {name} cannot be {value!r}: it is a whole number, and not negative")
        hard = resource.getrlimit(getattr(resource, _KERNELS[name]))[1]
        if hard != resource.RLIM_INFINITY and value > hard and os.geteuid() != 0:
            raise StartError(
                "limits",
                f"the limit {name} cannot be {value}: this process may itself have no more than {hard} "
                f"({_KERNELS[name]}); ask for less, or raise that where the service is started",
            )


def apply(limits: Mapping[str, int]) -> None:
    """Set them for this process, and with it for all that it will start. Called between fork and exec.

    Raises OSError or ValueError where the kernel refuses.
    """
    if not limits:
        return
    for name, value in limits.items():
        resource.setrlimit(getattr(resource, _KERNELS[name]), (value, value))
