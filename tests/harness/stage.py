"""The stage across accounts: a folder that every account may enter, with Corral, its libraries and the accounts' homes.

Everything is mounted in a private mount namespace of the pytest process. The clone may lie where other accounts cannot
go, and the machine keeps nothing: the accounts are Debian's own, and their homes are moved onto the stage.
"""

import os
import pwd
import shutil
import site
import stat
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from tests.harness import namespace, sudoers

SERVICE, PERSON, SECOND_PERSON = "games", "news", "uucp"
WORKERS_UIDS = 60_000
"""Each worker's three accounts have uids of their own from here on: the kernel counts processes by uid (RLIMIT_NPROC),
and in whatever PID namespace they are."""
REPOSITORY = Path(__file__).resolve().parents[2]
ETC = Path("/etc")


@dataclass(frozen=True)
class Account:
    """An account of the machine, with its home on the stage."""

    name: str
    uid: int
    gid: int
    home: Path


def why_not() -> str | None:
    """Say what the machine lacks for tests across accounts; None when it lacks nothing."""
    if sys.platform != "linux":
        return "tests across accounts need Linux"
    if os.geteuid() != 0:
        return "tests across accounts need root (it changes to the accounts games, news and uucp)"
    for program in ("sudo", "visudo", "kill"):
        if not shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"):
            return f"tests across accounts need {program} (Debian: apt-get install sudo procps)"
    for name in (SERVICE, PERSON, SECOND_PERSON):
        try:
            pwd.getpwnam(name)
        except KeyError:
            return f"tests across accounts need the system account {name}"
    return None


def _open_to_all(path: Path) -> bool:
    """Tell whether every account may enter and read this file or folder."""
    path = path.resolve()
    return all(folder.stat().st_mode & stat.S_IXOTH for folder in path.parents) and bool(
        path.stat().st_mode & stat.S_IROTH
    )


@dataclass
class Stage:
    """Where the tests run. Made by `raise_stage`, taken down by `close`."""

    root: Path
    lacking: str | None  # why nothing can be run across accounts, None when it can
    accounts: dict[str, Account]
    python: str
    python_path: tuple[str, ...]
    sudoers_file: Path | None = None
    commands: list[str] = field(default_factory=list)  # what the service account may run as the people
    _number: "count[int]" = field(default_factory=count)

    @property
    def service(self) -> Account:
        return self.accounts[SERVICE]

    @property
    def person(self) -> Account:
        return self.accounts[PERSON]

    @property
    def second_person(self) -> Account:
        return self.accounts[SECOND_PERSON]

    @property
    def uids(self) -> frozenset[int]:
        """The accounts that the tests use; none without the stage, where it is the developer's own."""
        return frozenset() if self.lacking else frozenset(account.uid for account in self.accounts.values())

    @property
    def harness(self) -> Path:
        """Where every account can read the harness's programs."""
        return (REPOSITORY if self.lacking else self.root) / "tests" / "harness"

    def folder(self, name: str, mode: int = 0o777, owner: Account | None = None) -> Path:
        path = self.root / name
        path.mkdir(parents=True, exist_ok=True)
        if owner is not None and not self.lacking:
            os.chown(path, owner.uid, owner.gid)
        path.chmod(mode)
        return path

    def test_folder(self, name: str) -> Path:
        """Return a new folder that every account may write to. Its name is unique: it serves as the test's marker."""
        return self.folder(f"run/{os.getpid()}-{next(self._number)}-{name[:40]}")

    def expose(self, source: Path) -> Path:
        """Return a path to this file or folder that every account can read, bound onto the stage if need be."""
        if self.lacking or _open_to_all(source):
            return source
        target = self.root / "exposed" / str(next(self._number)) / source.name
        target.parent.mkdir(parents=True)
        if source.is_dir():
            target.mkdir()
        else:
            target.touch()
        namespace.bind(source.resolve(), target)
        return target

    def rules(self) -> sudoers.Rules:
        return sudoers.Rules(SERVICE, (PERSON, SECOND_PERSON), tuple(self.commands))

    def allow(self, command: str) -> None:
        """Let the service account run this program as the people, beside the ones it may run already."""
        if self.sudoers_file is not None and command not in self.commands:
            self.commands.append(command)
            sudoers.write(self.rules(), self.sudoers_file)

    def close(self) -> None:
        if not self.lacking:
            namespace.unmount(ETC)
            namespace.unmount(self.root)
        shutil.rmtree(self.root)


