"""The ways of ending a tree that are measured. Run inside driver.py, as the service account.

Each starts the command as its users would, and `end` is timed: from the wish to end the tree to the moment when the
contender believes that it has. Whether it is right is for judge.py.
"""

import asyncio
import contextlib
import os
import signal
import subprocess
from collections.abc import Sequence
from typing import Any

STILL_ALIVE_AFTER = 3.0
"""Seconds for the last wait: the timeout of psutil's documented example."""


class Corral:
    """`Job.start`, `end(grace=0)`."""

    def __init__(self, state_dir: str) -> None:
        self._runner = asyncio.Runner()
        self._state_dir = state_dir
        self._job: Any = None

    def start(self, argv: Sequence[str], user: str | None, text: bytes) -> int:
        return self._runner.run(self._start(argv, user, text))

    async def _start(self, argv: Sequence[str], user: str | None, text: bytes) -> int:
        from corral.process import DEVNULL, Job

        job = await Job.start(argv, user=user, stdout=DEVNULL, stderr=DEVNULL, state_dir=self._state_dir)
        assert job.stdin is not None
        job.stdin.write(text)
        await job.stdin.drain()
        self._job = job
        return int(job.pid)

    def end(self) -> dict[str, Any]:
        """End the tree by KILL, to the report."""
        report = self._runner.run(self._job.end(grace=0))
        return {"verdict": report.verdict, "reaper_ms": report.seconds * 1000}

    @property
    def reaper_pid(self) -> int:
        return int(self._job.reaper_pid)


class Spawned:
    """What the others share: the command, or sudo above it, in a session of its own."""

    def __init__(self) -> None:
        self._program: subprocess.Popen[bytes] | None = None
        self._user: str | None = None

    def start(self, argv: Sequence[str], user: str | None, text: bytes) -> int:
        head = ["sudo", "-n", "-H", "-u", user, "--"] if user else []
        self._program = subprocess.Popen(
            [*head, *argv],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            start_new_session=True,
        )
        self._user = user
        assert self._program.stdin is not None
        self._program.stdin.write(text)
        return self._program.pid

    def _leader(self) -> subprocess.Popen[bytes]:
        assert self._program is not None
        return self._program

    def _kill_through_sudo(self, *pids: int) -> None:
        assert self._user is not None
        line = ["sudo", "-n", "-u", self._user, "/bin/kill", "-SIGKILL", *map(str, pids)]
        subprocess.run(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False, timeout=10)

    def close(self) -> dict[str, Any]:
        """Wait for the direct child, whoever ended it."""
        status = self._leader().wait(20)
        with contextlib.suppress(BrokenPipeError):
            self._leader().stdin.close()  # type: ignore[union-attr]
        return {"status": status}


class OriginLadder(Spawned):
    """The ladder of the fault report with its proposed fix: `pgrep -P` twice, the leaf is killed, then the wrapper."""

    def end(self) -> dict[str, Any]:
        leader = self._leader()
        wrapper = self._first_child(leader.pid)
        inner = self._first_child(wrapper) if wrapper else None
        for pid in (inner, wrapper):
            if pid is None:
                continue
            if self._user:
                self._kill_through_sudo(pid)
            else:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(leader.pid, signal.SIGKILL)
        leader.wait(STILL_ALIVE_AFTER)
        return self.close()

    @staticmethod
    def _first_child(pid: int) -> int | None:
        found = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True, check=False, timeout=20)
        return int(found.stdout.split()[0]) if found.stdout.split() else None


class PsutilRecipe(Spawned):
    """`kill_proc_tree` of psutil's documentation, with KILL.

    Adapted for another account: what `send_signal` may not reach goes through `sudo kill`, one call a process as the
    recipe has one signal a process, or (batched) the whole lot in one call.
    """

    def __init__(self, *, batched: bool) -> None:
        super().__init__()
        self._batched = batched

    def end(self) -> dict[str, Any]:
        import psutil

        # Children before their parent, as documented: so the command dies before the sudo above it.
        parent = psutil.Process(self._leader().pid)
        family = parent.children(recursive=True)
        refused = [process.pid for process in family if not self._send(process)]
        if refused:
            self._kill_through_sudo(*refused)
        family.append(parent)
        self._send(parent)
        _gone, alive = psutil.wait_procs(family, timeout=STILL_ALIVE_AFTER)
        return {**self.close(), "still_alive": len(alive)}

    def _send(self, process: Any) -> bool:
        """Send KILL, False if it is still to be sent."""
        import psutil

        try:
            process.send_signal(signal.SIGKILL)
        except psutil.NoSuchProcess:
            pass
        except psutil.AccessDenied:
            if self._batched:
                return False
            self._kill_through_sudo(process.pid)
        return True


def make(name: str, state_dir: str) -> Corral | Spawned:
    """Return the contender of this name."""
    if name == "corral":
        return Corral(state_dir)
    if name == "origin":
        return OriginLadder()
    if name == "plain":
        return Spawned()
    return PsutilRecipe(batched=name == "psutil-batched")
