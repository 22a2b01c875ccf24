"""The service of the measurements: `python -m bench.driver CONTENDER STATE_DIR`, run as the service account.

Each line of standard input is {"do": …, arguments}; each answer is one line, {"ok": …} or {"error": text}. At the end
of input it is gone, and the keeper ends what it left.
"""

import asyncio
import json
import os
import sys
import time
from collections.abc import Sequence
from typing import Any

from bench import contenders, readers


class Driver:
    """What a driver can be asked to do."""

    def __init__(self, name: str, state_dir: str) -> None:
        self._state_dir = state_dir
        self._contender = contenders.make(name, state_dir)

    def start(self, argv: list[str], user: str | None, text: str) -> dict[str, Any]:
        """Start a tree."""
        return {"pid": self._contender.start(argv, user, text.encode())}

    def end(self) -> dict[str, Any]:
        """End it, timed."""
        began = time.perf_counter()
        found = self._contender.end()  # type: ignore[union-attr]
        return {"ms": (time.perf_counter() - began) * 1000, **found}

    def close(self) -> dict[str, Any]:
        """Wait for a tree that the benchmark ended itself."""
        return self._contender.close()  # type: ignore[union-attr]

    def floor(self, user: str, pid: int) -> float:
        """Time the least that a signal to another account costs: one bare call of `sudo kill` with signal 0."""
        sudo = next(path for folder in os.environ["PATH"].split(":") if os.access(path := f"{folder}/sudo", os.X_OK))
        line = [sudo, "-n", "-u", user, "/bin/kill", "-0", str(pid)]
        began = time.perf_counter()
        _, status = os.waitpid(os.posix_spawn(sudo, line, os.environ), 0)
        took = (time.perf_counter() - began) * 1000
        if status:
            raise RuntimeError(f"{line} failed with status {status}")
        return took

    def read(self, root: int, rounds: int) -> dict[str, Any]:
        """Time every reader, in turn, so many times; warmed by one round that does not count."""
        times: dict[str, list[float]] = {name: [] for name in readers.READERS}
        found: dict[str, int] = {}
        for number in range(rounds + 1):
            for name, reader in readers.READERS.items():
                began = time.perf_counter()
                found[name] = reader(root)
                if number:
                    times[name].append((time.perf_counter() - began) * 1000)
        return {"ms": times, "found": found, "host": readers.host_size()}

    def starts(self, argv: list[str], user: str | None, rounds: int) -> dict[str, list[list[float]]]:
        """Time starts in turn: until the call returns, and until the first line of the command's output."""
        return asyncio.run(self._starts(argv, user, rounds))

    async def _starts(self, argv: Sequence[str], user: str | None, rounds: int) -> dict[str, list[list[float]]]:
        times: dict[str, list[list[float]]] = {"corral": [], "asyncio": [], "bare": []}
        ways = {"corral": self._start_job, "asyncio": self._start_plainly, "bare": self._bare_interpreter}
        for number in range(rounds + 1):
            for name, start in ways.items():
                took = await start(argv, user)
                if number:
                    times[name].append(took)
        return times

    async def _start_job(self, argv: Sequence[str], user: str | None) -> list[float]:
        from corral.process import Job

        began = time.perf_counter()
        job = await Job.start(argv, user=user, state_dir=self._state_dir)
        returned = time.perf_counter()
        assert job.stdout is not None
        async with asyncio.timeout(10):
            await job.stdout.readline()
        spoke = time.perf_counter()
        await job.end(grace=0)
        return [(returned - began) * 1000, (spoke - began) * 1000]

    async def _bare_interpreter(self, _argv: Sequence[str], _user: str | None) -> list[float]:
        """Time what no reaper written in Python can go below: the interpreter, from its start to its end."""
        began = time.perf_counter()
        program = await asyncio.create_subprocess_exec(sys.executable, "-I", "-S", "-c", "pass")
        async with asyncio.timeout(10):
            await program.wait()
        return [(time.perf_counter() - began) * 1000] * 2

    async def _start_plainly(self, argv: Sequence[str], user: str | None) -> list[float]:
        head = ["sudo", "-n", "-H", "-u", user, "--"] if user else []
        pipe = asyncio.subprocess.PIPE
        began = time.perf_counter()
        program = await asyncio.create_subprocess_exec(
            *head, *argv, stdin=pipe, stdout=pipe, stderr=pipe, start_new_session=True
        )
        returned = time.perf_counter()
        assert program.stdout is not None
        async with asyncio.timeout(10):
            await program.stdout.readline()
            spoke = time.perf_counter()
            await program.communicate(b"")
        return [(returned - began) * 1000, (spoke - began) * 1000]


def main() -> None:
    """Answer the lines of standard input."""
    driver = Driver(*sys.argv[1:])
    for line in sys.stdin:
        order = json.loads(line)
        try:
            answer = {"ok": getattr(driver, order.pop("do"))(**order)}
        except Exception as error:  # noqa: BLE001 - told to the benchmark, which stops with it
            answer = {"error": f"{type(error).__name__}: {error}"}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
