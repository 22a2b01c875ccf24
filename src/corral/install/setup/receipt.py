"""What a setup has made on this machine, written down as it is made: a removal undoes that, and nothing else."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

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
    """Of a file: the SHA-256 of what was written."""


@dataclass
class Receipt:
    """The list of what was made, oldest first. Each change is on the disk when it returns."""

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
            document: Any = json.loads(path.read_text())
            if document["version"] != _VERSION:
                raise SetupError(f"{path} was written by another version of Corral: use that one")
            made = [Made(**one) for one in document["made"]]
            return cls(path, document["state_dir"], document["service_user"], made, document["made_folder"])
        except FileNotFoundError:
            return cls(path)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise SetupError(f"{path} cannot be read ({error}): what a setup has made is not known") from None

    def add(self, kind: Kind, name: str, digest: str = "") -> None:
        """Something was made, or made again. Raises SetupError."""
        self.made = [one for one in self.made if (one.kind, one.name) != (kind, name)]
        self.made.append(Made(kind, name, digest))
        self._write()

    def drop(self, made: Made) -> None:
        """It is gone again. The file goes with the last one. Raises SetupError."""
        self.made.remove(made)
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
