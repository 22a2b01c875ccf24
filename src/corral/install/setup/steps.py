"""The steps that make things: accounts, folders, files, a unit that runs."""

from __future__ import annotations

import os
import pwd
import shlex
import shutil
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from corral.backends.environment import HOST_NAMES
from corral.install.calls import Said, call
from corral.install.setup.errors import SetupError
from corral.install.setup.receipt import digest_of, put
from corral.install.setup.step import Look

if TYPE_CHECKING:
    from corral.install.setup.receipt import Receipt

LATER = Look("todo", "once the accounts are there")
START_TIMEOUT = 120.0  # seconds for a unit to say that it is ready; it sweeps first
SYSTEMD = Path("/run/systemd/system")
"""Is there where systemd runs: sd_booted(3)."""
_KEPT = HOST_NAMES | {"PATH", "PYTHONPATH", "PYTHONDONTWRITEBYTECODE"}
_USUAL = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def account(name: str) -> pwd.struct_passwd | None:
    """The entry of an account; None if there is none."""
    try:
        return pwd.getpwnam(name)
    except (KeyError, ValueError):
        return None


def as_account(name: str, argv: Sequence[str], timeout: float) -> Said:
    """Run a program as an account that root may become, with its home and root's search path. Raises nothing.

    Of root's environment it gets what an agent gets of a service's: what else root has there is not for that account.
    """
    entry = account(name)
    assert entry is not None, "the accounts come first"
    kept = {key: value for key, value in os.environ.items() if key in _KEPT or key.startswith("LC_")}
    own = {"HOME": entry.pw_dir, "USER": name, "LOGNAME": name}
    return call(argv, timeout, env={**kept, **own}, account=entry)


def program(name: str) -> str:
    """A program of the system's administration, with its full path. Raises SetupError."""
    if found := shutil.which(name, path=f"{os.environ.get('PATH', '')}:{_USUAL}"):
        return found
    raise SetupError(f"there is no {name} on this machine: install it")


def must(argv: Sequence[str], timeout: float = 30.0) -> None:
    """Run a command that has to succeed. Raises SetupError with its words."""
    said = call([program(argv[0]), *argv[1:]], timeout)
    if said.status != 0:
        raise SetupError(f"`{shlex.join(argv)}` failed: {said.first_line or f'status {said.status}'}")


@dataclass(frozen=True)
class AccountStep:
    """An account of this machine."""

    name: str
    command: tuple[str, ...]
    """What makes it."""
    allowed: bool
    """Whether it may be made, where it is missing."""

    @property
    def title(self) -> str:
        return f"account {self.name}"

    def look(self, receipt: Receipt) -> Look:  # noqa: ARG002 - an account is there or not, whoever made it
        entry = account(self.name)
        if entry is not None and entry.pw_uid == 0:
            return Look("refused", f"{self.name} is root", "an agent that runs as root can do everything: name another")
        if entry is not None:
            return Look("done", f"is there (uid {entry.pw_uid})")
        if not self.allowed:
            return Look("refused", "is not there", "make it, or let the setup make it: --create-accounts")
        return Look("todo", shlex.join(self.command))

    def do(self, receipt: Receipt) -> None:
        receipt.begin("account", self.name)
        try:
            must(self.command)
        except SetupError:
            receipt.failed("account", self.name)
            raise
        entry = account(self.name)
        if entry is None:
            receipt.failed("account", self.name)
            raise SetupError(f"`{shlex.join(self.command)}` made no account {self.name}: make it by hand")
        receipt.add("account", self.name, str(entry.pw_uid))


@dataclass(frozen=True)
class FolderStep:
    """A folder with its owner and mode."""

    path: Path
    owner: str
    mode: int

    @property
    def title(self) -> str:
        return f"folder {self.path}"

    def look(self, receipt: Receipt) -> Look:
        entry = account(self.owner)
        if self.path.is_symlink():
            return Look("refused", "is a symbolic link", "remove it, or name the folder that it leads to")
        try:
            about = self.path.stat()
        except FileNotFoundError:
            return LATER if entry is None else Look("todo", f"make it, {self.mode:04o}, of {self.owner}")
        except OSError as error:
            return Look("refused", f"cannot be looked at: {error.strerror}", "fix that first")
        if not stat.S_ISDIR(about.st_mode):
            return Look("refused", "is not a folder", "remove it, or name another")
        if entry is not None and (about.st_uid, stat.S_IMODE(about.st_mode)) == (entry.pw_uid, self.mode):
            return Look("done", f"is there, {self.mode:04o}, of {self.owner}")
        if entry is None:
            return LATER
        if receipt.names("folder", str(self.path)) and about.st_uid == os.geteuid() and not any(self.path.iterdir()):
            return Look("todo", f"give it to {self.owner}, {self.mode:04o}: a setup was cut off there")
        commands = f"chown {self.owner} {shlex.quote(str(self.path))} && chmod {self.mode:04o} {self.path}"
        return Look("refused", "is there with another owner or mode", f"if nobody else needs it: {commands}")

    def do(self, receipt: Receipt) -> None:
        entry = account(self.owner)
        assert entry is not None, "the accounts come first"
        try:
            for parent in reversed(self.path.parents):
                if not parent.exists():
                    _make_folder(parent, 0o755, receipt)
            if not receipt.names("folder", str(self.path)) or not self.path.exists():
                _make_folder(self.path, 0o700, receipt)
            self._give(entry)
        except OSError as error:
            raise SetupError(f"{self.path} cannot be made: {error.strerror}") from None

    def _give(self, entry: pwd.struct_passwd) -> None:
        """Give the folder that root has just made to its owner, and no other that is in its place now. OSError."""
        descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            if os.fstat(descriptor).st_uid != os.geteuid() or os.listdir(descriptor):  # noqa: PTH208 - of the descriptor
                raise SetupError(f"{self.path} was replaced while it was made: somebody else may write to its parent")
            os.fchmod(descriptor, self.mode)
            os.fchown(descriptor, entry.pw_uid, entry.pw_gid)
        finally:
            os.close(descriptor)


