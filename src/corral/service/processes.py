"""A backend's processes as people are told of them. Reading these may hang: it is done in a worker's thread."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from corral.process import Process
from corral.process.bare.host import host_table
from corral.process.bare.table import account_name

COMMAND_WIDTH = 100


class Seen(NamedTuple):
    """One process."""

    process: Process
    account: str
    command: str


def described(processes: Sequence[Process]) -> list[Seen]:
    """The processes with their accounts' names and their command lines, of which the beginning is kept."""
    return [Seen(one, account_name(one.uid), _command(one)) for one in processes]


def _command(process: Process) -> str:
    # The kernel reads a command line from the process's own memory, which waits where a page of it is on a disk that
    # does not answer.
    command = host_table().command(process.pid) or f"[{process.comm}]"
    return command if len(command) <= COMMAND_WIDTH else command[: COMMAND_WIDTH - 1] + "…"
