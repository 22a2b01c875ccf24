"""A pid that changes hands while a tree is looked at: no stranger is taken for a member, and no member is lost.

Each test has a PID namespace of its own, in which it chooses the pids.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

HARNESS = Path(__file__).parent / "harness"


def in_a_namespace(program: str, *arguments: str) -> dict[str, Any]:
    argv = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
    argv += [sys.executable, str(HARNESS / program), *arguments]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout, done.stderr
    return dict(json.loads(done.stdout))


@pytest.mark.cross_account
@pytest.mark.parametrize("walk", ["children_files", "scan", "subreaper", "portable", "adopted", "orphans", "ps"])
@pytest.mark.slow
def test_a_pid_that_was_handed_to_a_stranger_during_the_walk_leads_to_nobody(walk: str) -> None:
    seen = in_a_namespace("pid_reuse.py", walk)
    found = [tuple(one) for one in seen["found"]]
    assert not [one for one in seen["strangers"] if tuple(one) in found], seen
    # What fell to a supervisor is told by mark and record, and this has neither.
    if walk != "adopted":
        assert tuple(seen["orphan"]) in found, "who lost its parent meanwhile is found all the same"


@pytest.mark.cross_account
def test_a_signal_does_not_reach_a_stranger_that_was_given_the_pid_after_the_check() -> None:
    assert in_a_namespace("pid_reuse_signal.py") == {"sent": False, "stranger_lives": True}
