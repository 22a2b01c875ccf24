"""Processes that cannot die for a while: frozen by cgroup v1, in whose freezer even KILL waits for the thaw."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from tempfile import mkdtemp

from tests.harness import namespace
from tests.harness.stage import Stage
from tests.harness.waiting import wait_until

_number = count()


@dataclass(frozen=True)
class Freezer:
    """A group of the freezer's hierarchy. What a frozen process had started before is not frozen with it."""

    group: Path

    def freeze(self, *pids: int) -> None:
        for pid in pids:
            (self.group / "cgroup.procs").write_text(str(pid))
        (self.group / "freezer.state").write_text("FROZEN")
        wait_until(lambda: self._state() == "FROZEN", what=f"{pids} were frozen")

    def thaw(self) -> None:
        (self.group / "freezer.state").write_text("THAWED")

    def _state(self) -> str:
        return (self.group / "freezer.state").read_text().strip()


class NoFreezerError(Exception):
    """This machine gives none, and why."""


@contextmanager
def freezer(stage: Stage) -> Iterator[Freezer]:
    """A freezer, in a mount that only this process sees; everything in it is thawed in the end. NoFreezerError."""
    if stage.lacking:
        raise NoFreezerError("a freezer is mounted as root, in the mount namespace of the stage")
    mount = stage.folder(f"freezer-{next(_number)}")
    try:
        namespace.freezer(mount)
    except OSError as error:
        raise NoFreezerError(f"the kernel gives no freezer of cgroup v1 ({error})") from None
    try:
        # Every test worker has a PID namespace of its own, and all share this hierarchy: a pid would not be unique.
        group = Path(mkdtemp(prefix="corral-test-", dir=mount))
        found = Freezer(group)
        try:
            yield found
        finally:  # What is frozen could not even be killed.
            found.thaw()
        wait_until(lambda: not (group / "cgroup.procs").read_text(), what="everything thawed had left the freezer")
        group.rmdir()
    finally:
        namespace.unmount(mount)
