"""The fault campaign finds nothing in this version, and something in versions with a fault planted in them."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.harness.stage import REPOSITORY

pytestmark = [pytest.mark.slow, pytest.mark.cross_account, pytest.mark.timeout(240)]


def campaign(*arguments: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "campaign", *arguments]
    return subprocess.run(line, cwd=REPOSITORY, capture_output=True, text=True, timeout=230, check=False)


def test_a_small_campaign_finds_nothing() -> None:
    done = campaign("--trees", "150", "--seconds", "20", "--seed", "1")
    assert done.returncode == 0, f"{done.stdout}{done.stderr[-8000:]}"
    counted = re.search(r"^all +(\d+)", done.stdout, re.MULTILINE)
    assert counted is not None, done.stdout
    assert int(counted[1]) >= 10


@pytest.mark.parametrize(
    ("file", "fault", "count"),
    [
        # The reaper calls a tree empty whatever lives of it.
        ("trackers.py", "Subreaper.empty = lambda self: True", "left"),
        # Everybody carries the mark of every job.
        ("mark.py", "carries = lambda pid, mark: bool(mark)", "harmed"),
    ],
    ids=["left", "harmed"],
)
def test_it_finds_a_fault_that_was_planted(file: str, fault: str, count: str, tmp_path: Path) -> None:
    source = tmp_path / "src"
    shutil.copytree(REPOSITORY / "src", source, ignore=shutil.ignore_patterns("__pycache__"))
    with (source / "corral" / "process" / "bare" / file).open("a") as text:
        text.write(f"\n\n{fault}\n")
    done = campaign("--trees", "40", "--seconds", "15", "--seed", "100", "--fault", "none", "--source", str(source))
    assert done.returncode == 1, f"{done.stdout}{done.stderr[-8000:]}"
    assert re.search(rf"^{count}: seeds", done.stdout, re.MULTILINE), done.stdout
