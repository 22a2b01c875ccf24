"""Undoing a setup: what it made, in the reverse order, and nothing that somebody has changed since."""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from corral.install import units
from corral.install.accounts import program as own_program
from corral.install.calls import call
from corral.install.setup.errors import SetupError
from corral.install.setup.receipt import Made, digest_of
from corral.install.setup.step import Look, Step
from corral.install.setup.steps import SYSTEMD, account, as_account, must, program

if TYPE_CHECKING:
    from corral.install.setup.receipt import Receipt

_SWEEP_TIMEOUT = 300.0  # seconds


def steps(receipt: Receipt, *, state: bool, accounts: bool) -> list[Step]:
    """The steps that undo what the receipt has, the last made first; the proof that nothing runs comes before rules go.

    state: whether conversations and reports go too. accounts: whether accounts that were made do.
    """
    order = list(reversed(receipt.made))
    services: list[Step] = [StopStep(one) for one in order if one.kind == "service"]
    names = dict.fromkeys(one.name for one in order if one.kind == "file")
    files: list[Step] = [UnwriteStep(Path(name)) for name in names]
    folders: list[Step] = [
        EmptyStep(one, whole=state and _is_state(one, receipt)) for one in order if one.kind == "folder"
    ]
    users: list[Step] = [AccountGoesStep(one, allowed=accounts) for one in order if one.kind == "account"]
    return [*services, NothingRunsStep(), *files, *folders, *users]


def left(receipt: Receipt) -> Iterator[str]:
    """What of the setup is there still."""
    for made in receipt.made:
        yield f"{made.kind} {made.name}"


def _is_state(made: Made, receipt: Receipt) -> bool:
    entry = account(receipt.service_user)
    path = Path(made.name)
    return entry is not None and path.is_dir() and path.stat().st_uid == entry.pw_uid


@dataclass(frozen=True)
class StopStep:
    """Stop a unit, and start it no more."""

    made: Made

    @property
    def title(self) -> str:
        return f"unit {self.made.name}"

    def look(self, receipt: Receipt) -> Look:
        if self.made not in receipt.made:
            return Look("done", "is stopped")
        return Look("todo", f"systemctl disable --now {self.made.name}")

    def do(self, receipt: Receipt) -> None:
        if SYSTEMD.exists():
            self._stop()
        receipt.drop(self.made)

    def _stop(self) -> None:
        show = [program("systemctl"), "show", "--property=LoadState", "--value", self.made.name]
        if call(show, 20.0).out.strip() != "not-found":
            must(["systemctl", "stop", "--quiet", self.made.name], _SWEEP_TIMEOUT)
        disable = ["systemctl", "disable", "--quiet", self.made.name]
        if Path(units.UNIT).exists():
            must(disable, _SWEEP_TIMEOUT)
        else:  # refused without its file, which somebody has removed; a link to it that is left starts nothing
            call([program(disable[0]), *disable[1:]], _SWEEP_TIMEOUT)


@dataclass(frozen=True)
class NothingRunsStep:
    """`corral sweep` as the service's account, while its rules are still there: ends what is left, and says so."""

    title: str = "sweep"

    def look(self, receipt: Receipt) -> Look:
        if account(receipt.service_user) is None:
            return Look("done", f"there is no account {receipt.service_user} that could run anything")
        return Look("todo", "end what dead services left: `corral sweep`")

    def do(self, receipt: Receipt) -> None:
        argv = [*own_program(), "sweep", "--json", "--state-dir", receipt.state_dir]
        said = as_account(receipt.service_user, argv, _SWEEP_TIMEOUT)
        try:
            result = json.loads(said.out)
        except ValueError:
            raise SetupError(f"whether anything is left is not known, so the rules stay: {said.first_line}") from None
        if result["live"]:
            running = ", ".join(f"{one['command']} of {one['user']}" for one in result["live"])
            raise SetupError(f"the service still runs, with {running}: stop it, and run this again")
        if not result["clean"]:
            raise SetupError(f"something may be left, so the rules that end it stay: see `{shlex.join(argv)}`")


@dataclass(frozen=True)
class UnwriteStep:
    """Remove a file, if it is as it was written."""

    path: Path

    @property
    def title(self) -> str:
        return f"file {self.path}"

    def look(self, receipt: Receipt) -> Look:
        if not receipt.names("file", str(self.path)):
            return Look("done", "is gone")
        try:
            ours = not self.path.is_symlink() and receipt.wrote(self.path, digest_of(self.path.read_text()))
        except FileNotFoundError:
            return Look("todo", "is gone already")
        except (OSError, UnicodeDecodeError):
            ours = False
        return Look("todo", "remove it") if ours else Look("left", "was changed since: it is somebody's work now")

    def do(self, receipt: Receipt) -> None:
        try:
            self.path.unlink(missing_ok=True)
        except OSError as error:
            raise SetupError(f"{self.path} cannot be removed: {error.strerror}") from None
        receipt.drop(Made("file", str(self.path)))
        if str(self.path).startswith("/etc/systemd/") and SYSTEMD.exists():
            must(["systemctl", "daemon-reload"])


@dataclass(frozen=True)
class EmptyStep:
    """Remove a folder that is empty, or whole."""

    made: Made
    whole: bool

    @property
    def title(self) -> str:
        return f"folder {self.made.name}"

    def look(self, receipt: Receipt) -> Look:
        path = Path(self.made.name)
        if self.made not in receipt.made:
            return Look("done", "is gone")
        if not path.is_dir() or path.is_symlink():
            return Look("todo", "is gone already")
        if self.whole:
            return Look("todo", "remove it with all that is in it")
        inside = [one for one in path.iterdir() if not _goes(one, receipt)]
        if inside:
            return Look("left", f"is not empty ({inside[0].name})", "conversations and reports go with --state")
        return Look("todo", "remove it")

    def do(self, receipt: Receipt) -> None:
        path = Path(self.made.name)
        try:
            if path.is_dir() and not path.is_symlink():
                if self.whole:
                    shutil.rmtree(path)
                else:
                    path.rmdir()
        except OSError as error:
            raise SetupError(f"{path} cannot be removed: {error.strerror}") from None
        receipt.drop(self.made)


def _goes(path: Path, receipt: Receipt) -> bool:
    """Whether a step before this one removes it."""
    return any(one.name == str(path) for one in receipt.made)


@dataclass(frozen=True)
class AccountGoesStep:
    """Remove an account that was made. Its home stays."""

    made: Made
    allowed: bool

    @property
    def title(self) -> str:
        return f"account {self.made.name}"

    def look(self, receipt: Receipt) -> Look:
        if self.made not in receipt.made:
            return Look("done", "is gone")
        entry = account(self.made.name)
        if entry is not None and not self.made.digest:
            return Look("left", "a setup was cut off as it made it, or somebody else made it", "userdel, by hand")
        if entry is not None and str(entry.pw_uid) != self.made.digest:
            return Look("left", f"was made anew since (uid {entry.pw_uid}, not {self.made.digest}): is somebody's now")
        if not self.allowed:
            return Look("left", "stays with its home", "--accounts removes accounts, and leaves their homes")
        return Look("todo", f"userdel {self.made.name}; its home stays")

    def do(self, receipt: Receipt) -> None:
        if account(self.made.name) is not None:
            must(["userdel", self.made.name])
        receipt.drop(self.made)
