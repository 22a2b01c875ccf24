"""Single steps of a setup that are cut off by SIGKILL, or held up, at one exact moment."""

import os
import pwd
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from corral.install.setup.receipt import Receipt
from corral.install.setup.removal import UnwriteStep
from corral.install.setup.steps import FileStep, FolderStep, as_account
from tests.harness.waiting import wait_until

pytestmark = pytest.mark.cross_account
OWNER = "games"

CUT_OFF = """
import os, signal, sys
from pathlib import Path
from corral.install.setup import steps
from corral.install.setup.receipt import Receipt
name, when, path, receipt = sys.argv[1:]
owner, function = (steps, name) if hasattr(steps, name) else (os, name)
real = getattr(owner, function)
def cut_off(target, *arguments, **named):
    if when == "after":
        real(target, *arguments, **named)
    os.kill(os.getpid(), signal.SIGKILL)
setattr(owner, function, cut_off)
made = Receipt.read(Path(receipt))
made.belongs_to("games", Path("/x"))
step = steps.FolderStep(Path(path), "games", 0o700) if name != "put" else steps.FileStep(Path(path), lambda: "new")
step.do(made)
"""


def cut_off(function: str, when: str, path: Path, receipt: Path) -> Receipt:
    """Run a step that is killed before or after one call; what the receipt says then."""
    argv = [sys.executable, "-c", CUT_OFF, function, when, str(path), str(receipt)]
    assert subprocess.run(argv, timeout=30, check=False).returncode == -signal.SIGKILL
    return Receipt.read(receipt)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("there", [False, True])
def test_a_file_that_a_killed_setup_wrote_is_known_to_be_its_own(tmp_path: Path, when: str, *, there: bool) -> None:
    path, kept = tmp_path / "rules", tmp_path / "kept" / "setup.json"
    if there:
        receipt = Receipt.read(kept)
        receipt.belongs_to(OWNER, Path("/x"))
        FileStep(path, lambda: "old").do(receipt)
    receipt = cut_off("put", when, path, kept)
    assert path.exists() == (there or when == "after")
    assert FileStep(path, lambda: "new").look(receipt).state in ("todo", "done")
    step = UnwriteStep(path)
    assert step.look(receipt).state == "todo"
    step.do(receipt)
    assert not path.exists()
    assert not kept.exists()


@pytest.mark.parametrize("function", ["mkdir", "fchmod", "fchown"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_folder_that_a_killed_setup_began_is_finished_by_the_next(tmp_path: Path, function: str, when: str) -> None:
    path, kept = tmp_path / "state", tmp_path / "setup.json"
    receipt = Receipt.read(kept)
    receipt.belongs_to(OWNER, Path("/x"))
    receipt.begin("folder", str(path))  # beforehand, as writing it calls fchmod and fchown too
    receipt = cut_off(function, when, path, kept)
    assert path.exists() == ((function, when) != ("mkdir", "before"))
    step = FolderStep(path, OWNER, 0o700)
    if step.look(receipt).state == "todo":
        step.do(receipt)
    assert step.look(receipt).state == "done"
    assert path.stat().st_uid == pwd.getpwnam(OWNER).pw_uid


def test_a_folder_that_is_a_link_by_the_time_it_is_given_away_is_not_followed(tmp_path: Path) -> None:
    victim, path = tmp_path / "victim", tmp_path / "state"
    victim.mkdir(mode=0o755)
    path.symlink_to(victim)
    step = FolderStep(path, OWNER, 0o700)
    with pytest.raises(OSError, match=r"Not a directory|symbolic links"):
        step._give(pwd.getpwnam(OWNER))
    assert victim.stat().st_uid == os.geteuid()


def test_nothing_is_left_of_a_program_that_is_given_up() -> None:
    mark = f"30.{os.getpid()}"
    said = as_account(OWNER, ["sh", "-c", f"sleep {mark} & wait"], 1.0)
    assert said.status is None
    wait_until(lambda: not _running(mark), what="its child was ended")


def _running(mark: str) -> list[Path]:
    found = []
    for place in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            if mark.encode() in place.read_bytes():
                found.append(place)
    return found


def test_the_services_account_gets_nothing_of_roots_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLOUD_PASSWORD_OF_ROOT", "secret")
    said = as_account(OWNER, ["env"], 10.0)
    assert said.status == 0
    assert "secret" not in said.out