def raise_stage() -> Stage:
    """Make the stage: across accounts when the machine can, else for this account alone."""
    lacking = why_not()
    if lacking is None:
        try:
            namespace.enter_private()
        except OSError as error:
            lacking = f"tests across accounts need a private mount namespace ({error})"
    root = Path(tempfile.mkdtemp(prefix="corral-stage-", dir="/tmp"))
    if lacking is not None:
        return _own_account(root, lacking)
    namespace.adopt_orphans()
    namespace.tmpfs(root, "0755")
    etc = _copy_etc(root)
    stage = Stage(root, None, _move_homes(root, etc), _python(root), _libraries(root))
    stage.sudoers_file = etc / "sudoers"
    stage.commands.append(stage.python)
    sudoers.write(stage.rules(), stage.sudoers_file)
    namespace.bind(etc, ETC)
    return stage


def _own_account(root: Path, lacking: str) -> Stage:
    me = pwd.getpwuid(os.geteuid())
    home = root / "home"
    home.mkdir()
    own = Account(me.pw_name, me.pw_uid, me.pw_gid, home)
    return Stage(root, lacking, {SERVICE: own}, sys.executable, (str(REPOSITORY / "src"),))


def _copy_etc(root: Path) -> Path:
    """Copy /etc onto the stage, with its owners and modes.

    Files mounted over single files of /etc would not stay: when useradd on the host renames a new passwd over the old
    one, the kernel detaches what is mounted there, in every mount namespace. Nobody replaces /etc itself.
    """
    etc = root / "etc"
    subprocess.run(["cp", "-a", f"{ETC}/.", str(etc)], check=True, timeout=60)
    return etc


def _move_homes(root: Path, etc: Path) -> dict[str, Account]:
    """Give the accounts homes on the stage, in the stage's own user list."""
    accounts, lines = {}, []
    passwd = etc / "passwd"
    for line in passwd.read_text().splitlines():
        words = line.split(":")
        if words[0] in (SERVICE, PERSON, SECOND_PERSON):
            home = root / "home" / words[0]
            home.mkdir(parents=True)
            words[2] = str(_uid_for_this_worker(int(words[2])))
            os.chown(home, int(words[2]), int(words[3]))
            home.chmod(0o700)
            accounts[words[0]] = Account(words[0], int(words[2]), int(words[3]), home)
            words[5] = str(home)
        lines.append(":".join(words))
    passwd.write_text("\n".join(lines) + "\n")
    return accounts


def _uid_for_this_worker(uid: int) -> int:
    worker = os.environ.get("PYTEST_XDIST_WORKER", "")
    return WORKERS_UIDS + 20 * int(worker.removeprefix("gw")) + uid if worker else uid


def _python(root: Path) -> str:
    """Return an interpreter like ours that every account can start."""
    base = Path(getattr(sys, "_base_executable", sys.executable)).resolve()
    if _open_to_all(base):
        return str(base)
    prefix = root / "python"
    prefix.mkdir()
    namespace.bind(Path(sys.base_prefix).resolve(), prefix)
    return str(prefix / base.relative_to(Path(sys.base_prefix).resolve()))


def _libraries(root: Path) -> tuple[str, ...]:
    """Bind Corral's source, the tests and the installed packages, and return the module search path."""
    folders = {"src": REPOSITORY / "src", "tests": REPOSITORY / "tests"}
    folders |= {f"site{number}": Path(path) for number, path in enumerate(site.getsitepackages())}
    for name, source in folders.items():
        if source.is_dir():
            (root / name).mkdir()
            namespace.bind(source, root / name)
    return tuple(str(root / name) for name in folders if name != "tests" and (root / name).is_dir())
