"""Ctrl-Z at `corral run`, in a real interactive shell on a real terminal: a stopped job reads nothing."""

import os
import pty
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Route
from tests.harness import truth
from tests.harness.service import Service
from tests.harness.waiting import wait_until

CTRL_C, CTRL_Z = b"\x03", b"\x1a"
READS = "import sys\nfor line in sys.stdin: print(line.strip(), file=open(sys.argv[1], 'a'), flush=True)"


class Shell:
    """bash -i on a terminal of its own."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.screen = b""
        self.heard = service.folder / "heard"
        self.typed = service.folder / "typed"
        for file in (self.heard, self.typed):
            file.touch()
            file.chmod(0o666)
        self._end, theirs = pty.openpty()
        argv = ["setsid", "--ctty", "bash", "--norc", "--noprofile", "-i"]
        env = {"PS1": "ready> ", "TERM": "dumb", "HISTFILE": "/dev/null"}
        self.program: subprocess.Popen[bytes] = service.start(argv, stdin=theirs, stdout=theirs, stderr=theirs, env=env)
        os.close(theirs)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        try:
            while piece := os.read(self._end, 65536):
                self.screen += piece
        except OSError:
            return

    def type(self, text: str | bytes) -> None:
        os.write(self._end, text.encode() if isinstance(text, str) else text)

    def command(self, text: str) -> None:
        """Type a command at the prompt, and wait until the shell has taken it from the terminal."""
        lines = len(self.lines(self.typed))
        self.type(f"{text}\necho typed >> {self.typed}\n")
        wait_until(lambda: len(self.lines(self.typed)) > lines, 20, "the shell took the line", self.picture)

    def expect(self, text: str) -> None:
        wait_until(lambda: text.encode() in self.screen, 20, f"the screen shows {text!r}", self.picture)
        self.screen = b""

    def lines(self, file: Path) -> list[str]:
        return file.read_text().splitlines()

    def picture(self) -> str:
        alive = truth.picture(self.service.judge.alive())
        return f"screen: {self.screen.decode()!r}\nheard: {self.lines(self.heard)}\n{alive}"

    def run(self, user: str | None, more: str = "") -> None:
        """Start a job in the foreground that notes each line that it reads."""
        reader = self.service.folder / "reader.py"
        reader.write_text(READS)
        options = ["--state-dir", str(self.service.state_dir), "--grace", "2", *(["--user", user] if user else [])]
        argv = self.service.corral("run", *options, "--", self.service.python, str(reader), str(self.heard))
        self.type(" ".join(argv) + f"{more}\n")

    def hears(self, *lines: str) -> None:
        wait_until(lambda: self.lines(self.heard) == list(lines), 20, f"the job has read {lines}", self.picture)

    def close(self) -> None:
        self.program.kill()
        self.program.wait(10)
        self._reader.join(10)
        os.close(self._end)


@pytest.fixture
def shell(service: Service) -> Iterator[Shell]:
    shell = Shell(service)
    yield shell
    shell.close()


def stopped(shell: Shell, user: str | None) -> None:
    """A job that has read one line, and is stopped by Ctrl-Z."""
    shell.run(user)
    shell.type("first\n")
    shell.hears("first")
    shell.screen = b""
    shell.type(CTRL_Z)
    shell.expect("Stopped")


@pytest.mark.slow
def test_a_stopped_job_reads_nothing_and_reads_on_in_the_foreground(account: Route, shell: Shell) -> None:
    stopped(shell, account.user)
    for _ in range(6):
        shell.command("true")
    shell.hears("first")
    shell.type("fg\n")
    shell.expect("corral")
    shell.type("second\n")
    shell.hears("first", "second")
    shell.type(CTRL_Z)
    shell.expect("Stopped")
    shell.type("fg\n")
    shell.expect("corral")
    shell.type(CTRL_C)
    shell.command("true")
    shell.service.wait_empty(10, but=[shell.program.pid])


@pytest.mark.slow
def test_in_the_background_it_stays_stopped(shell: Shell) -> None:
    stopped(shell, None)
    shell.type("bg\n")
    shell.expect("use fg")
    shell.command("true")
    shell.hears("first")


@pytest.mark.slow
def test_a_stopped_job_can_be_ended(account: Route, shell: Shell) -> None:
    stopped(shell, account.user)
    shell.command("kill %1")
    shell.service.wait_empty(10, but=[shell.program.pid])
    shell.hears("first")


@pytest.mark.slow
def test_a_stopped_job_whose_corral_is_killed_is_ended(account: Route, shell: Shell) -> None:
    stopped(shell, account.user)
    shell.command("kill -KILL %1")
    shell.service.wait_empty(10, but=[shell.program.pid])


def test_a_job_that_is_started_in_the_background_has_no_input(shell: Shell) -> None:
    shell.run(None, " &")
    shell.expect("has no input")
    shell.command("true")
    shell.command("wait")
    shell.hears()


def test_without_a_shell_that_would_continue_it_nothing_stays_stopped(service: Service) -> None:
    heard = service.folder / "heard"
    argv = service.corral("run", "--state-dir", str(service.state_dir), "--", service.python, "-c", READS, str(heard))
    program = service.start(["setsid", *argv])
    assert program.stdin is not None
    program.stdin.write(b"first\n")
    program.stdin.flush()
    wait_until(lambda: heard.exists() and heard.read_text() == "first\n", 20, "the job has read a line")
    program.send_signal(signal.SIGTSTP)
    program.stdin.write(b"second\n")
    program.stdin.close()
    wait_until(lambda: heard.read_text() == "first\nsecond\n", 20, "the job has read on")
    assert service.wait_exit(program) == 0
