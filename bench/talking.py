"""A service with many backends: `python -m bench.talking ENGINE CONTENDER PROGRAM STATE_DIR FOLDER HOME`.

Run as the service account, and ordered by the lines of standard input, as driver.py is. All talk is in one event loop,
and while it lasts a ticker beside it notes how long the loop was not to be had.
"""

import asyncio
import json
import os
import statistics
import sys
import threading
import time
from collections.abc import Awaitable, Sequence
from typing import Any, Self

from bench import readers
from bench.peer import STAMP
from bench.talkers import TALKERS, Place, Talker, thread_a_turn

TICK = 0.001
AT_ONCE = 8
"""Backends that are started together."""
WITHIN = 100.0
"""Seconds for any order."""


class Ticker:
    """Asks the loop for a sleep of 1 ms, again and again, and keeps the worst of how much longer it took.

    The kernel tells how a thread spent that time (schedstat): `own` is the longest that the loop's thread worked
    between two looks, which is the program's doing; `queued` the longest that it waited for a core, which is that of
    everything that ran on the machine, the engines and the reapers of the measurement first of all.
    """

    def __init__(self) -> None:
        self.longest = self.own = self.queued = 0.0
        self._task: asyncio.Task[None]

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._tick())
        await asyncio.sleep(0)
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.sleep(2 * TICK)
        self._task.cancel()

    async def _tick(self) -> None:
        file = os.open("/proc/thread-self/schedstat", os.O_RDONLY)
        try:
            last = _spent(file)
            while True:
                await asyncio.sleep(TICK)
                now = _spent(file)
                wall, own, queued = (after - before for after, before in zip(now, last, strict=True))
                self.longest = max(self.longest, wall - TICK)
                self.own, self.queued = max(self.own, own), max(self.queued, queued)
                last = now
        finally:
            os.close(file)


def _spent(file: int) -> tuple[float, float, float]:
    """The clock, the thread's time on a core, and its time in the queue for one, in seconds."""
    own, queued, _ = os.pread(file, 64, 0).split()
    return time.perf_counter(), int(own) / 1e9, int(queued) / 1e9


