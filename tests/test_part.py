"""Ending a part of a tree (`Job.end_part`): what is chosen goes, what is not stays, and the job is ended as ever."""

import shlex
from collections.abc import Callable
from typing import Any

import pytest

from tests.conftest import Route
from tests.harness import truth
from tests.harness.driving import Driver
from tests.harness.service import Service
from tests.harness.stage import Account
from tests.harness.waiting import wait_until

SLEEP = "import sys, time; time.sleep(1000)"
DEAF = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(1000)"
DAEMON = "import os, time; os.setsid(); os.fork() and os._exit(0); os.setsid(); time.sleep(1000)"


def grow(service: Service, driver: Driver, account: Route) -> tuple[set[int], list[int]]:
    """Start a job that starts others in sessions of their own: the sessions before, and the pids in the new ones."""
    gate = service.folder / "gate"
    python, folder = shlex.quote(service.python), service.folder
    script = f"""
        {python} -c {shlex.quote(SLEEP)} {folder} &
        until [ -e {gate} ]; do sleep 0.05; done
        setsid {python} -c {shlex.quote(SLEEP)} {folder} &
        setsid {python} -c {shlex.quote(DEAF)} {folder} &
        {python} -c {shlex.quote(DAEMON)} {folder} &
        wait
    """
    program = service.folder / "grow.py"
    program.write_text(f"import os; os.execv('/bin/sh', ['sh', '-c', {script!r}])")
    driver.start_job([service.python, str(program), str(folder)], account.user)
    pythons(service, 1)
    kept = {one["sid"] for one in driver.ask("tree")}
    gate.touch()
    pythons(service, 4)

    def apart() -> list[int]:
        return [one["pid"] for one in driver.ask("tree") if one["sid"] not in kept]

    # The daemon is the last: it forks in its first session, and leaves it.
    wait_until(lambda: len(apart()) == 3, what="three were in new sessions")
    pythons(service, 4)
    return kept, apart()


def pythons(service: Service, number: int) -> None:
    """Wait until so many of the job's sleepers sleep, the daemon among them."""

    def there() -> bool:
        pythons = [one for one in service.judge.alive() if one.name.startswith("python")]
        return sum("time.sleep(1000)" in one.command for one in pythons) == number

    wait_until(there, what=f"{number} slept", picture=lambda: truth.picture(service.judge.alive()))


@pytest.mark.slow
def test_what_is_chosen_goes_and_the_rest_stays(service: Service, driver: Driver, account: Route) -> None:
    kept, chosen = grow(service, driver, account)
    assert len(chosen) == 3, "two in sessions of their own and a daemon"
    assert driver.ask("end_part", keep_sessions=list(kept), grace=0.3, kill=5.0) == []
    pythons(service, 1)
    assert {one["sid"] for one in driver.ask("tree")} == kept
    assert driver.end()["verdict"] == "proven_empty"
    service.wait_empty(but=[driver.pid])


@pytest.mark.slow
def test_nothing_chosen_is_nothing_done(service: Service, driver: Driver, account: Route) -> None:
    kept, _ = grow(service, driver, account)
    sessions = {one["sid"] for one in driver.ask("tree")}
    assert driver.ask("end_part", keep_sessions=list(sessions | kept)) == []
    pythons(service, 4)
    driver.end()


@pytest.mark.cross_account
@pytest.mark.slow
def test_who_may_not_be_signalled_is_returned(
    service: Service, driver: Driver, person: Account, sudo_rules: Callable[..., Any]
) -> None:
    kept, _ = grow(service, driver, Route("across", person.name))
    sudo_rules(kill_tags=None)
    left = driver.ask("end_part", keep_sessions=list(kept), grace=0.1, kill=0.3)
    assert len(left) >= 3
    assert set(left) == {one["pid"] for one in driver.ask("tree") if one["sid"] not in kept}
    sudo_rules()
    assert driver.end()["verdict"] == "proven_empty"


def test_after_the_end_there_is_no_part(service: Service, driver: Driver) -> None:
    driver.start_job(["sleep", "1000"])
    driver.end()
    assert driver.ask("end_part", keep_sessions=[]) == []
