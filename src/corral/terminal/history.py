"""What a person typed, kept in a file of mode 0600."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path

from prompt_toolkit.history import FileHistory, History, InMemoryHistory

MOST_BYTES = 512 * 1024  # of the file; of a longer one the later half is kept


class PrivateHistory(FileHistory):
    """A FileHistory of mode 0600 that stays short, and whose disk may be full."""

    def __init__(self, path: Path, tell: Callable[[str], None]) -> None:
        """`tell`: called once, with the reason, if nothing can be kept."""
        self._path = path
        self._tell = tell
        self._works = True
        super().__init__(path)

    def load_history_strings(self) -> Iterable[str]:
        """Newest first."""
        try:
            self._prepare()
            return list(super().load_history_strings())
        except OSError as error:
            self._fail(error)
            return []

    def store_string(self, string: str) -> None:
        """Add to the file."""
        if not self._works:
            return
        try:
            super().store_string(string)
        except OSError as error:
            self._fail(error)

    def _prepare(self) -> None:
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "r+b") as file:
            os.fchmod(descriptor, 0o600)
            if os.fstat(descriptor).st_size > MOST_BYTES:
                file.seek(-MOST_BYTES // 2, os.SEEK_END)
                kept = file.read()
                file.seek(0)
                file.truncate()
                file.write(kept[kept.find(b"\n#") + 1 :])

    def _fail(self, error: OSError) -> None:
        if self._works:
            self._works = False
            self._tell(f"what you type is not remembered: {self._path}: {error.strerror or error}")


def history_of(path: Path | None, tell: Callable[[str], None]) -> History:
    """The history in the file `path`; None: one that is kept in memory."""
    return InMemoryHistory() if path is None else PrivateHistory(path, tell)


def history_file(state_dir: Path, person: str) -> Path:
    """Where a person's history is kept: the name may hold anything."""
    safe = "".join(letter if letter.isalnum() or letter in "-_" else f"%{ord(letter):x}" for letter in person)
    return state_dir / "history" / (safe or "%")