class Ear:
    """Hears one turn's text. `begun` when there was some."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.deltas = 0
        self.delays: list[int] = []

    def count(self, text: str) -> None:
        """Take text written at full speed: its stamps say nothing."""
        self.deltas += len(text) // STAMP

    def time(self, text: str) -> None:
        """Take text that was stamped when it was written. A lagging reader has several stamps at once."""
        now = time.monotonic_ns()
        self.begun.set()
        self.delays += [now - int(stamp) for stamp in text.split()]
        self.deltas += len(text) // STAMP


class Talking:
    """What it can be asked to do."""

    def __init__(self, engine: str, name: str, program: str, state_dir: str, folder: str, home: str) -> None:
        self._place = Place(engine, program, state_dir, folder, {"HOME": home})
        self._name = name
        self._make = TALKERS[engine][name]
        self._make(self._place)  # its imports are no part of a start
        self._talkers: list[Talker] = []
        self._runner = asyncio.Runner()

    def do(self, what: str, **arguments: Any) -> Any:
        """Follow an order."""
        return self._runner.run(asyncio.wait_for(getattr(self, what)(**arguments), WITHIN))

    async def up(self, number: int) -> dict[str, float]:
        """Have so many backends."""
        if self._name == "sdk-threads" and not self._talkers:
            asyncio.get_running_loop().set_default_executor(thread_a_turn(number))
        began = time.perf_counter()
        async with Ticker() as ticker:
            while len(self._talkers) < number:
                batch = [self._make(self._place) for _ in range(min(AT_ONCE, number - len(self._talkers)))]
                await asyncio.gather(*(talker.start() for talker in batch))
                self._talkers += batch
        return {"seconds": time.perf_counter() - began, **_stall(ticker)}

    async def weigh(self) -> dict[str, float]:
        """Threads of this process, and its memory."""
        return {"threads": threading.active_count(), **readers.memory(os.getpid())}

    async def flood(self, deltas: int) -> dict[str, float]:
        """A turn in every backend at once, with so many deltas at full speed."""
        ears = [Ear() for _ in self._talkers]
        began, used = time.perf_counter(), time.process_time()
        async with Ticker() as ticker:
            await asyncio.gather(*self._hold(self._talkers, ears, deltas, 0))
        took, spent = time.perf_counter() - began, time.process_time() - used
        heard = _all_heard(ears, deltas)
        return {"a_second": heard / took, "cpu_us": spent / heard * 1e6, **_stall(ticker)}

    async def pace(self, deltas: int, rate: int) -> dict[str, float]:
        """A turn in every backend at once, with so many deltas, a second so many in each.

        `begin_ms` is the longest stall until all had begun, and is no part of the others.
        """
        ears = [Ear() for _ in self._talkers]
        turns = asyncio.gather(*self._hold(self._talkers, ears, deltas, rate))
        async with Ticker() as beginning:
            await asyncio.gather(*(ear.begun.wait() for ear in ears))
        async with Ticker() as ticker:
            await turns
        _all_heard(ears, deltas)
        return {"begin_ms": beginning.longest * 1000, **_stall(ticker), **_delays(ears)}

    async def end_some(self, number: int, rate: int) -> dict[str, Any]:
        """End so many at once in the middle of a turn, while turns run in all."""
        leaving, staying = self._talkers[:number], self._talkers[number:]
        ears = [Ear() for _ in self._talkers]
        lasting = 60 * rate
        turns = [asyncio.ensure_future(turn) for turn in self._hold(self._talkers, ears, lasting, rate)]
        await asyncio.gather(*(ear.begun.wait() for ear in ears))
        await asyncio.sleep(0.5)
        for ear in ears:
            ear.delays.clear()
        async with Ticker() as ticker:
            began = time.perf_counter()
            said = await asyncio.gather(*(talker.end() for talker in leaving))
            took = time.perf_counter() - began
        delays = _delays(ears[number:])
        self._talkers = staying
        await self.down()
        for turn in turns:
            turn.cancel()
        await asyncio.gather(*turns, return_exceptions=True)
        return {"seconds": took, "said": sorted(set(said)), **_stall(ticker), **delays}

    async def down(self) -> None:
        """End all."""
        talkers, self._talkers = self._talkers, []
        await asyncio.gather(*(talker.end() for talker in talkers))

    async def first(self) -> dict[str, float]:
        """Start one backend, hold one turn, and end it: until it was ready, and until the first word."""
        heard: list[float] = []
        talker = self._make(self._place)
        began = time.perf_counter()
        await talker.start()
        ready = time.perf_counter()
        await talker.hold("go", lambda _: heard.append(time.perf_counter()))
        await talker.end()
        return {"ready": (ready - began) * 1000, "first": (heard[0] - began) * 1000}

    @staticmethod
    def _hold(talkers: Sequence[Talker], ears: Sequence[Ear], deltas: int, rate: int) -> list[Awaitable[None]]:
        order = f"{deltas} {rate}"
        return [talker.hold(order, ear.time if rate else ear.count) for talker, ear in zip(talkers, ears, strict=True)]


def _all_heard(ears: Sequence[Ear], deltas: int) -> int:
    heard = sum(ear.deltas for ear in ears)
    if heard != deltas * len(ears):
        raise RuntimeError(f"{heard} deltas arrived of {deltas * len(ears)}")
    return heard


def _stall(ticker: Ticker) -> dict[str, float]:
    return {
        "stall_ms": ticker.longest * 1000,
        "own_ms": ticker.own * 1000,
        "queued_ms": ticker.queued * 1000,
    }


def _delays(ears: Sequence[Ear]) -> dict[str, float]:
    """The median and the 99th percentile of the delays, in microseconds."""
    delays = [delay / 1000 for ear in ears for delay in ear.delays]
    if len(delays) < 2:
        return {}
    return {"p50_us": statistics.median(delays), "p99_us": statistics.quantiles(delays, n=100)[98]}


def main() -> None:
    """Answer the lines of standard input."""
    os.environ["CLAUDE_AGENT_SDK_SKIP_VERSION_CHECK"] = "1"  # it would start the engine once more, for its version
    talking = Talking(*sys.argv[1:])
    os.chdir(sys.argv[5])
    for line in sys.stdin:
        order = json.loads(line)
        try:
            answer = {"ok": talking.do(order.pop("do"), **order)}
        except Exception as error:  # noqa: BLE001 - told to the benchmark, which stops with it
            answer = {"error": f"{type(error).__name__}: {error}"}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
