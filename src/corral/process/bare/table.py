"""One row of the process table, and what this room asks of a table.

`procfs` answers it on Linux, `psutil_table` elsewhere; both are modules that fit `ProcessTable`.
"""

from __future__ import annotations

import errno
import os
import pwd
from collections.abc import Callable, Iterator

from corral.process.bare.typed import NamedTuple, Protocol

Identity = tuple[int, int]
"""pid and start time: the same pair is the same process, for as long as the host is not booted again."""

UNKNOWN = -1
"""A number the kernel would not show (hidepid=2 hides the files of other accounts)."""

_names = {UNKNOWN: "?"}


class Process(NamedTuple):
    """A process as the kernel showed it at one moment."""

    pid: int
    ppid: int = UNKNOWN
    pgid: int = UNKNOWN
    sid: int = UNKNOWN
    start_time: int = UNKNOWN
    """Linux: clock ticks since boot (proc_pid_stat(5), field 22). Elsewhere: microseconds since the epoch."""
    state: str = "?"
    threads: int = 1
    uid: int = UNKNOWN
    """The real uid: the account the process belongs to."""
    euid: int = UNKNOWN
    saved_uid: int = UNKNOWN
    rss: int = 0
    """Resident memory in bytes."""
    comm: str = "?"
    depth: int = 0
    """Levels below the root of the walk that found it; its own children are 1."""

    @property
    def identity(self) -> Identity:
        return (self.pid, self.start_time)

    @property
    def living(self) -> bool:
        # A process whose main thread ended shows Z although its other threads run on.
        return self.state not in "ZX" or self.threads > 1

    @property
    def stopped(self) -> bool:
        return self.state in "Tt"

    @property
    def readable(self) -> bool:
        return self.start_time != UNKNOWN


class Births(NamedTuple):
    """How far the host, and this PID namespace, had come in starting processes and threads."""

    host: int
    """Forks since boot, of every PID namespace."""
    last_pid: int | None = None
    """The last pid that this PID namespace handed out; None where it cannot be had."""
    free_pids: int = 0
    """So many pids at least were free: fewer forks than that cannot bring `last_pid` round to the same number."""

    def none_since(self, before: Births) -> bool:
        """Whether the host has started nobody."""
        return self.host == before.host

    def none_here_since(self, before: Births) -> bool:
        """Whether this PID namespace has handed out no pid, whatever the rest of the host did."""
        if self.last_pid is None or self.last_pid != before.last_pid:
            return False
        return self.host - before.host < min(self.free_pids, before.free_pids)


class Namespace(NamedTuple):
    """Where pids and start times mean what they do. The kernel's numbers are those of files, and are given anew."""

    pid: int
    """The inode of /proc/self/ns/pid; 0 on a host without PID namespaces."""
    time: int
    """The inode of /proc/self/ns/time, whose clock start times are read by; 0 on a kernel without."""
    init: int
    """The start time of its process 1, which tells it from an earlier one with the same inode; UNKNOWN if hidden."""


class ProcessTable(Protocol):
    """What the trackers ask of the host.

    None of these raises for a process that is gone or hidden. They raise OSError where nothing can be said of it,
    because this process has no descriptor or no memory left: not being able to look never means that nobody is there.
    """

    def read(self, pid: int) -> Process | None:
        """The process, or None if there is none with that pid that may be read."""

    def start_time(self, pid: int) -> int | None:
        """The start time of the process that has this pid now, or None if there is none that may be read."""

    def clock(self) -> int:
        """A start time that no process born from now on falls below."""

    def scan(self) -> Iterator[Process]:
        """Every process that may be read, zombies included, the newest pids first. Its cost grows with the host."""

    def hides_others(self) -> bool:
        """Whether any process may be hidden from this one, so that not finding any means nothing."""

    def births(self) -> Births | None:
        """How many processes and threads were ever started; None where the host does not count them."""

    def command(self, pid: int) -> str:
        """The command line, arguments joined by spaces; '' when it cannot be had."""

    def arguments(self, pid: int) -> list[str]:
        """The command line as it is; empty when it cannot be had."""

    def terminal(self, pid: int) -> bool:
        """Whether the process has a controlling terminal, as far as can be seen."""

    def unit(self, pid: int) -> str:
        """The systemd unit that the process is in (`bot.service`, `session-3.scope`), or ''."""

    def boot_id(self) -> str:
        """The same for as long as start times mean the same."""

    def host_id(self) -> str:
        """What tells this host from others that may share a folder with it; the same after a boot."""

    def namespace(self) -> Namespace | None:
        """The PID namespace of this process, if the table shows that one; None if it does not, or is not readable."""

    def has_ended(self, namespace: Namespace) -> bool:
        """Whether a PID namespace of this boot has surely ended, and with it every process that was in it."""


def is_child(child: Process, parent: Process, began: int, is_same: Callable[[Process], bool]) -> bool:
    """Whether one row of a look surely shows a child of another.

    A ppid is only a number, and rows are read one after the other: in between, the parent can go and its pid can become
    a stranger's. A child that is older than the look cannot be that stranger's: the stranger took the pid over after
    the parent's row was read, and nobody is older than its parent (an orphan goes to an ancestor, so that holds for
    subreapers and init too). For a child born since, is_same must see that its parent is still there.

    began: `ProcessTable.clock` before the first row was read. is_same is called after the child's row was read.
    """
    if child.ppid != parent.pid:
        return False
    if not child.readable:
        return True  # Such a row comes from the parent's own list of children; `procfs.below` has checked it.
    return child.start_time >= parent.start_time and (child.start_time < began or is_same(parent))


def is_gone(error: OSError) -> bool:
    """Whether an error of reading a process says that it is gone or hidden; of any other it says nothing at all."""
    return error.errno in (errno.ENOENT, errno.ESRCH, errno.EACCES, errno.EPERM)


def find_living(table: ProcessTable, identity: Identity) -> Process | None:
    """The process with this identity, if it lives."""
    process = table.read(identity[0])
    return process if process is not None and process.identity == identity and process.living else None


def is_this_account(user: str | None) -> bool:
    """Whether a name (None: no change) is this process's own account. False for one that does not exist."""
    try:
        return user is None or pwd.getpwnam(user).pw_uid == os.getuid()
    except KeyError:
        return False


def account_uid(user: str) -> int:
    """The account's uid; this process's own for a name that does not exist (any more)."""
    try:
        return pwd.getpwnam(user).pw_uid
    except KeyError:
        return os.getuid()


def remember_account(uid: int, name: str) -> None:
    """Take a name that another process looked up: a directory service that hangs must not be asked here."""
    _names[uid] = name


def account_name(uid: int) -> str:
    """The account's name, or its number where it has none ('?' where the kernel would not say)."""
    # Looked up once: a directory service can take milliseconds, and a tree of a thousand asks a thousand times.
    if uid not in _names:
        try:
            _names[uid] = pwd.getpwuid(uid).pw_name
        except KeyError:
            _names[uid] = str(uid)
    return _names[uid]
