"""Telling the service manager (sd_notify(3)); nothing happens where there is none."""

from __future__ import annotations

import os
import socket
from contextlib import suppress


def notify(*lines: str) -> None:
    """Send states such as `READY=1` to systemd's socket. It never fails: not without a listener or a descriptor."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    # An abstract address begins with "@" in the variable, and with NUL on the wire.
    target = "\0" + address[1:] if address.startswith("@") else address
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as link:
        link.setblocking(False)
        link.sendto("\n".join(lines).encode(), target)
