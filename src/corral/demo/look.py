"""The demo's own look at the process table, apart from Corral's: who is alive that carries this demo's mark?"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple


class Seen(NamedTuple):
    """A process that is alive."""

    pid: int
    command: str


def alive(mark: str, uid: int | None) -> list[Seen]:
    """The living processes with the mark in their environment or command line.

    One of the account `uid` whose environment is empty counts too: it may have thrown the mark away. The rest of that
    account is somebody else's work.
    """
    return [
        Seen(pid, line)
        for pid, owner, line, environ in _table()
        if mark in environ or mark in line or (owner == uid and not environ)
    ]


def anybody(uid: int) -> bool:
    """Whether any process of the account is alive."""
    return any(owner == uid for _, owner, _, _ in _table())


def _table() -> Iterator[tuple[int, int, str, str]]:
    """Each living process as pid, real uid, command line, environment ('' where it cannot be read)."""
    return _proc() if sys.platform == "linux" else _psutil()


def _proc() -> Iterator[tuple[int, int, str, str]]:
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            status = (folder / "status").read_text(errors="replace")
            command = (folder / "cmdline").read_text(errors="replace").replace("\0", " ").strip()
        except OSError:
            continue  # it has ended meanwhile
        fields = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
        if fields["State"].split()[0] in "ZX":
            continue
        try:
            environ = (folder / "environ").read_text(errors="replace")
        except OSError:
            environ = ""
        yield int(folder.name), int(fields["Uid"].split()[0]), command or fields["Name"].strip(), environ


def _psutil() -> Iterator[tuple[int, int, str, str]]:
    import psutil

    for process in psutil.process_iter():
        try:
            if process.status() == psutil.STATUS_ZOMBIE:
                continue
            owner, command = process.uids().real, " ".join(process.cmdline())
        except psutil.Error:
            continue
        try:
            environ = "\0".join(f"{name}={value}" for name, value in process.environ().items())
        except psutil.Error:
            environ = ""
        yield process.pid, owner, command, environ
