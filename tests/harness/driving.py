"""The test's end of driver.py: a supervisor under the service account that does what the test says."""

import json
import os
import select
import signal
import subprocess
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tests.harness import truth
from tests.harness.service import Service
from tests.harness.waiting import wait_until


def freeze(*pids: int) -> None:
    """Stop processes, so that KILL to each of them is one event to everybody else."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    for pid in pids:
        wait_until(partial(_stands_still, pid), what=f"{pid} was stopped")


def _stands_still(pid: int) -> bool:
    seen = truth.look(pid)
    return seen is not None and set(seen.threads) == {"T"}


class DriverError(AssertionError):
    """The driver answered that Corral refused."""

    def __init__(self, message: str, kind: str | None) -> None:
        super().__init__(message)
        self.kind = kind


@dataclass
class Driver:
    """A supervisor process with at most one job."""

    service: Service
    program: subprocess.Popen[bytes]
    job: dict[str, Any] | None = None
    _buffer: bytes = b""

    @classmethod
    def start(cls, service: Service) -> "Driver":
        log = (service.folder / "driver.err").open("wb")
        program = service.start([service.python, str(service.stage.harness / "driver.py")], stderr=log)
        log.close()
        return cls(service, program)

    @property
    def pid(self) -> int:
        return self.program.pid

    def ask(self, what: str, *, timeout: float = 30.0, **arguments: Any) -> Any:
        """Give one order and return the answer; DriverError when Corral refused it."""
        assert self.program.stdin is not None
        self.program.stdin.write(json.dumps({"do": what, **arguments}).encode() + b"\n")
        self.program.stdin.flush()
        answer = json.loads(self._line(what, timeout))
        if "error" in answer:
            raise DriverError(answer["error"], answer.get("kind"))
        return answer["ok"]

    def start_job(self, argv: list[str], user: str | None = None, grace: float = 0.3, **more: Any) -> dict[str, Any]:
        """Start the job with the test's state folder. Its report also goes to `report_file`."""
        more = {"state_dir": str(self.service.state_dir), "report_file": str(self.report_file), **more}
        self.job = self.ask("start", argv=argv, user=user, grace=grace, **more)
        return self.job

    @property
    def started(self) -> dict[str, Any]:
        """What the driver said of the job that it started."""
        assert self.job is not None
        return self.job

    @property
    def report_file(self) -> Path:
        return self.service.state_dir / "report.json"

    def end(self, **more: Any) -> dict[str, Any]:
        """End the job, and return the report."""
        return dict(self.ask("end", **more))

    @property
    def record(self) -> Path:
        """The job's record in the ledger."""
        return self.service.state_dir / "jobs" / f"{self.started['id']}.job"

    def report_in_file(self) -> dict[str, Any]:
        """Wait for the report that is left in the file, and return it."""

        def read() -> dict[str, Any] | None:
            try:
                return dict(json.loads(self.report_file.read_text()))
            except (FileNotFoundError, json.JSONDecodeError):
                return None

        return wait_until(read, 20, "the report was written", self.picture)

    def kill_with_reaper(self) -> None:
        """Kill the supervisor and the reaper as at one stroke, so that neither can act on the other's death."""
        both = (self.pid, self.started["reaper_pid"])
        freeze(*both)
        for pid in both:
            os.kill(pid, signal.SIGKILL)
        self.program.wait(10)

    def wait_reaper_gone(self) -> None:
        """Wait until the supervisor, too, has seen the reaper go: dead, and waited for."""
        folder = Path(f"/proc/{self.started['reaper_pid']}")
        wait_until(lambda: not folder.exists(), 20, "the reaper had gone", self.picture)

    def let_go(self) -> None:
        """Let the supervisor exit by itself, which it does when all that it still does for its job is done."""
        assert self.program.stdin is not None
        self.program.stdin.close()
        assert self.service.wait_exit(self.program) == 0, self.picture()

    def _line(self, what: str, timeout: float) -> bytes:
        assert self.program.stdout is not None
        handle, deadline = self.program.stdout.fileno(), time.monotonic() + timeout
        while b"\n" not in self._buffer:
            if not select.select([handle], [], [], max(0.0, deadline - time.monotonic()))[0]:
                raise AssertionError(f"the driver gave no answer to {what!r} in {timeout} s\n{self.picture()}")
            piece = os.read(handle, 65536)
            if not piece:
                raise AssertionError(f"the driver ended during {what!r}\n{self.picture()}")
            self._buffer += piece
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line

    def picture(self) -> str:
        said = (self.service.folder / "driver.err").read_text()
        return f"it said:\n{said}alive:\n{truth.picture(self.service.judge.alive())}"
