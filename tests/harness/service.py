"""The service account of one test: it starts programs as that account, and ends and reaps what is left of them."""

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from tests.harness import truth
from tests.harness.stage import Account, Stage
from tests.harness.truth import Truth
from tests.harness.waiting import wait_until


@dataclass
class Service:
    """Starts programs as the service account, through plain setuid in the child (as this account when not root)."""

    stage: Stage
    folder: Path  # of this test; every account may write to it, and its name is the test's marker
    state_dir: Path
    judge: Truth
    started: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def account(self) -> Account:
        return self.stage.service

    @property
    def python(self) -> str:
        return self.stage.python

    @property
    def home(self) -> Path:
        return self.account.home

    @property
    def env(self) -> dict[str, str]:
        return {
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": str(self.home),
            "USER": self.account.name,
            "LOGNAME": self.account.name,
            "LANG": "C.UTF-8",
            "TMPDIR": str(self.folder),
            "PYTHONPATH": os.pathsep.join(self.stage.python_path),
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONUNBUFFERED": "1",
            "CORRAL_TEST_MARKER": self.folder.name,
        }

    def corral(self, *arguments: str) -> list[str]:
        """Return the command line of `corral ARGUMENTS...`."""
        return [self.python, "-m", "corral", *arguments]

    def start(
        self,
        argv: Sequence[str],
        *,
        account: Account | None = None,
        env: Mapping[str, str] | None = None,
        stdin: int | IO[bytes] = subprocess.PIPE,
        stdout: int | IO[bytes] = subprocess.PIPE,
        stderr: int | IO[bytes] = subprocess.PIPE,
        cwd: Path | None = None,
    ) -> subprocess.Popen[bytes]:
        """Start a program as the service account, or as another of the stage."""
        who = account or self.account
        change: dict[str, Any] = {} if self.stage.lacking else {"user": who.uid, "group": who.gid, "extra_groups": []}
        program = subprocess.Popen(
            list(argv),
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            cwd=cwd or self.folder,
            env={**self.env, **(env or {})},
            **change,
        )
        self.started.append(program)
        return program

    def run(
        self, argv: Sequence[str], *, timeout: float = 30.0, env: Mapping[str, str] | None = None, text: bytes = b""
    ) -> subprocess.CompletedProcess[str]:
        """Run a program to its end as the service account, and return its status and text."""
        program = self.start(argv, env=env)
        try:
            out, err = program.communicate(text, timeout)
        except subprocess.TimeoutExpired:
            left = truth.picture(self.judge.alive())
            raise AssertionError(f"{argv} still runs after {timeout} s; alive:\n{left}") from None
        return subprocess.CompletedProcess(list(argv), program.returncode, out.decode(), err.decode())

    def wait_exit(self, program: subprocess.Popen[bytes], timeout: float = 20.0) -> int:
        """Wait for a started program and return its status, as subprocess gives it."""
        try:
            return program.wait(timeout)
        except subprocess.TimeoutExpired:
            left = truth.picture(self.judge.alive())
            raise AssertionError(f"{program.args!r} still runs after {timeout} s; alive:\n{left}") from None

    def sweep(self) -> tuple[int, Any, str]:
        """Run `corral sweep --json` on the test's state folder. Return the status, the object and standard error."""
        done = self.run(self.corral("sweep", "--state-dir", str(self.state_dir), "--json"), timeout=60)
        return done.returncode, json.loads(done.stdout) if done.stdout.strip() else None, done.stderr

    def wait_empty(self, timeout: float = 20.0, but: Sequence[int] = ()) -> None:
        """Wait until nothing of the test is alive, by the word of /proc."""
        wait_until(
            lambda: not self.judge.alive(but),
            timeout,
            "nothing of the test was alive",
            lambda: truth.picture(self.judge.alive(but)),
        )

    def close(self) -> list[truth.Seen]:
        """End what the test left, reap it, and return it."""
        left = self.judge.end_leftovers()
        for program in self.started:
            program.wait(10)
            for stream in (program.stdin, program.stdout, program.stderr):
                if stream is not None:
                    _close(stream)
        self._reap_orphans()
        return left

    def _reap_orphans(self) -> None:
        """Reap the dead orphans that came to this process (see namespace.adopt_orphans)."""
        for task in Path("/proc/self/task").iterdir():
            try:
                children = (task / "children").read_text()
            except OSError:  # a thread that has gone since
                continue
            for pid in map(int, children.split()):
                if self.stage.uids.intersection((Path(f"/proc/{pid}").stat().st_uid, _real_uid(pid))):
                    os.waitpid(pid, os.WNOHANG)


def _close(stream: IO[bytes]) -> None:
    try:
        stream.close()
    except BrokenPipeError:
        return


def _real_uid(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("Uid:")).split()[1])
