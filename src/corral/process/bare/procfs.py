"""The process table of Linux, read from /proc.

`descendants` reads the children files, every thread's, so that it costs what the tree costs and not what the host
costs; `scan` reads all of /proc.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

from corral.process.bare.table import UNKNOWN, Births, Identity, Namespace, Process, is_gone
from corral.process.bare.typed import NamedTuple
from corral.process.bare.walk import ChildrenOf, below

_CHUNK = 16384
_TICK = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
_MACHINE_ID_DIGITS = 32
_CAP_SYS_PTRACE = 19
_INITIAL_NAMESPACE = 0xEFFFFFFC  # PROC_PID_INIT_INO, the same on every Linux


class Stat(NamedTuple):
    """The fields of proc_pid_stat(5) that are used here."""

    pid: int
    comm: str
    state: str
    ppid: int
    pgid: int
    sid: int
    terminal: int
    """The number of the controlling terminal; 0 for none."""
    children_faults: int
    """Minor faults of the children it has waited for: 0 means that it never had one."""
    threads: int
    start_time: int
    rss_pages: int


def parse_stat(text: bytes) -> Stat:
    """Read one line of /proc/PID/stat. Raises ValueError if it is cut short."""
    # comm may hold spaces and ")": the fields begin after the last one.
    opening, closing = text.index(b"("), text.rindex(b")")
    fields = text[closing + 2 :].split()
    if len(fields) < 22:
        raise ValueError("stat line is cut short")
    return Stat(
        pid=int(text[:opening]),
        comm=text[opening + 1 : closing].decode("utf-8", "replace"),
        state=fields[0].decode("ascii"),
        ppid=int(fields[1]),
        pgid=int(fields[2]),
        sid=int(fields[3]),
        terminal=int(fields[4]),
        children_faults=int(fields[8]),
        threads=int(fields[17]),
        start_time=int(fields[19]),
        rss_pages=int(fields[21]),
    )


def parse_uids(status: bytes) -> tuple[int, int, int]:
    """Real, effective and saved uid from /proc/PID/status."""
    at = status.index(b"\nUid:") + 5
    real, effective, saved, _filesystem = status[at : status.index(b"\n", at)].split()
    return int(real), int(effective), int(saved)


def stat(pid: int) -> Stat | None:
    """The stat line of a process, or None if it is gone or hidden. Raises OSError if that cannot be said."""
    text = _slurp_of(pid, "stat")
    try:
        return parse_stat(text) if text is not None else None
    except ValueError:
        return None


def read(pid: int) -> Process | None:
    """The process, or None if it is gone or hidden (hidepid=2). Raises OSError if that cannot be said."""
    stat_text, status_text = _slurp_of(pid, "stat"), _slurp_of(pid, "status")
    if stat_text is None or status_text is None:
        return None
    try:
        line = parse_stat(stat_text)
        real, effective, saved = parse_uids(status_text)
    except ValueError:
        return None
    return Process(
        pid=pid,
        ppid=line.ppid,
        pgid=line.pgid,
        sid=line.sid,
        start_time=line.start_time,
        state=line.state,
        threads=line.threads,
        uid=real,
        euid=effective,
        saved_uid=saved,
        rss=line.rss_pages * _PAGE,
        comm=line.comm,
    )


def start_time(pid: int) -> int | None:
    """The start time of the process that has this pid now, or None if it is gone or hidden."""
    line = stat(pid)
    return line.start_time if line is not None else None


def clock() -> int:
    """A start time that no process born from now on falls below: now, in clock ticks since boot."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // _TICK


def scan() -> Iterator[Process]:
    """Every process of the host that may be read; the newest pids first, because they are the ones that do not stay."""
    for pid in sorted(_pids(), reverse=True):
        if (process := read(pid)) is not None:
            yield process


def hides_others() -> bool:
    """Whether any process may be hidden from this one (proc(5), hidepid), this account's own set-uid ones included.

    What is not known counts as hidden.
    """
    try:
        options = mount_options(_slurp("/proc/self/mountinfo").decode("utf-8", "replace"), os.stat("/proc").st_dev)
        return stat(1) is None or _may_hide(options)
    except (OSError, ValueError):
        return True


def mount_options(mountinfo: str, device: int) -> dict[str, str]:
    """The options of the file system with this device number. Raises ValueError if it is not among the mounts."""
    number = f"{os.major(device)}:{os.minor(device)}"
    for line in mountinfo.splitlines():
        fields = line.split(" ")
        if fields[2] == number:
            words = fields[fields.index("-") + 3].split(",")
            return {name: value for name, _, value in (word.partition("=") for word in words)}
    raise ValueError(f"no mount has the device number {number}")


