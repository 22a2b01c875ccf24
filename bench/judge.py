"""Who is alive of what the benchmark started, read from /proc alone and never through Corral.

The keeper is a child subreaper, so that all of it stays below the keeper whatever it does; a whole scan of /proc finds
it there. Ending goes by pid and start time.
"""

import os
import select
import signal
import time
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import NamedTuple


class Row(NamedTuple):
    """One process."""

    pid: int
    parent: int
    start_time: int
    state: str
    threads: int
    name: str

    @property
    def living(self) -> bool:
        """Z with more than one thread is a process whose main thread has ended, and not dead."""
        return self.state not in "ZX" or self.threads > 1


def look(pid: int) -> Row | None:
    """Return one process, or None when it is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return None
    name, fields = text[text.index("(") + 1 : text.rindex(")")], text[text.rindex(")") + 2 :].split()
    return Row(pid, int(fields[1]), int(fields[19]), fields[0], int(fields[17]), name)


def scan(parents: Iterable[int], hidden: Collection[int] = ()) -> list[Row]:
    """Return everything below these processes, but nothing that is below the hidden ones, by a scan of the host."""
    names = os.listdir("/proc")  # noqa: PTH208 (a Path for each of thousands of processes is what takes the time)
    children: dict[int, list[Row]] = {}
    for row in filter(None, map(look, (int(name) for name in names if name.isdigit()))):
        children.setdefault(row.parent, []).append(row)
    found: list[Row] = []
    queue = list(parents)
    while queue:
        for row in children.get(queue.pop(), ()):
            if row.pid not in hidden:
                found.append(row)
                queue.append(row.pid)
    return found


def below(pid: int, hidden: Collection[int] = ()) -> list[Row]:
    """Return the living below a process by its children files: quick, for a tree that stands still."""
    found, queue = [], [pid]
    while queue:
        for task in _tasks(queue.pop()):
            try:
                words = (task / "children").read_text().split()
            except OSError:
                continue
            rows = [row for word in words if int(word) not in hidden and (row := look(int(word)))]
            found += [row for row in rows if row.living]
            queue += [row.pid for row in rows]
    return found


def _tasks(pid: int) -> list[Path]:
    try:
        return list(Path(f"/proc/{pid}/task").iterdir())
    except OSError:
        return []


def open_exactly(row: Row) -> int | None:
    """Return a handle to this very process, or None when it is gone."""
    try:
        handle = os.pidfd_open(row.pid)
    except ProcessLookupError:
        return None
    now = look(row.pid)
    if now is None or now.start_time != row.start_time:
        os.close(handle)
        return None
    return handle


def kill(row: Row) -> None:
    """Send KILL to this very process, never to a newcomer with its pid."""
    handle = open_exactly(row)
    if handle is None:
        return
    try:
        signal.pidfd_send_signal(handle, signal.SIGKILL)
    except ProcessLookupError:
        return
    finally:
        os.close(handle)


def wait_gone(handles: Collection[int], seconds: float = 20.0) -> None:
    """Wait until the processes behind these handles have ended."""
    poll, left = select.poll(), set(handles)
    for handle in left:
        poll.register(handle, select.POLLIN)
    deadline = time.monotonic() + seconds
    while left:
        events = poll.poll(max(0.0, deadline - time.monotonic()) * 1000)
        if not events:
            raise TimeoutError(f"{len(left)} processes outlived KILL by {seconds:g} s")
        for handle, _ in events:
            poll.unregister(handle)
            left.discard(handle)


class Judge:
    """Tells what is alive of a contender. The staff is what the benchmark itself needs: drivers and idle processes."""

    def __init__(self, keeper: int) -> None:
        self._keeper = keeper
        self._drivers: set[int] = {os.getpid()}
        self._hidden: set[int] = set()

    def add_driver(self, pid: int) -> None:
        """Take in a driver: it counts for nothing, what is below it counts."""
        self._drivers.add(pid)

    def hide(self, pid: int) -> None:
        """Leave out a process and all below it."""
        self._hidden.add(pid)

    def alive(self) -> list[Row]:
        """Return what is alive."""
        rows = scan([self._keeper], self._hidden)
        return [row for row in rows if row.living and row.pid not in self._drivers]

    def standing(self) -> list[Row]:
        """Return the same in a moment's work, for a tree that stands still: to wait until it does."""
        return [row for row in below(self._keeper, self._hidden) if row.pid not in self._drivers]

    def left_behind(self, settle: float = 0.3) -> list[Row]:
        """Return what is still alive after a moment: whoever was only slow to die is not held against anybody."""
        deadline = time.monotonic() + settle
        while (found := self.alive()) and time.monotonic() < deadline:
            time.sleep(0.02)
        return found

    def clear(self, seconds: float = 20.0) -> None:
        """End what a contender left."""
        deadline = time.monotonic() + seconds
        while found := self.alive():
            if time.monotonic() > deadline:
                raise TimeoutError(f"could not end {found}")
            for row in found:
                kill(row)
            time.sleep(0.01)
