"""The judge: which processes of a test are alive, read from /proc alone and never through Corral.

Several nets find a process whatever it does to hide: the account together with descent from pytest (a subreaper), the
test's marker in the command line of any of its threads, and the marker in its environment.
"""

import os
import signal
import time
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

PROC = Path("/proc")
LOOKS = 30
Identity = tuple[int, int]  # pid and start time


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


def command(pid: int) -> str:
    """Return the command line of a process; empty when it is gone."""
    return _bytes(PROC / str(pid) / "cmdline").replace(b"\0", b" ").decode(errors="replace")


def environment(pid: int) -> bytes:
    """Return the environment that a process was started with; empty when it is gone."""
    return _bytes(PROC / str(pid) / "environ")


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


def look(pid: int, but: Collection[Identity] = ()) -> Seen | None:
    """Return the process when it lives, None when it is gone, wholly dead, or one of those in `but`."""
    folder = PROC / str(pid)
    try:
        name, fields = stat(folder / "stat")
        if (pid, int(fields[19])) in but or (fields[0] in "ZX" and fields[17] == "1"):
            return None
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


def pids() -> list[int]:
    """Return all pids, the newest first: they are the ones that do not wait to be looked at."""
    names = os.listdir(PROC)  # noqa: PTH208 (a Path for each of thousands of processes is what takes the time)
    return sorted((int(name) for name in names if name.isdigit()), reverse=True)


def forks() -> int:
    """Return how many processes and threads the host has started since it booted."""
    lines = (PROC / "stat").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("processes ")).split()[1])


def last_pid() -> int | None:
    """Return the last pid of this PID namespace; None where /proc is another namespace's."""
    lines = (PROC / "self" / "status").read_text().splitlines()
    if len(next(line for line in lines if line.startswith("NSpid:")).split()) != 2:
        return None
    return int((PROC / "loadavg").read_text().split()[-1])


def born_at(who: Identity) -> float:
    """When the process was started, on the clock of `time.monotonic`. proc(5) counts ticks since the boot."""
    since_boot = time.clock_gettime(time.CLOCK_BOOTTIME) - time.monotonic()
    return who[1] / os.sysconf("SC_CLK_TCK") - since_boot


def everybody() -> frozenset[Identity]:
    """Return who is there now, dead or alive."""
    found = set()
    for pid in pids():
        try:
            found.add((pid, int(stat(PROC / str(pid) / "stat")[1][19])))
        except (OSError, ValueError):
            continue
    return frozenset(found)


@dataclass(frozen=True)
class Truth:
    """What is alive of one test. Made before the test starts anything: whoever is there already is not the test's."""

    marker: str
    uids: frozenset[int] = frozenset()
    before: frozenset[Identity] = field(default_factory=everybody, repr=False)

    def alive(self, but: Collection[int] = ()) -> list[Seen]:
        """Return living processes of the test, without this one and without the pids in `but`.

        A process that hands on to a successor can slip through one look at the process table. So an empty list is only
        returned when the host started nobody while the look lasted, or this PID namespace nobody during two looks in a
        row: then whoever lived at its end was there to see. On a host that is never calm, it takes many looks in a row
        that found nobody.
        """
        born: int | None = None
        found: list[Seen] = []
        for _ in range(LOOKS):
            started, previous, born = forks(), born, last_pid()
            found = self._look(but)
            if found or forks() == started or (previous is not None and previous == last_pid()):
                break
        return found

    def _look(self, but: Collection[int]) -> list[Seen]:
        seen = [one for pid in pids() if (one := look(pid, self.before))]
        parents = {one.pid: one.parent for one in seen}
        skipped = {os.getpid(), *but}
        return [
            one for one in seen if one.pid not in skipped and (self._by_account(one, parents) or self._by_marker(one))
        ]

    def _by_account(self, seen: Seen, parents: Mapping[int, int]) -> bool:
        return bool(self.uids.intersection(seen.uids)) and not is_foreign(seen.pid, parents)

    def _by_marker(self, seen: Seen) -> bool:
        return self.marker in seen.command or self.marker.encode() in environment(seen.pid)

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


def is_foreign(pid: int, parents: Mapping[int, int]) -> bool:
    """Tell whether somebody else runs this process under an account of the tests, by the parent of each new process.

    With the stage, pytest is a subreaper: whatever a test starts stays below it, so a line of parents that leads away
    is foreign. Where a parent went during the look, the line is read again, as it is now. A process that is
    gone by then is nobody's: `alive` looks again if the host has started anybody meanwhile.
    """
    start = pid
    for _ in range(100):
        while pid in parents and pid != os.getpid():
            pid = parents[pid]
        if pid == os.getpid():
            return False
        if look(pid) is not None:
            return True
        parents, pid = _line(start), start
        if not parents:
            return True
    return False


def _line(pid: int) -> dict[int, int]:
    """Return the parents of a process, of its parent and so on, read now, as far as they are there."""
    parents: dict[int, int] = {}
    while pid > 1 and pid != os.getpid():
        try:
            parent = int(stat(PROC / str(pid) / "stat")[1][1])
        except (OSError, ValueError):
            break
        parents[pid] = parent
        pid = parent
    return parents


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
