"""Who is at the other end of a Unix socket, by the kernel's word."""

from __future__ import annotations

import socket
import struct

_UCRED = struct.Struct("3i")  # Linux, SO_PEERCRED: pid, uid, gid
_XUCRED = struct.Struct("2i")  # macOS, LOCAL_PEERCRED: version, uid, …
_XUCRED_BYTES = 76
_SOL_LOCAL, _LOCAL_PEERCRED = 0, 1


def peer_uid(connection: socket.socket) -> int:
    """The account that connected, as it was at that moment. Raises OSError."""
    if hasattr(socket, "SO_PEERCRED"):
        _, uid, _ = _UCRED.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    else:
        _, uid = _XUCRED.unpack_from(connection.getsockopt(_SOL_LOCAL, _LOCAL_PEERCRED, _XUCRED_BYTES))
    return int(uid)
