"""The judge: which processes of a test are alive, read from /proc alone and never through Corral.

Several nets find a process whatever it does to hide: the account together with descent from pytest (a subreaper), the
test's marker in the command line of any of its threads, and the marker in its environment.
"""

import os
import signal
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")


@dataclass(frozen=True, slots=True)
class Seen:
    """A living process: at least one of its threads is neither a zombie nor dead."""

    pid: int
    start_time: int
    parent: int
    session: int
    name: str
    state: str
    threads: str
    uids: tuple[int, ...]
    command: str

    def __str__(self) -> str:
        """One line of the picture that a failing test shows."""
        return (
            f"pid {self.pid} parent {self.parent} session {self.session} uids {self.uids} state {self.state}"
            f" (threads {self.threads}) [{self.name}] {self.command}"
        )


def stat(path: Path) -> tuple[str, list[str]]:
    """Return the name and the fields from the state on. A name may hold spaces and brackets: the last one counts."""
    text = path.read_text(errors="replace")
    return text[text.index("(") + 1 : text.rindex(")")], text[text.rindex(")") + 2 :].split()


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def _threads(pid: int) -> tuple[str, bytes]:
    """Return the states of all threads, and their command lines: the main thread's is empty once it has ended."""
    states, lines = "", b""
    for task in (PROC / str(pid) / "task").iterdir():
        try:
            states += stat(task / "stat")[1][0]
        except (OSError, ValueError):
            continue
        lines = lines or _bytes(task / "cmdline")
    return states, lines


def look(pid: int) -> Seen | None:
    """Return the process when it lives, None when it is gone or wholly dead."""
    folder = PROC / str(pid)
    try:
        name, fields = stat(folder / "stat")
        threads, line = _threads(pid)
        status = (folder / "status").read_text(errors="replace")
    except (OSError, ValueError):
        return None
    if not threads.strip("ZX"):
        return None
    uids = next(text for text in status.splitlines() if text.startswith("Uid:"))
    return Seen(
        pid=pid,
        start_time=int(fields[19]),
        parent=int(fields[1]),
        session=int(fields[3]),
        name=name,
        state=fields[0],
        threads="".join(sorted(set(threads))),
        uids=tuple(int(word) for word in uids.split()[1:]),
        command=line.replace(b"\0", b" ").decode(errors="replace").strip(),
    )


def pids() -> Iterator[int]:
    for entry in os.listdir(PROC):  # noqa: PTH208 (a Path for each of thousands of processes is what takes the time)
        if entry.isdigit():
            yield int(entry)


def living() -> Iterator[Seen]:
    return (seen for pid in pids() if (seen := look(pid)))


@dataclass(frozen=True)
class Truth:
    """What is alive of one test."""

    marker: str
    uids: frozenset[int] = frozenset()

    def _carries_marker(self, seen: Seen) -> bool:
        return self.marker in seen.command or self.marker.encode() in _bytes(PROC / str(seen.pid) / "environ")

    def alive(self, but: Collection[int] = ()) -> list[Seen]:
        """Return every living process of the test, without this one and without the pids in `but`."""
        everybody = {seen.pid: seen for seen in living()}
        return [
            seen
            for seen in everybody.values()
            if seen.pid != os.getpid()
            and seen.pid not in but
            and ((self.uids.intersection(seen.uids) and not _is_foreign(seen, everybody)) or self._carries_marker(seen))
        ]

    def end_leftovers(self, seconds: float = 15.0) -> list[Seen]:
        """Kill what is left, by pid and start time, until a look finds nothing. Return what was found first."""
        deadline = time.monotonic() + seconds
        first = found = self.alive()
        while found:
            if time.monotonic() > deadline:
                raise AssertionError(f"could not end what a test left:\n{picture(found)}")
            for seen in found:
                kill(seen)
            found = self.alive()
        return first


def _is_foreign(seen: Seen, everybody: Mapping[int, Seen]) -> bool:
    """Tell whether somebody else runs this process under an account of the tests.

    With the stage, pytest is a subreaper: whatever a test starts stays below it. So a line of parents that leads to the
    machine's first process without passing pytest is foreign. A line that breaks off (a parent went during the look)
    tells nothing, and the process counts as the test's.
    """
    while seen.parent in everybody:
        if seen.parent == os.getpid():
            return False
        seen = everybody[seen.parent]
    return seen.pid == 1 or seen.parent == 0


def kill(seen: Seen, number: int = signal.SIGKILL) -> bool:
    """Signal exactly this process, never a newcomer with its pid. Return whether it was still there."""
    try:
        handle = os.pidfd_open(seen.pid)
    except ProcessLookupError:
        return False
    try:
        if int(stat(PROC / str(seen.pid) / "stat")[1][19]) != seen.start_time:
            return False
        signal.pidfd_send_signal(handle, number)
    except (ProcessLookupError, FileNotFoundError):
        return False
    finally:
        os.close(handle)
    return True


def picture(found: Iterable[Seen]) -> str:
    return "\n".join(f"  {seen}" for seen in found) or "  (nothing is alive)"
