"""What the benchmark stands on: the tests' stage, under accounts of its own, so that both can run on one machine."""

import compileall
import json
import os
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from bench.judge import Judge
from bench.keeper import adopt_nothing
from tests.harness import stage as staging
from tests.harness.stage import Account, Stage

SERVICE, PERSON, UNUSED = "list", "irc", "backup"
ANSWER_WITHIN = 120.0
REPOSITORY = Path(__file__).resolve().parents[1]
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Lines:
    """A program that answers each line that it is given with one line."""

    def __init__(self, argv: list[str], **how: Any) -> None:
        self._program = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0, start_new_session=True, **how
        )
        self.pid = self._program.pid
        self._buffer = b""

    def exchange(self, line: str) -> str:
        """Give a line and return the answer."""
        assert self._program.stdin is not None
        self._program.stdin.write(line.encode() + b"\n")
        return self.read_line(line)

    def read_line(self, line: str = "its start") -> str:
        """Return the next line that it writes: the answer to `line`."""
        assert self._program.stdout is not None
        handle, deadline = self._program.stdout.fileno(), time.monotonic() + ANSWER_WITHIN
        while b"\n" not in self._buffer:
            if not select.select([handle], [], [], max(0.0, deadline - time.monotonic()))[0]:
                raise TimeoutError(f"no answer to {line} in {ANSWER_WITHIN:g} s")
            if not (piece := os.read(handle, 65536)):
                raise EOFError(f"{self._program.args!r} ended at {line}")
            self._buffer += piece
        answer, _, self._buffer = self._buffer.partition(b"\n")
        return answer.decode()

    def close(self) -> None:
        """End its input, and wait for it."""
        assert self._program.stdin is not None
        assert self._program.stdout is not None
        self._program.stdin.close()
        self._program.wait(30)
        self._program.stdout.close()


class Driver(Lines):
    """The benchmark's end of driver.py."""

    def ask(self, what: str, **arguments: Any) -> Any:
        """Give one order and return what came of it."""
        answer = json.loads(self.exchange(json.dumps({"do": what, **arguments})))
        if "error" in answer:
            raise RuntimeError(f"{what}: {answer['error']}")
        return answer["ok"]


class Ground:
    """The stage, the drivers, the idle processes and the judge."""

    def __init__(self, keeper: int) -> None:
        # The names are constants of the tests; this process runs none of them.
        staging.SERVICE, staging.PERSON, staging.SECOND_PERSON = SERVICE, PERSON, UNUSED
        self.stage: Stage = staging.raise_stage()
        adopt_nothing()
        self.judge = Judge(keeper)
        # As an installer does: the service account may not, and would compile the reaper at each of its starts.
        compileall.compile_dir(REPOSITORY / "src", quiet=2)
        self._drivers: dict[str, Driver] = {}
        self._idle: Lines | None = None
        self.package = self._packed()
        self.tree = [self.stage.python, "-I", "-S", str(self.package / "bench" / "tree.py")]

    @property
    def lacking(self) -> str | None:
        """Why nothing can be measured across accounts; None when it can."""
        return self.stage.lacking

    @property
    def service(self) -> Account:
        return self.stage.service

    @property
    def person(self) -> str:
        return self.stage.person.name

    def _packed(self) -> Path:
        """Return a folder that every account may read, with this package in it."""
        folder = self.stage.folder("package", 0o755)
        shutil.copytree(REPOSITORY / "bench", folder / "bench", ignore=shutil.ignore_patterns("__pycache__", "*.json"))
        return folder

    def driver(self, contender: str, *, counted: bool = False) -> Driver:
        """Return the service that ends its trees in this way, started when it is first needed."""
        name = f"{contender}-counted" if counted else contender
        if name not in self._drivers:
            state = self.stage.folder(f"state/{name}", 0o700, self.service)
            self.stage.folder("state", 0o755)
            line = self.command("bench.driver", contender, str(state))
            path = f"{self._sudo_counter().parent}:{PATH}" if counted else PATH
            self._drivers[name] = Driver(line, **self.manner(path))
            self.judge.add_driver(self._drivers[name].pid)
        return self._drivers[name]

    def program(self, module: str, *arguments: str) -> Driver:
        """Start a program of this package that takes orders as a driver does. Its caller closes it."""
        driver = Driver(self.command(module, *arguments), **self.manner())
        self.judge.add_driver(driver.pid)
        return driver

    def command(self, module: str, *arguments: str) -> list[str]:
        """Return the command line of a module of this package."""
        return [self.stage.python, "-m", module, *arguments]

    def manner(self, path: str = PATH) -> dict[str, Any]:
        """Return how the service account runs a program."""
        return {"env": self._environment(path), "cwd": "/", **self._as_service()}

    def _as_service(self) -> dict[str, Any]:
        if self.lacking:
            return {}
        return {"user": self.service.uid, "group": self.service.gid, "extra_groups": []}

    def _environment(self, path: str) -> dict[str, str]:
        return {
            "PATH": path,
            "HOME": str(self.service.home),
            "USER": self.service.name,
            "LOGNAME": self.service.name,
            "LANG": "C.UTF-8",
            "PYTHONPATH": os.pathsep.join([str(self.package), *self.stage.python_path]),
        }

    def _sudo_counter(self) -> Path:
        """Return a program named sudo that notes each call and becomes the real one."""
        program = self.stage.folder("counter", 0o755) / "sudo"
        calls = self.sudo_calls_file
        calls.touch()
        calls.chmod(0o666)
        real = shutil.which("sudo", path=PATH)
        program.write_text(f'#!/bin/sh\necho "$*" >>{calls}\nexec {real} "$@"\n')
        program.chmod(0o755)
        return program

    @property
    def sudo_calls_file(self) -> Path:
        return self.stage.root / "sudo-calls"

    def sudo_kills(self) -> int:
        """Return how many calls of `sudo kill` the counted drivers have made."""
        return sum("/bin/kill" in line for line in self.sudo_calls_file.read_text().splitlines())

    def idle(self, number: int) -> None:
        """Have so many idle processes on the host."""
        if self._idle is None:
            if not number:
                return
            self._idle = Lines([self.stage.python, "-I", "-S", str(self.package / "bench" / "idle.py")])
            self.judge.hide(self._idle.pid)
        kept = int(self._idle.exchange(str(number)))
        if kept != number:
            raise RuntimeError(f"{kept} idle processes instead of {number}")

    def close(self) -> None:
        """Take everything down again. What resists is the keeper's."""
        for driver in self._drivers.values():
            driver.close()
        if self._idle is not None:
            self._idle.close()
        self.stage.close()


def say(text: str) -> None:
    """Tell the person at the terminal what is going on, beside the figures."""
    sys.stderr.write(f"bench: {text}\n")
    sys.stderr.flush()
