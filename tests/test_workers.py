"""Threads for what may hang: bounded in number and in time, and no reason for a process to stay."""

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from corral import workers
from corral.workers import NoThreadError, Workers
from tests.harness.waiting import until


@pytest.fixture
def hung() -> Iterator[threading.Event]:
    """What calls hang on; set at the end."""
    event = threading.Event()
    yield event
    event.set()


def threads(name: str) -> int:
    return sum(thread.name == name for thread in threading.enumerate())


async def test_a_call_returns_and_raises_what_it_does() -> None:
    pool = Workers("test-plain", usual=2, most=4)
    assert await asyncio.gather(*(pool.run(lambda n=n: n * n, 5) for n in range(20))) == [n * n for n in range(20)]
    with pytest.raises(ZeroDivisionError):
        await pool.run(lambda: 1 // 0, 5)


async def test_calls_that_hang_hold_up_others_for_a_moment_only(hung: threading.Event) -> None:
    pool = Workers("test-hung", usual=2, most=8)
    hanging = [asyncio.create_task(pool.run(hung.wait, 60)) for _ in range(7)]
    await asyncio.sleep(0)
    began = time.monotonic()
    assert await pool.run(lambda: "done", 5) == "done"
    assert time.monotonic() - began < 4 * workers.PATIENCE
    assert threads("test-hung") <= 8
    hung.set()
    await asyncio.gather(*hanging)


async def test_a_call_that_found_no_thread_in_time_is_never_made(hung: threading.Event) -> None:
    pool = Workers("test-full", usual=1, most=2)
    hanging = [asyncio.create_task(pool.run(hung.wait, 60)) for _ in range(2)]
    await until(lambda: threads("test-full") == 2, 5, "both threads hang")
    made: list[str] = []
    with pytest.raises(TimeoutError, match=r"no result in 0\.4 s"):
        await pool.run(lambda: made.append("made"), 0.4)
    hung.set()
    await asyncio.gather(*hanging)
    assert await pool.run(lambda: "works again", 5) == "works again"
    assert not made


async def test_a_caller_that_is_cancelled_does_not_stop_its_call(hung: threading.Event) -> None:
    pool = Workers("test-cancelled", usual=1, most=1)
    made = threading.Event()
    first = asyncio.create_task(pool.run(hung.wait, 60))
    second = asyncio.create_task(pool.run(made.set, 60))
    await asyncio.sleep(0)
    second.cancel()
    await asyncio.wait([second])
    hung.set()
    await first
    assert await asyncio.to_thread(made.wait, 5)


async def test_without_a_thread_the_caller_hears_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    pool = Workers("test-none", usual=1, most=1)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", none)
        with pytest.raises(NoThreadError, match="the host refuses another thread"):
            await pool.run(lambda: None, 5)
    assert await pool.run(lambda: "works again", 5) == "works again"


def test_a_call_that_hangs_does_not_keep_a_process_from_ending() -> None:
    program = (
        "import asyncio, threading; from corral.workers import Workers\n"
        "async def main():\n"
        "    try: await Workers('w', usual=1, most=1).run(threading.Event().wait, 0.1)\n"
        "    except TimeoutError: print('in time')\n"
        "asyncio.run(main())\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=20, check=False)
    assert (done.returncode, done.stdout) == (0, "in time\n")