def _may_hide(options: dict[str, str]) -> bool:
    hidepid = options.get("hidepid", "off")
    if hidepid in ("off", "0"):
        return False
    # A capability and a group of a user namespace say nothing of the processes outside.
    if _slurp("/proc/self/uid_map").split() != [b"0", b"0", b"4294967295"]:
        return True
    status = _slurp("/proc/self/status")
    at = status.index(b"\nCapEff:") + 8
    if int(status[at : status.index(b"\n", at)], 16) >> _CAP_SYS_PTRACE & 1:
        return False
    if hidepid not in ("noaccess", "1", "invisible", "2"):
        return True  # ptraceable (4): no group is exempt
    return int(options.get("gid", "0")) not in (os.getegid(), *os.getgroups())


def births() -> Births | None:
    """The forks since boot (proc_stat(5), `processes`), and the last pid of this PID namespace (proc_loadavg(5)).

    The kernel counts a fork in the same step that makes it visible in /proc. It hands out the pid earlier: a fork that
    is under way when `last_pid` is read can become visible later. `trackers.nothing_found` allows for that.
    """
    text = _slurp("/proc/stat")
    at = text.find(b"\nprocesses ")
    if at < 0:
        return None
    host = int(text[at + 11 : text.index(b"\n", at + 1)])
    try:
        # loadavg speaks of the reader's namespace, whichever namespace /proc was mounted in.
        if not _shows_own_namespace():
            return Births(host)
        *_, tasks, last_pid = _slurp("/proc/loadavg").split()
        free = int(_slurp("/proc/sys/kernel/pid_max")) - int(tasks.partition(b"/")[2])
    except (OSError, ValueError):
        return Births(host)
    return Births(host, int(last_pid), free)


def _shows_own_namespace() -> bool:
    """Whether /proc is that of this process's PID namespace: seen from an outer one, a process has several pids."""
    status = _slurp("/proc/self/status")
    at = status.index(b"\nNSpid:") + 7
    return len(status[at : status.index(b"\n", at)].split()) == 1


def command(pid: int) -> str:
    """The command line with its arguments joined by spaces, or '' for a process that has none left."""
    try:
        return _slurp(f"/proc/{pid}/cmdline").rstrip(b"\0").replace(b"\0", b" ").decode("utf-8", "replace")
    except OSError:
        return ""


def arguments(pid: int) -> list[str]:
    """The command line as it is, or an empty list."""
    text = (_slurp_of(pid, "cmdline") or b"").decode("utf-8", "replace")
    return text.removesuffix("\0").split("\0") if text else []


def terminal(pid: int) -> bool:
    """Whether the process has a controlling terminal."""
    line = stat(pid)
    return line is not None and line.terminal != 0


def unit(pid: int) -> str:
    """The systemd unit that it is in, by its control group of v2, or by systemd's own of v1; or ''."""
    return unit_in((_slurp_of(pid, "cgroup") or b"").decode("utf-8", "replace"))


def unit_in(cgroups: str) -> str:
    """The unit in the text of /proc/PID/cgroup; below a user's own manager the innermost."""
    for line in cgroups.splitlines():
        number, controllers, path = line.split(":", 2)
        if number == "0" or controllers == "name=systemd":
            units = [part for part in path.split("/") if part.endswith((".service", ".scope"))]
            if units:
                return units[-1]
    return ""


def boot_id() -> str:
    """The kernel's random id of this boot."""
    return _slurp("/proc/sys/kernel/random/boot_id").decode("ascii").strip()


def host_id() -> str:
    """The id of the installation (machine-id(5)), or the host's name where there is none, as in many containers."""
    try:
        number = _slurp("/etc/machine-id").decode("ascii", "replace").strip()
    except OSError:
        number = ""
    # While a first boot is under way it reads "uninitialized".
    return number if len(number) == _MACHINE_ID_DIGITS else os.uname().nodename


def namespace() -> Namespace | None:
    """The PID namespace of this process; None where /proc is that of another one, or cannot be read."""
    try:
        numbers = pids_in_namespaces(_slurp("/proc/self/status"))
        # One for each namespace from that of /proc down to the process's own: here both must be the same one.
        if numbers not in ([], [os.getpid()]):
            return None
        return Namespace(_inode("pid"), _inode("time"), start_time(1) or UNKNOWN)
    except (OSError, ValueError):
        return None


