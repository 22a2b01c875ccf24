"""A systemd of the test's own: process 1 of a PID namespace, cgroups below the test's, no unit but the test's."""

import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from tests.harness.waiting import wait_until

SYSTEMD = Path("/lib/systemd/systemd")
BOOT = 20.0  # seconds
CALL = 60.0  # seconds
GROUPS = Path("/sys/fs/cgroup")
TARGETS = ("basic", "sysinit", "shutdown", "network-online", "final", "umount", "nss-user-lookup", "multi-user")

# Nothing of the machine's may be changed by it: /etc is read-only or a copy, /proc/sys is read-only, /run is its own.
INSIDE = """
set -e
mount --make-rprivate /
mount -t tmpfs run /run
mkdir /run/units
cp -r "$UNITS/." /run/units
mount -t proc proc /proc
mount --bind /proc/sys /proc/sys
mount -o remount,bind,ro /proc/sys
if [ "$ETC" = own ]; then
    cp -a /etc /run/etc
    mount --bind /run/etc /etc
else
    mount --rbind /etc /etc
    mount -o remount,bind,ro /etc
fi
umount -R /sys/fs/cgroup
if [ "$HYBRID" = yes ]; then
    mount -t tmpfs -o mode=755 cgroup /sys/fs/cgroup
    mkdir /sys/fs/cgroup/systemd /sys/fs/cgroup/unified
    mount -t cgroup -o none,name=systemd cgroup /sys/fs/cgroup/systemd
    mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified
else
    mount -t cgroup2 cgroup2 /sys/fs/cgroup
fi
mkdir -p /run/empty
[ "$ETC" = own ] || mount --bind /run/empty /etc/systemd/system
export container=test SYSTEMD_UNIT_PATH=/etc/systemd/system:/run/units
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
exec /lib/systemd/systemd --system --unit=multi-user.target --log-target=null
"""


class NoSystemdError(Exception):
    """None can be booted here, and why."""


@dataclass(frozen=True)
class NestedSystemd:
    """One that runs; `pid` is its number outside of its namespace."""

    pid: int

    def ctl(self, *arguments: str) -> str:
        """Run systemctl; what it prints."""
        inside = ["nsenter", "-t", str(self.pid), "-m", "-p", "systemctl", *arguments]
        done = subprocess.run(inside, capture_output=True, text=True, check=False, timeout=CALL)
        assert done.returncode == 0, (arguments, done.stdout, done.stderr)
        return done.stdout

    def run(self, argv: Sequence[str], env: Mapping[str, str], text: str = "") -> subprocess.CompletedProcess[str]:
        """Run a program beside it, as root."""
        inside = ["nsenter", "-t", str(self.pid), "-m", "-p", "-u", "-i", "-C", *argv]
        return subprocess.run(inside, env=env, input=text, capture_output=True, text=True, check=False, timeout=CALL)

    def show(self, unit: str, name: str) -> str:
        """A property of a unit."""
        return self.ctl("show", "--value", "-p", name, unit).strip()


@contextmanager
def booted(folder: Path, units: Mapping[str, str], *, own_etc: bool = False) -> Iterator[NestedSystemd]:
    """Boot it with these units, by file name; none is started. At the end it is killed with all that it has.

    own_etc: give it a copy of /etc that it may change.
    """
    if not SYSTEMD.exists():
        raise NoSystemdError(f"there is no {SYSTEMD} (Debian: apt-get install systemd)")
    written = folder / "units"
    for name, text in {**dict.fromkeys((f"{one}.target" for one in TARGETS), "[Unit]\n"), **units}.items():
        (written / name).parent.mkdir(parents=True, exist_ok=True)
        (written / name).write_text(text if text != "[Unit]\n" else "[Unit]\nDefaultDependencies=no\n")
    groups = _make_groups(f"corral-test-{uuid4().hex[:12]}")
    join = "".join(f"echo $$ > {group}/cgroup.procs 2>/dev/null || true\n" for group in groups)
    start = f'{join}exec unshare -m -p -u -i -C --fork --kill-child sh -c "$INSIDE"'
    hybrid = "yes" if (GROUPS / "unified").is_dir() else "no"
    env = {
        **os.environ,
        "UNITS": str(written),
        "HYBRID": hybrid,
        "INSIDE": INSIDE,
        "ETC": "own" if own_etc else "shared",
    }
    with (folder / "systemd.log").open("wb") as said:
        outside = subprocess.Popen(["sh", "-c", start], env=env, stdin=subprocess.DEVNULL, stdout=said, stderr=said)
    try:
        yield _wait_for(outside, folder / "systemd.log")
    finally:
        for child in _children(outside.pid):
            os.kill(child, 9)  # process 1: the kernel kills all others of the namespace
        outside.kill()
        outside.wait(10)
        wait_until(lambda: _removed(groups), what="the cgroups of the systemd were empty")


def _wait_for(outside: "subprocess.Popen[bytes]", said: Path) -> NestedSystemd:
    def up() -> NestedSystemd | None:
        if outside.poll() is not None:
            raise NoSystemdError(f"it does not boot here: {said.read_text()[-300:]}")
        for child in _children(outside.pid):
            with suppress(AssertionError, subprocess.TimeoutExpired):
                found = NestedSystemd(child)
                if found.show("multi-user.target", "ActiveState") == "active":
                    return found
        return None

    try:
        return wait_until(up, BOOT, "a systemd had booted", said.read_text)
    except AssertionError as error:
        raise NoSystemdError(str(error)) from None


def _children(pid: int) -> list[int]:
    with suppress(OSError):
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def _make_groups(name: str) -> list[Path]:
    """A cgroup of its own in each hierarchy, below the one that this process is in."""
    made = []
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, names, path = line.split(":", 2)
        if names:
            root = GROUPS / names.removeprefix("name=")
        else:
            root = GROUPS / "unified" if (GROUPS / "unified").is_dir() else GROUPS
        group = root / path.lstrip("/") / name
        with suppress(OSError):
            group.mkdir()
            made.append(group)
    return made


def _removed(groups: list[Path]) -> bool:
    for group in groups:
        for folder, _, _ in os.walk(group, topdown=False):
            with suppress(OSError):
                Path(folder).rmdir()
    return not any(group.exists() for group in groups)


def why_not() -> str:
    """Why none is to be booted; empty if one is."""
    if os.environ.get("CORRAL_TEST_SYSTEMD") != "1":
        return "boots a systemd in namespaces: CORRAL_TEST_SYSTEMD=1 allows it"
    if os.geteuid() != 0 or not shutil.which("nsenter") or not shutil.which("unshare"):
        return "needs root, unshare and nsenter (util-linux)"
    return ""