def _make_folder(path: Path, mode: int, receipt: Receipt) -> None:
    """Make one folder. Raises OSError, SetupError."""
    receipt.begin("folder", str(path))
    try:
        path.mkdir(mode=mode)
    except OSError:
        receipt.failed("folder", str(path))
        raise


@dataclass(frozen=True)
class FileStep:
    """A file with a text, which only root may write."""

    path: Path
    text: Callable[[], str | None]
    """What is to be in it; None as long as that cannot be said, because accounts are missing. Raises SetupError."""
    mode: int = 0o644
    group: str | None = None
    """The account whose group may read it; None: root's."""
    check: Callable[[str], str] = lambda _text: ""
    """What is wrong with the text; empty if nothing is."""
    after: Sequence[Sequence[str]] = ()
    """Commands that follow when it was written."""
    keep: bool = False
    """Whether a file that is there stays, whatever is in it."""
    fault: Callable[[], str] = lambda: ""
    """For one that is kept: what it lacks; empty if nothing."""

    @property
    def title(self) -> str:
        return f"file {self.path}"

    def look(self, receipt: Receipt) -> Look:
        try:
            if self.path.is_symlink():
                return Look("refused", "is a symbolic link", "remove it")
            if self.keep and self.path.exists():
                return self._kept()
            text = self.text()
            if text is None:
                return LATER
            if fault := self.check(text):
                return Look("refused", fault, "nothing was written")
            return self._compared(text, receipt)
        except SetupError as error:
            return Look("refused", str(error))
        except OSError as error:
            return Look("refused", f"cannot be looked at: {error.strerror}", "fix that first")

    def _kept(self) -> Look:
        fault = self.fault()
        return Look("refused", "is there, and stays as it is", fault) if fault else Look("done", "is there, and stays")

    def _compared(self, text: str, receipt: Receipt) -> Look:
        try:
            there = self.path.read_text()
        except FileNotFoundError:
            return Look("todo", f"write it, {self.mode:04o}")
        except UnicodeDecodeError:
            there = ""
        about = self.path.stat()
        if there == text and (about.st_uid, stat.S_IMODE(about.st_mode)) == (os.geteuid(), self.mode):
            return Look("done", "is as it should be")
        if there == text or receipt.wrote(self.path, digest_of(there)):
            return Look("todo", f"write it anew, {self.mode:04o}")
        return Look("refused", "is there, and a setup did not write it or somebody has changed it", "move it away")

    def do(self, receipt: Receipt) -> None:
        text = self.text()
        assert text is not None, "the accounts come first"
        entry = account(self.group) if self.group is not None else None
        try:
            if self.path.parent == receipt.path.parent:
                receipt.make_folder()
            elif not self.path.parent.exists():
                _make_folder(self.path.parent, 0o755, receipt)
            receipt.begin("file", str(self.path), digest_of(text))
            put(self.path, text, mode=self.mode, gid=entry.pw_gid if entry is not None else 0)
        except OSError as error:
            raise SetupError(f"{self.path} cannot be written: {error.strerror}") from None
        receipt.add("file", str(self.path), digest_of(text))
        for command in self.after:
            must(command)


@dataclass(frozen=True)
class UnitStep:
    """A unit that runs, and that systemd starts with the machine."""

    unit: str
    config: Path
    """What it reads at its start: a unit that is older than this, or than its own file, is started again."""

    @property
    def title(self) -> str:
        return f"unit {self.unit}"

    def look(self, receipt: Receipt) -> Look:  # noqa: ARG002 - systemd knows
        if not SYSTEMD.exists():
            return Look("left", "systemd does not run here: nothing starts it with the machine")
        if self._says("is-active") != "active" or self._says("is-enabled") != "enabled":
            return Look("todo", f"systemctl enable {self.unit} && systemctl restart {self.unit}")
        if self._says("show", "--property=NeedDaemonReload", "--value") == "yes":
            return Look("todo", f"systemctl daemon-reload && systemctl restart {self.unit}")
        return Look("done", "runs, and is started with the machine")

    def do(self, receipt: Receipt) -> None:
        receipt.add("service", self.unit)
        must(["systemctl", "daemon-reload"], START_TIMEOUT)
        must(["systemctl", "enable", "--quiet", self.unit], START_TIMEOUT)
        said = call([program("systemctl"), "restart", self.unit], START_TIMEOUT)
        if said.status != 0:
            raise SetupError(f"{self.unit} does not start: see `journalctl -u {self.unit} -n 20`")

    def _says(self, *words: str) -> str:
        return call([program("systemctl"), *words, self.unit], 20.0).out.strip()
