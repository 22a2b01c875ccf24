"""Who is at the other end of a Unix socket, by the kernel's word, and for whom they may speak."""

from __future__ import annotations

import os
import pwd
import socket
import struct
from collections.abc import Mapping
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from corral.config import Config

_UCRED = struct.Struct("3i")  # Linux, SO_PEERCRED: pid, uid, gid
_XUCRED = struct.Struct("2i")  # macOS, LOCAL_PEERCRED: version, uid, …
_XUCRED_BYTES = 76
_SOL_LOCAL, _LOCAL_PEERCRED = 0, 1

Speakers: TypeAlias = Mapping[int, tuple[str, ...]]
"""The people for whom each account (by its number) may speak. An account that is not in it may speak for nobody."""


def peer_uid(connection: socket.socket) -> int:
    """The account of whoever connected, as it was at that moment. Raises OSError."""
    if hasattr(socket, "SO_PEERCRED"):
        _, uid, _ = _UCRED.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    else:
        _, uid = _XUCRED.unpack_from(connection.getsockopt(_SOL_LOCAL, _LOCAL_PEERCRED, _XUCRED_BYTES))
    return int(uid)


def speakers(config: Config) -> Speakers:
    """Look up for whom each account may speak. May block on a directory service: not for the event loop.

    The service's account and root may speak for all, others for their own. A person without an account of their own is
    the service's account's alone: whoever else could speak for them would run commands as the service.
    """
    of_account: dict[int, tuple[str, ...]] = {}
    for person in config.people:
        uid = _uid(person.os_user) if person.os_user is not None else None
        if uid is not None:
            of_account[uid] = (*of_account.get(uid, ()), person.name)
    everybody = tuple(person.name for person in config.people)
    return {**of_account, 0: everybody, os.getuid(): everybody}


def _uid(name: str) -> int | None:
    try:
        return pwd.getpwnam(name).pw_uid
    except KeyError:
        return None
