"""The service's own folder and what is kept there."""

from __future__ import annotations

import fcntl
import os
import shlex
import shutil
import socket as sockets
import stat
import struct
import sys
import tempfile
from pathlib import Path

from corral.daemon import lock
from corral.install.finding import Finding, Findings, error, ok, skip, warn
from corral.install.subjects import Subjects
from corral.process import LedgerError, live_jobs
from corral.process.bare.ledger import Rejected, entries
from corral.process.bare.table import account_name
from corral.service import state_folder
from corral.service.store import records
from corral.service.store.database import DAMAGED, StoreError
from corral.service.store.store import FILE
from corral.spans import size

ENOUGH = 1 << 30
TOO_LITTLE = 32 << 20
"""Bytes on the disk of the state folder."""

STORE_SECONDS = 20.0
"""For looking for damage in the store."""

_CGROUPS = Path("/sys/fs/cgroup")

# SQLite's WAL is shared memory between the processes of one kernel, and flock(2) does not hold on all of these.
_REMOTE = {"9p", "afs", "beegfs", "ceph", "cifs", "fuse.glusterfs", "fuse.sshfs", "gfs2", "lustre", "ncpfs", "nfs"}
_REMOTE |= {"nfs4", "ocfs2", "smb3", "smbfs", "virtiofs"}


def account(subjects: Subjects) -> Findings:
    """Whether this is the service's account: sudo's rules and the modes of files are judged for this one."""
    place = subjects.config.service.state_dir
    try:
        owner = account_name(place.stat().st_uid)
    except OSError:
        owner = ""
    if owner and owner != subjects.service:
        yield error(
            "account",
            f"{subjects.service} asks, and {place} belongs to {owner}: what is found does not hold for the service",
            f"ask as the service's account: sudo -u {owner} corral doctor",
        )
    elif os.getuid() == 0:
        yield warn(
            "account",
            "root asks: it may do everything, so that no rule of sudo and no mode of a file is tried",
            "ask as the account that the service is to run as",
        )
    else:
        yield ok("account", f"{subjects.service} asks, as the service")


def folder(subjects: Subjects) -> Findings:
    """Owner, mode, and whether it can be written."""
    place, label = subjects.config.service.state_dir, "state folder"
    try:
        about = place.stat()
    except FileNotFoundError:
        yield _missing_folder(place, subjects.service)
        return
    except OSError as problem:
        yield error(label, f"{place} cannot be looked at: {problem.strerror}", f"`namei -l {place}` shows why")
        return
    if not stat.S_ISDIR(about.st_mode):
        yield error(label, f"{place} is not a folder", "name another with state_dir below [service]")
        return
    wrong = False
    if owner := state_folder.wrong_owner(about):
        wrong = True
        yield error(
            label,
            f"{place} belongs to {owner} and not to {subjects.service}: the service does not start on it",
            "it must be the service's",
            state_folder.give_to(subjects.service, place),
        )
    if mode := state_folder.wrong_mode(about):
        wrong = True
        yield error(
            label,
            f"{place} has mode {mode}: {state_folder.OPEN_TO_OTHERS}; the service does not start on it",
            "it must be 0700",
            subjects.as_service(state_folder.close_to_others(place)),
        )
    if fault := _cannot_be_written(place):
        wrong = True
        yield error(label, f"{place} cannot be written: {fault}", "make room, or fix its owner and mode")
    if (kind := file_system(place)) in _REMOTE:
        wrong = True
        yield warn(
            label,
            f"{place} lies on {kind}: the database and the locks of the service need a file system of this machine",
            "name a folder on a local disk with state_dir below [service]",
        )
    if not wrong:
        yield ok(label, f"{place}, 0700, {kind or 'a file system that was not found out'}")


def disk(subjects: Subjects) -> Findings:
    """Room on the disk of the state folder."""
    place = _nearest(subjects.config.service.state_dir)
    free = shutil.disk_usage(place).free
    inodes = os.statvfs(place)
    detail = f"{size(free)} free at {place}"
    if free < TOO_LITTLE or (inodes.f_files and inodes.f_favail < 100):
        yield error("disk", detail + f", {inodes.f_favail} files", "make room: without a record no agent is started")
    elif free < ENOUGH:
        yield warn("disk", detail, "make room soon")
    else:
        yield ok("disk", detail)