def _inode(kind: str) -> int:
    try:
        return os.stat(f"/proc/self/ns/{kind}").st_ino
    except FileNotFoundError:
        return 0


def pids_in_namespaces(status: bytes) -> list[int]:
    """The pids of a process in /proc/PID/status, the innermost namespace's last; empty on a kernel without them."""
    at = status.find(b"\nNSpid:")
    return [int(number) for number in status[at + 7 : status.index(b"\n", at + 1)].split()] if at >= 0 else []


def has_ended(other: Namespace) -> bool:
    """Whether that PID namespace has surely ended.

    A namespace lives for as long as its process 1, whose end is the end of all others in it and below it. Only the
    initial namespace shows the processes of every other one, and only where nothing is hidden.
    """
    own = namespace()
    if own is None or own.pid != _INITIAL_NAMESPACE or own.time != other.time or hides_others():
        return False
    return other.init != UNKNOWN and not any(_may_be_init(pid, other.init) for pid in _pids())


def _may_be_init(pid: int, began: int) -> bool:
    try:
        numbers = pids_in_namespaces(_slurp(f"/proc/{pid}/status"))
        if numbers and numbers[-1] != 1:
            return False
        process = read(pid)
    except (FileNotFoundError, ProcessLookupError):
        return False
    except OSError:
        return True
    # Dead and not yet waited for, it has outlived all others of its namespace (pid_namespaces(7)).
    return not numbers or process is None or (process.start_time == began and process.living)


def children(pid: int) -> list[int] | None:
    """Children of every thread of a process, or None if it is gone or hidden. Raises OSError if that cannot be said."""
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except OSError as error:
        if is_gone(error):
            return None
        raise
    found: list[int] = []
    for tid in threads:
        found.extend(map(int, (_slurp_of(pid, f"task/{tid}/children") or b"").split()))
    return found


def has_children_files() -> bool:
    """Whether the kernel was built with CONFIG_PROC_CHILDREN."""
    return os.path.exists(f"/proc/self/task/{os.getpid()}/children")


def descendants(root: int, *, start_time: int | None = None, by_scan: bool = False) -> list[Process]:
    """Everything below a process, zombies included, parents before their children.

    start_time: that of the process meant, where it can have gone, and its pid can be another's by now.

    A child that the kernel lists but will not show (hidepid=2) comes as a Process of which only pid, ppid and depth
    are known. While thousands of children end during the read, living ones can be missing: a list for rounds, not a
    proof. Raises OSError where nothing can be read.
    """
    if root == os.getpid():
        start_time = UNKNOWN  # It is surely there, and no child is older.
    elif start_time is None and (line := stat(root)) is not None:
        start_time = line.start_time
    if start_time is None or (start_time == UNKNOWN and root != os.getpid()):
        return []
    look = _children_by_scan if by_scan else _children_by_files
    return below(Process(root, start_time=start_time), look, read, began=clock(), is_same=_is_same)


def tree_of(reaper: Identity) -> list[Process]:
    """The living tree of a job. The reaper's own calls of sudo share its session, which no member of the job can."""
    found = descendants(reaper[0], start_time=reaper[1])
    return [process for process in found if process.living and process.sid != reaper[0]]


def _is_same(process: Process) -> bool:
    """Whether the pid is still this process's: a second look, after which what was read of it can be believed."""
    return process.pid == os.getpid() or start_time(process.pid) == process.start_time


def _children_by_files() -> ChildrenOf:
    return children


def _children_by_scan() -> ChildrenOf:
    by_parent: dict[int, list[int]] = {}
    for pid in _pids():
        line = stat(pid)
        if line is not None:
            by_parent.setdefault(line.ppid, []).append(pid)
    # Each list once: a scan shows no hidden process, so one that cannot be read afterwards has gone.
    return lambda pid: by_parent.pop(pid, ())


def _pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _slurp_of(pid: int, name: str) -> bytes | None:
    """A file of a process, or None if the process is gone or hidden. Raises OSError for what says nothing of it."""
    try:
        return _slurp(f"/proc/{pid}/{name}")
    except OSError as error:
        if is_gone(error):
            return None
        raise


def _slurp(path: str) -> bytes:
    # A third of the cost of open(): no buffer, no decoder, and a walk reads two of these per process.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        data = os.read(descriptor, _CHUNK)
        if len(data) < 4000:
            return data
        while more := os.read(descriptor, _CHUNK):
            data += more
        return data
    finally:
        os.close(descriptor)
