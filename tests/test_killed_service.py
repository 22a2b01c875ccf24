"""A service that is killed at any moment loses no conversation, counts no turn twice, and leaves nothing running."""

import multiprocessing
import random
import sqlite3
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import pytest

from corral.process import live_jobs, sweep
from tests.harness import short_lived
from tests.harness.waiting import wait_until

KILLS = 200
LONGEST = 0.5  # seconds from a start, or from a first turn, to the kill
STARTED_WITHIN = 30.0  # seconds


@pytest.mark.slow
@pytest.mark.timeout(420)
def test_killed_at_random_moments_hundreds_of_times(tmp_path: Path) -> None:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.harness.short_lived"])
    moments = random.Random(4)
    shown: Counter[str] = Counter()
    threads: defaultdict[str, list[str]] = defaultdict(list)
    for _ in range(KILLS):
        reading, writing = context.Pipe(duplex=False)
        service = context.Process(target=short_lived.serve, args=(str(tmp_path), writing))
        service.start()
        writing.close()
        if moments.random() < 0.5:
            reading.poll(STARTED_WITHIN)  # every other one is killed while it holds turns, however slow its start
        time.sleep(moments.uniform(0.0, LONGEST))  # what is tried here are moments, which no condition names
        service.kill()
        service.join(20)
        for person, what, value in said(reading):
            if what == "ended":
                shown[person] += value == "completed"
            elif what == "thread":
                threads[person].append(value)
    wait_until(lambda: not live_jobs(tmp_path / "state"), 30, "the reapers have ended every tree")
    assert sweep(tmp_path / "state").clean

    database = sqlite3.connect(tmp_path / "state" / "corral.db")
    assert database.execute("pragma integrity_check").fetchall() == [("ok",)]
    assert sum(shown.values()) > KILLS / 4, "turns were held between the kills"
    for person in short_lived.PEOPLE:
        kept = dict(
            database.execute("select state, count(*) from turns where person = ? group by state", (person,)).fetchall()
        )
        # An end is written before it is shown: what was shown is there, and what a kill came between is one more.
        assert shown[person] <= kept["completed"] <= shown[person] + KILLS, (person, kept, shown)
        assert set(kept) <= {"completed", "cut", "running", "failed", "interrupted"}, kept
        assert kept.get("running", 0) <= 1, "those of the dead are known to be cut by the next start"
        assert len(set(threads[person])) == 1, f"{person} lost a conversation: {set(threads[person])}"


def said(pipe: Any) -> list[tuple[str, str, str]]:
    found = []
    try:
        while pipe.poll():
            found.append(pipe.recv())
    except EOFError:
        pass
    return found