def ledger(subjects: Subjects) -> Findings:
    """Whether every record can be believed."""
    place = subjects.config.service.state_dir
    try:
        found = entries(str(place))
    except LedgerError as problem:
        yield error("ledger", str(problem), "see what it says")
        return
    rejected = [one for one in found if isinstance(one, Rejected)]
    if rejected:
        yield warn(
            "ledger",
            f"{len(rejected)} files are no records: {rejected[0].path}: {rejected[0].reason}",
            "`corral sweep` says what they may have stood for; then remove them",
        )
    else:
        yield ok("ledger", f"{len(found)} records")


def store(subjects: Subjects) -> Findings:
    """Whether the store can be read, as far as that can be found out in some seconds."""
    path = subjects.config.service.state_dir / FILE
    try:
        version, fault = records.examined(path, STORE_SECONDS)
    except FileNotFoundError:
        yield ok("store", f"{path} is not there yet: the service makes it")
        return
    except StoreError as problem:
        yield error("store", str(problem), "stop the service first; docs/how-to/back-up.md has what to do then")
        return
    except OSError as problem:
        yield error("store", f"{path} cannot be looked at: {problem.strerror}", f"`namei -l {path}` shows why")
        return
    if fault:
        yield error(
            "store",
            f"{path}: {DAMAGED} ({fault})",
            "stop the service first; docs/how-to/back-up.md has what to do then",
        )
    else:
        yield ok("store", f"{path}, version {version}, {size(path.stat().st_size)}, no damage found")


def jobs(subjects: Subjects) -> Findings:
    """Jobs whose supervisor, or whose reaper as well, is dead."""
    place = subjects.config.service.state_dir
    try:
        found = live_jobs(place)
    except LedgerError:
        yield skip("jobs", "the ledger cannot be read")
        return
    for job in found:
        if job.reason:
            yield warn("jobs", f"{job.entry.label or job.entry.command} ({job.entry.id}): {job.reason}")
    left = [job for job in found if job.state != "running" and not job.reason]
    if left:
        processes = sum(len(job.tree) for job in left)
        names = ", ".join(sorted({job.entry.label or job.entry.command for job in left}))
        yield warn(
            "jobs",
            f"{len(left)} jobs with {processes} processes have lost their supervisor: {names}",
            "the next start of the service ends them, or now: corral sweep",
            subjects.as_service(f"corral sweep --state-dir {shlex.quote(str(place))}"),
        )
    elif not any(job.reason for job in found):
        yield ok("jobs", f"{len(found)} running, none without its supervisor")


def cgroup(subjects: Subjects) -> Findings:
    """Whether the service that runs was given a cgroup to make others in."""
    try:
        running = _running_service(subjects.config.service.state_dir)
    except OSError as problem:
        yield skip("cgroup", f"whether a service runs cannot be told: {problem.filename}: {problem.strerror}")
        return
    if sys.platform != "linux" or running is None:
        yield skip("cgroup", "no service runs on this state folder that could have been given one")
        return
    folder = _cgroup_of(running)
    if folder is None:
        yield warn("cgroup", "there is no cgroup v2 on this machine: all proof is that of the subreaper")
    elif os.access(folder, os.W_OK):
        yield ok("cgroup", f"{folder} is delegated to the service (pid {running})")
    else:
        yield warn(
            "cgroup",
            f"{folder}, of the service (pid {running}), is not its own: all proof is that of the subreaper",
            "Delegate=yes in the unit, as `corral units` writes it",
        )


def socket(subjects: Subjects) -> Findings:
    """Whether the service can listen where people and operators reach it, and whether they can come there."""
    place = subjects.config.socket_path
    try:
        running = _running_service(subjects.config.service.state_dir)
    except OSError as problem:
        yield skip("socket", f"whether a service runs cannot be told: {problem.filename}: {problem.strerror}")
        return
    if fault := _cannot_listen(place, running):
        yield error("socket", fault, "put right what is there, or name another place with socket below [service]")
        return
    closed = next((one for one in place.parents if one.exists() and not one.stat().st_mode & 0o001), None)
    if closed is None:
        yield ok("socket", str(place))
        return
    yield warn(
        "socket",
        f"{place} is behind {closed}, which others may not enter: people cannot attach with `corral chat`",
        'under systemd: socket = "/run/corral/corral.sock" below [service]; else in any folder that people may enter',
    )


