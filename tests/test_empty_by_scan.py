"""When scans that find nothing may be believed: `trackers.nothing_found`, and the counts of forks that it goes by."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from corral.process.bare import procfs
from corral.process.bare.table import Births, Process
from corral.process.bare.trackers import nothing_found
from tests.harness.stage import REPOSITORY

SOMEBODY = [Process(4711)]

# Prints whether a process born here is noticed, and whether this namespace is calm while the rest of the host forks.
INSIDE = """
import os, subprocess, sys
from corral.process.bare import procfs

before = procfs.births()
subprocess.run(["/bin/true"], check=True)
after = procfs.births()
print(after.none_here_since(before))
before = after
sys.stdout.flush()
sys.stdin.readline()  # The test has forked outside when this comes.
after = procfs.births()
print(after.none_since(before), after.none_here_since(before))
"""


class Counts:
    """Answers each call of `births` with the next of these; the last one stays."""

    def __init__(self, *counts: Births | None) -> None:
        self._counts = list(counts)

    def __call__(self) -> Births | None:
        return self._counts.pop(0) if len(self._counts) > 1 else self._counts[0]


def scans(*results: list[Process]) -> tuple[Callable[[], list[Process]], list[int]]:
    """A scan that finds these in turn (then nobody), and the list of its calls."""
    calls: list[int] = []

    def scan() -> list[Process]:
        calls.append(1)
        return results[len(calls) - 1] if len(calls) <= len(results) else []

    return scan, calls


def test_one_scan_is_enough_on_a_host_that_forks_nobody() -> None:
    scan, calls = scans()
    assert nothing_found(scan, Counts(Births(100)))
    assert len(calls) == 1


def test_on_a_busy_host_two_scans_are_enough_if_the_namespace_handed_out_no_pid() -> None:
    scan, calls = scans()
    busy = [Births(number * 10, last_pid=77, free_pids=30_000) for number in range(1, 5)]
    assert nothing_found(scan, Counts(*busy))
    assert len(calls) == 2


def test_one_scan_is_not_enough_for_a_fork_that_was_under_way_when_it_began() -> None:
    scan, _ = scans([], SOMEBODY)
    busy = [Births(number * 10, last_pid=77, free_pids=30_000) for number in range(1, 5)]
    assert not nothing_found(scan, Counts(*busy))


def test_a_last_pid_that_may_have_come_round_again_says_nothing() -> None:
    scan, calls = scans()
    busy = [Births(number * 1000, last_pid=77, free_pids=800) for number in range(1, 50)]
    assert nothing_found(scan, Counts(*busy))
    assert len(calls) == 20


@pytest.mark.parametrize("last_pid", [None, 0], ids=["unknown", "moving"])
def test_a_host_that_is_never_calm_is_scanned_many_times(last_pid: int | None) -> None:
    scan, calls = scans()
    busy = [Births(number, last_pid=None if last_pid is None else number, free_pids=30_000) for number in range(1, 50)]
    assert nothing_found(scan, Counts(*busy))
    assert len(calls) == 20


def test_three_scans_are_enough_where_forks_are_not_counted() -> None:
    scan, calls = scans()
    assert nothing_found(scan, Counts(None))
    assert len(calls) == 3


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="a PID namespace of its own needs root")
def test_a_namespace_is_calm_whatever_the_rest_of_the_host_starts() -> None:
    inside = subprocess.Popen(
        ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child", sys.executable, "-c", INSIDE],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY / "src")},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert inside.stdout is not None
    first = inside.stdout.readline().split()
    subprocess.run(["/bin/true"], check=True)
    rest, _ = inside.communicate("go\n", timeout=30)
    assert first == ["False"], "the child that was started inside was not noticed"
    assert rest.split() == ["False", "True"], "the namespace is not told from the host"


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="a PID namespace of its own needs root")
def test_a_last_pid_is_not_believed_beside_the_proc_of_another_namespace() -> None:
    program = "from corral.process.bare import procfs; print(procfs.births().last_pid)"
    asked = subprocess.run(
        ["unshare", "--pid", "--fork", "--kill-child", sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY / "src")},
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    assert asked.stdout.split() == ["None"]


@pytest.mark.skipif(not Path("/proc/loadavg").exists(), reason="Linux's /proc")
def test_the_counts_of_this_host_are_read() -> None:
    counts = procfs.births()
    assert counts is not None
    assert counts.host > 0
    assert counts.last_pid is None or counts.free_pids > 0
