"""What a setup has made on this machine, written down as it is made: a removal undoes that, and nothing else."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Self, get_args

from corral.install.setup.errors import SetupError

FILE = Path("/etc/corral/setup.json")
_VERSION = 1

Kind = Literal["account", "folder", "file", "service"]


@dataclass(frozen=True, slots=True)
class Made:
    """One thing that was made."""

    kind: Kind
    name: str
    """An account, a path, or a unit."""
    digest: str = ""
    """Of a file: the SHA-256 of what was written. Of an account: its number; empty until it is known to be made."""


@dataclass
class Receipt:
    """The list of what was made, oldest first. Each change is on the disk when it returns.

    A thing is in it before it is made, so that a setup that is killed has made nothing that is not in it. A file that
    is being written anew is in it twice, with its old text and its new one.
    """

    path: Path
    state_dir: str = ""
    """The state folder of the service that was set up."""
    service_user: str = ""
    made: list[Made] = field(default_factory=list)
    made_folder: bool = False
    """Whether a setup made the folder that this file is in: it goes with the file."""

    @classmethod
    def read(cls, path: Path = FILE) -> Self:
        """The receipt, empty where there is none. Raises SetupError for one that cannot be read."""
        try:
            document: Any = json.loads(_own_text(path))
            if document["version"] != _VERSION:
                raise SetupError(f"{path} was written by another version of Corral: use that one")
            made = [Made(**one) for one in document["made"]]
            found = cls(path, document["state_dir"], document["service_user"], made, document["made_folder"])
            found._check()
        except FileNotFoundError:
            return cls(path)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise SetupError(
                f"{path} cannot be read ({error}), so what a setup has made is not known: put the file back from a "
                "backup, or remove by hand what docs/how-to/set-up.md lists, and then this file"
            ) from None
        return found

    def _check(self) -> None:
        """Raise ValueError for what no setup has written: its names are handed to programs that run as root."""
        whose: list[Any] = [self.state_dir, self.service_user]
        if self.made and not all(isinstance(one, str) and one for one in whose):
            raise ValueError("it does not say whose service it is")
        for one in self.made:
            words: list[Any] = [one.name, one.digest]
            if one.kind not in get_args(Kind) or not all(isinstance(word, str) for word in words):
                raise ValueError(f"it names {one.name!r} as a {one.kind!r}")
            if one.kind in ("file", "folder") and not Path(one.name).is_absolute():
                raise ValueError(f"{one.name!r} is not an absolute path")

    def belongs_to(self, service_user: str, state_dir: Path) -> None:
        """Note whose setup it is. Raises SetupError where that of another service is not undone yet.

        A removal looks for processes of one account, in one state folder: it would not see those of the other.
        """
        if self.made and (self.service_user, self.state_dir) != (service_user, str(state_dir)):
            raise SetupError(
                f"this machine has the setup of a service of {self.service_user} in {self.state_dir}: go on with that "
                f"one (--service-user {self.service_user} --state-dir {self.state_dir}), or undo it first (--remove)"
            )
        self.service_user, self.state_dir = service_user, str(state_dir)

    def names(self, kind: Kind, name: str) -> bool:
        """Whether a setup made it, or began to."""
        return any((one.kind, one.name) == (kind, name) for one in self.made)

    def begin(self, kind: Kind, name: str, digest: str = "") -> None:
        """Something is about to be made. Raises SetupError."""
        if (made := Made(kind, name, digest)) not in self.made:
            self.made.append(made)
            self._write()

    def failed(self, kind: Kind, name: str, digest: str = "") -> None:
        """What was begun was not made. Raises SetupError."""
        self.made.remove(Made(kind, name, digest))
        self._write_or_remove()

    def add(self, kind: Kind, name: str, digest: str = "") -> None:
        """Something was made, or made again. Raises SetupError."""
        self.made = [one for one in self.made if (one.kind, one.name) != (kind, name)]
        self.made.append(Made(kind, name, digest))
        self._write()

    def drop(self, made: Made) -> None:
        """It is gone again. The file goes with the last one. Raises SetupError."""
        self.made = [one for one in self.made if (one.kind, one.name) != (made.kind, made.name)]
        self._write_or_remove()

    def _write_or_remove(self) -> None:
        if self.made:
            self._write()
            return
        self.path.unlink(missing_ok=True)
        if self.made_folder:
            with suppress(OSError):  # somebody keeps something in it
                self.path.parent.rmdir()

    def make_folder(self) -> None:
        """Make the folder that this file is in. Raises OSError."""
        if not self.path.parent.exists():
            self.path.parent.mkdir(mode=0o755, parents=True)
            self.made_folder = True

    def wrote(self, path: Path, digest: str) -> bool:
        """Whether a setup wrote this file, and nobody has changed it since."""
        return Made("file", str(path), digest) in self.made

    def _write(self) -> None:
        document = {
            "version": _VERSION,
            "state_dir": self.state_dir,
            "service_user": self.service_user,
            "made_folder": self.made_folder,
            "made": [asdict(one) for one in self.made],
        }
        try:
            self.make_folder()
            document["made_folder"] = self.made_folder
            put(self.path, json.dumps(document, indent=2) + "\n", mode=0o600)
        except OSError as error:
            raise SetupError(f"{self.path} cannot be written: {error.strerror or error}") from None


@contextmanager
def alone(folder: Path = FILE.parent.parent) -> Iterator[None]:
    """Be the only setup at work on this machine. Raises SetupError if another is."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise SetupError(f"{folder} cannot be opened: {error.strerror}") from None
    try:
        # The folder itself, so that no file of a lock is left: the kernel gives it up with this process.
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise SetupError("another `corral setup` is at work on this machine: wait for its end") from None
    try:
        yield
    finally:
        os.close(descriptor)


def _own_text(path: Path) -> str:
    """The text of a file that only this account can have written. Raises OSError, ValueError."""
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), encoding="utf-8") as file:
        about = os.fstat(file.fileno())
        if not stat.S_ISREG(about.st_mode) or about.st_uid != os.geteuid() or about.st_mode & 0o022:
            raise ValueError("somebody else may write to it")
        return file.read()


def digest_of(text: str) -> str:
    """As the receipt has it."""
    return hashlib.sha256(text.encode()).hexdigest()


def put(path: Path, text: str, *, mode: int, uid: int = 0, gid: int = 0) -> None:
    """Write a file whole or not at all, with its owner and mode, in the place of whatever has its name. OSError."""
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            os.fchown(file.fileno(), uid, gid)
            os.fchmod(file.fileno(), mode)
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