def _cannot_listen(place: Path, running: int | None) -> str:
    """Why the service could not listen there, as far as that can be seen without doing it; empty if it could."""
    above = _nearest(place.parent)
    if not above.is_dir():
        return f"{above} is in the way: it is not a folder"
    if not os.access(above, os.W_OK | os.X_OK):
        missing = "" if above == place.parent else f"{place.parent} is not there, and "
        return f"{missing}{account_name(os.geteuid())} may not make anything in {above}"
    try:
        kind = place.lstat().st_mode
    except FileNotFoundError:
        return ""
    if not stat.S_ISSOCK(kind):
        return f"{place} is a file and no socket"
    listener = _listener(place)
    if listener is None or _is_same(listener, running):
        return ""
    whose = f"pid {listener}" if listener else "a process that this host does not name"
    return f"{place} is another program's: {whose} listens there"


def _listener(place: Path) -> int | None:
    """The pid that listens at a socket, 0 if it is not known; None if nobody does."""
    with sockets.socket(sockets.AF_UNIX) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(os.fspath(place))
        except (ConnectionRefusedError, FileNotFoundError):
            return None
        except OSError:
            return 0
        if not hasattr(sockets, "SO_PEERCRED"):
            return 0
        pid, _, _ = struct.unpack(
            "3i", probe.getsockopt(sockets.SOL_SOCKET, sockets.SO_PEERCRED, struct.calcsize("3i"))
        )
    return int(pid)


def _is_same(listener: int, running: int | None) -> bool:
    """Whether the listener is the service that holds the lock, which wrote there the pid of its own namespace."""
    if listener == running or (listener == 0 and running is not None):
        return True
    try:
        lines = Path(f"/proc/{listener}/status").read_text().splitlines()
    except OSError:
        return False
    return any(line.startswith("NSpid:") and line.split()[-1] == str(running) for line in lines)


def file_system(place: Path) -> str:
    """The kind of file system that a folder lies on; empty where the host does not say."""
    try:
        lines = Path("/proc/self/mountinfo").read_text().splitlines()
    except OSError:
        return ""
    real, best, kind = place.resolve(), -1, ""
    for line in lines:
        words, _, rest = line.partition(" - ")
        # The kernel writes spaces and backslashes as octal numbers.
        point = Path(words.split()[4].encode().decode("unicode_escape").encode("latin-1").decode("utf-8", "replace"))
        # The last of two mounts on one point is the one that is seen.
        if real.is_relative_to(point) and len(point.parts) >= best:
            best, kind = len(point.parts), rest.split()[0]
    return kind


def _missing_folder(place: Path, service: str) -> Finding:
    above = _nearest(place)
    if os.access(above, os.W_OK | os.X_OK):
        return ok("state folder", f"{place} is not there yet: the service makes it")
    return error(
        "state folder",
        f"{place} is not there, and {service} may not make it in {above}",
        "make it, or have systemd do it (StateDirectory=, as `corral units` writes it)",
        state_folder.make_for(service, place),
    )


def _running_service(place: Path) -> int | None:
    """The pid of the service that has locked the state folder, if one has. Raises OSError where that cannot be told."""
    pid = None
    try:
        with (place / lock.FILE).open() as file:
            pid = int(file.read(32))
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return pid
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    return None


def _cgroup_of(pid: int) -> Path | None:
    try:
        lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    except OSError:
        return None
    path = next((line[3:] for line in lines if line.startswith("0::")), None)
    for root in (_CGROUPS, _CGROUPS / "unified"):
        if path is not None and (root / "cgroup.procs").exists():
            return root / path.lstrip("/")
    return None


def _nearest(place: Path) -> Path:
    """The folder itself, or what is there of the way to it."""
    return next(folder for folder in (place, *place.parents) if folder.exists())


def _cannot_be_written(place: Path) -> str:
    try:
        with tempfile.TemporaryFile(dir=place) as file:
            file.write(b"x" * 4096)
            file.flush()
            os.fsync(file.fileno())
    except OSError as problem:
        return problem.strerror or str(problem)
    return ""
