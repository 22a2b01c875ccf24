"""Trees from a seed, ended in random ways at random moments: nothing may live afterwards, whatever their shape.

CI runs two hundred. For hours by hand: CORRAL_RANDOM_TREES=100000 pytest tests/test_random_trees.py; a failure names
its seed, and CORRAL_RANDOM_SEED=N begins with it.
"""

import os
import random
import signal
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.conftest import Route
from tests.harness import truth
from tests.harness.driving import Driver
from tests.harness.service import Service

TREES = int(os.environ.get("CORRAL_RANDOM_TREES", "50"))
FIRST_SEED = int(os.environ.get("CORRAL_RANDOM_SEED", "1"))
GRACES = (0.0, 0.0, 0.05, 0.3)
WAYS = ("end", "end", "end", "kill_command", "kill_reaper", "kill_supervisor", "kill_both")


class Drivers:
    """A supervisor that lives from tree to tree, and a new one where a test killed the last."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self._driver: Driver | None = None

    def get(self) -> Driver:
        if self._driver is None or self._driver.program.poll() is not None:
            self._driver = Driver.start(self.service)
        return self._driver


def seeds() -> Iterator[int]:
    yield from range(FIRST_SEED, FIRST_SEED + TREES)


@pytest.mark.slow
@pytest.mark.timeout(60 + TREES)
@pytest.mark.parametrize("tracker", ["auto", "subreaper-scan"])
def test_nothing_of_a_random_tree_lives_after_its_end(tracker: str, account: Route, service: Service) -> None:
    drivers = Drivers(service)
    for seed in seeds():
        draw = random.Random(f"{tracker}{seed}")
        driver = drivers.get()
        program = str(service.stage.harness / "random_tree.py")
        argv = [service.python, "-I", "-S", program, str(seed), service.folder.name]
        job = driver.start_job(argv, account.user, draw.choice(GRACES), tracker=tracker, kill=20)
        # Not a wait for something: the moment of the end is part of what is random.
        time.sleep(draw.random() * 0.08)
        way = draw.choice(WAYS)
        report = end(way, driver, job)
        left = service.judge.alive(but=[driver.pid])
        assert left == [], f"seed {seed}, {way}: left\n{truth.picture(left)}\n{report}"
        if way in ("end", "kill_command"):
            assert (report["verdict"], report["proof"]) == ("proven_empty", "no_children"), f"seed {seed}: {report}"
        assert report["survivors"] == []


def end(way: str, driver: Driver, job: dict[str, Any]) -> dict[str, Any]:
    match way:
        case "end":
            return driver.end()
        case "kill_command":
            kill(job["pid"])
            return dict(driver.ask("ended"))
        case "kill_reaper":
            kill(job["reaper_pid"])
            return dict(driver.ask("ended"))
        case "kill_supervisor":
            driver.program.kill()
            driver.program.wait(10)
            driver.service.wait_empty(30)
            return {"survivors": []}
    kill(driver.pid, signal.SIGSTOP)
    kill(job["reaper_pid"], signal.SIGSTOP)
    kill(driver.pid)
    kill(job["reaper_pid"])
    driver.program.wait(10)
    status, swept, said = driver.service.sweep()
    assert status == 0, (swept, said)
    return {"survivors": []}


def kill(pid: int, number: int = signal.SIGKILL) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass  # The tree was faster.
