"""Where the demo plays: which account, which codex, and the folders, all of which go at the end."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from corral.backends.codex import Codex, find_codex
from corral.backends.errors import EngineNotFoundError
from corral.demo.look import alive, anybody
from corral.demo.offline import NO_PROXY

ACCOUNTS = ("games", "news", "uucp", "nobody")
"""System accounts that nothing should run under; the first that exists and has no processes is taken."""
CHECK_TIMEOUT = 30.0  # seconds

Tell = Callable[[str], None]


class DemoFailed(Exception):
    """The demo did not show what it should; the message says what."""


@dataclass(frozen=True, slots=True)
class Place:
    """What both acts need."""

    user: str | None
    """The other account; None for this one."""
    command: list[str]
    python: str
    """An interpreter that the account may start, for the server."""
    folder: Path
    """Its name is in the environment or the command line of everything in the demo."""

    @property
    def uid(self) -> int | None:
        """The other account's number."""
        return None if self.user is None else pwd.getpwnam(self.user).pw_uid

    @property
    def account(self) -> str:
        """Its name."""
        return self.user or pwd.getpwuid(os.getuid()).pw_name

    @property
    def home(self) -> Path:
        """CODEX_HOME: an empty one, so that nobody's settings and conversations are touched."""
        return self.folder / "home"

    @property
    def workspace(self) -> Path:
        return self.folder / "work"

    @property
    def state_dir(self) -> Path:
        return self.folder / "state"

    @property
    def env(self) -> dict[str, str]:
        return {"CODEX_HOME": str(self.home), "TMPDIR": str(self.home), **NO_PROXY}

    def codex(self, overrides: Sequence[str]) -> Codex:
        """A codex that asks nobody, with these settings."""
        return Codex(self.command, approval="never", sandbox="danger-full-access", overrides=overrides)

    def alive(self) -> list[str]:
        """Whom an independent look at the process table finds, as lines."""
        return [f"pid {seen.pid} {seen.command}" for seen in alive(self.folder.name, self.uid)]


@contextmanager
def prepared(tell: Tell) -> Iterator[Place]:
    """Choose the account and make the folders; `tell` hears what is done and why."""
    folder = Path(tempfile.mkdtemp(prefix="corral-demo-"))
    try:
        folder.chmod(0o711)
        (folder / "state").mkdir(mode=0o700)
        yield _under_another_account(folder, tell) or _under_this_account(folder, tell)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _under_another_account(folder: Path, tell: Tell) -> Place | None:
    user, why = _choose_account()
    if user is not None:
        _make_folders(folder, user)
        python = next((path for path in _pythons() if _runs(user, [path, "-c", "import http.server"])), None)
        command = _codex_for(user, folder, tell)
        if python and command:
            return Place(user, command, python, folder)
        if not command and not _codexes():
            return None  # the same holds under this account, where it is said
        what = "Python" if command else "codex"
        why = f"{user} can start no {what} that is installed here"
    tell(f"Codex runs under this account and not under another: {why}.")
    return None


def _under_this_account(folder: Path, tell: Tell) -> Place:
    try:
        command = find_codex()
    except EngineNotFoundError as error:
        raise DemoFailed(f"{error}, or run the demo with `make demo`, which installs it") from error
    _make_folders(folder, None)
    version = _version(None, command, folder)
    if version is None:
        raise DemoFailed(f"{command[0]} does not start: try `{command[0]} --version`")
    tell(f"Codex: {version}, {command[0]}")
    return Place(None, command, sys.executable, folder)


def _choose_account() -> tuple[str | None, str]:
    """The account, or why there is none."""
    if os.geteuid() != 0:
        return None, "that needs root, to give it a folder (try: sudo make demo)"
    if not shutil.which("sudo"):
        return None, "there is no sudo"
    refused = ""
    for name in ACCOUNTS:
        try:
            uid = pwd.getpwnam(name).pw_uid
        except KeyError:
            continue
        if anybody(uid):
            continue
        if _runs(name, ["/bin/true"]) or _runs(name, ["/usr/bin/true"]):
            return name, ""
        refused = f"sudo does not let root change to {name}"
    return None, refused or f"none of {', '.join(ACCOUNTS)} exists and has no processes"


def _make_folders(folder: Path, user: str | None) -> None:
    for name in ("home", "work"):
        path = folder / name
        path.mkdir(mode=0o700, exist_ok=True)
        account = pwd.getpwnam(user) if user is not None else pwd.getpwuid(os.getuid())
        if os.geteuid() == 0:
            os.chown(path, account.pw_uid, account.pw_gid)


def _codex_for(user: str, folder: Path, tell: Tell) -> list[str] | None:
    """A codex that the account may start: one of this machine as it is, or its binary in a folder of the demo's."""
    found = _codexes()
    for command in found:
        if version := _version(user, command, folder):
            tell(f"Codex: {version}, {command[0]}")
            return command
    for command in found:
        program = Path(command[0]).resolve()
        if not _is_native(program):
            continue
        size = program.stat().st_size / 2**20
        tell(f"{user} may not enter the folder of {program}: the binary ({size:.0f} MB) is linked or copied out of it.")
        copy = [str(_lend(program, folder / "bin"))]
        if version := _version(user, copy, folder):
            tell(f"Codex: {version}, {copy[0]}")
            return copy
    return None


def _codexes() -> list[list[str]]:
    """The person's own, and the one from PyPI."""
    found: list[list[str]] = []
    for path in (None, os.devnull):
        try:
            command = find_codex(path)
        except EngineNotFoundError:
            continue
        if command not in found:
            found.append(command)
    return found


def _is_native(program: Path) -> bool:
    with program.open("rb") as file:
        return file.read(2) != b"#!"


def _lend(program: Path, folder: Path) -> Path:
    folder.mkdir(mode=0o755)
    folder.chmod(0o755)
    target = folder / "codex"
    try:
        if program.stat().st_mode & 0o005 == 0o005:
            target.hardlink_to(program)
            return target
    except OSError:
        target.unlink(missing_ok=True)  # another file system: copy
    shutil.copyfile(program, target)
    target.chmod(0o755)
    return target


def _pythons() -> list[str]:
    names = (sys.executable, "/usr/bin/python3", shutil.which("python3"))
    return list(dict.fromkeys(name for name in names if name))


def _version(user: str | None, command: Sequence[str], folder: Path) -> str | None:
    done = _run(user, ["/usr/bin/env", f"CODEX_HOME={folder / 'home'}", *command, "--version"])
    return done.stdout.strip() if done is not None and done.returncode == 0 else None


def _runs(user: str, argv: Sequence[str]) -> bool:
    done = _run(user, argv)
    return done is not None and done.returncode == 0


def _run(user: str | None, argv: Sequence[str]) -> subprocess.CompletedProcess[str] | None:
    """Run a short command to its end; None where it cannot be, or does not end in time."""
    sudo = ["sudo", "-n", "-H", "-u", user, "--"] if user is not None else []
    try:
        return subprocess.run(
            [*sudo, *argv],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=CHECK_TIMEOUT,
            cwd="/",
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
