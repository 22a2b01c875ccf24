"""Calls of sudo: how they are built, run with a bound, and what their refusals mean."""

from __future__ import annotations

import os
import select
import signal
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence

from corral.process.bare import procfs
from corral.process.bare.table import Identity
from corral.process.bare.typed import NamedTuple

KILL = "/bin/kill"
"""The program of the one rule that is needed beside the command's own."""

CALL_TIMEOUT = 5.0
"""Seconds that one call of sudo may take; directory services can make it slow, but nothing may hang on it."""

Wait = Callable[[float, int], bool]
"""See `wait`."""

_DIES_WITHIN = 0.5
_PLACES = ("/usr/bin", "/bin", "/usr/local/bin", "/run/wrappers/bin", "/opt/homebrew/bin")
_MOST_STDERR = 4096
_WARNING = "sudo: unable to resolve host"  # It goes on after that.
_VOICES = ("sudo: ", "Sorry, ")
_DENIALS = ("not allowed to execute", "may not run sudo", "is not in the sudoers file", "not allowed to run sudo")
_ARGUMENT_BYTES = 100_000  # Far below ARG_MAX (and below the 128 KiB of the smallest hosts).


class Outcome(NamedTuple):
    """How a call of sudo ended. status is None when it did not end in time, or could not be started."""

    status: int | None
    message: str


def find() -> str | None:
    """The sudo of this host, by this process's own PATH (never by one that is meant for a person), or None."""
    for folder in [*os.environ.get("PATH", "").split(os.pathsep), *_PLACES]:
        candidate = os.path.join(folder, "sudo")
        if folder and os.access(candidate, os.X_OK):
            return candidate
    return None


def command_line(
    sudo: str,
    user: str,
    argv: Sequence[str],
    *,
    preserve: Iterable[str] = (),
    directory: str | None = None,
    assign: Mapping[str, str] | None = None,
) -> list[str]:
    """The call that runs argv as user: never asks (-n), sets HOME (-H), and the variables in `assign`."""
    line = [sudo, "-n", "-H", "-u", user]
    if names := sorted(preserve):
        line.append("--preserve-env=" + ",".join(names))
    if directory is not None:
        line += ["-D", directory]
    line += [f"{name}={value}" for name, value in (assign or {}).items()]
    return [*line, "--", *argv]


def kill_lines(sudo: str, user: str, name: str, pids: Sequence[int], groups: Sequence[int] = ()) -> list[list[str]]:
    """The calls that send signal `name` to the pids, in their order, then to whole process groups.

    One call, unless the pids fill more than an argument list may hold. Raises ValueError for a pid or a group below 2:
    0 and -1 would reach everything that the account may signal, 1 is init.
    """
    if refused := [number for number in (*pids, *groups) if number < 2]:
        raise ValueError(f"refusing to signal {refused}: pid 0, 1 and negatives reach far more than one process")
    head = [sudo, "-n", "-u", user, KILL, f"-{name}"]
    if groups:
        # Without "--" procps reads a leading negative number as an option, and exits 0.
        head.append("--")
    words = [*map(str, pids), *(f"-{group}" for group in groups)]
    lines: list[list[str]] = []
    room = 0
    for word in words:
        if not lines or room < len(word) + 1:
            lines.append(list(head))
            room = _ARGUMENT_BYTES
        lines[-1].append(word)
        room -= len(word) + 1
    return lines


def freeze_line(sudo: str, user: str) -> list[str]:
    """The call that stops every process of the account at one stroke: kill(2) of -1 is atomic against fork."""
    return [sudo, "-n", "-u", user, KILL, "-STOP", "--", "-1"]


def wait(seconds: float, descriptor: int = -1) -> bool:
    """Wait until a descriptor (-1: none) can be read, this many seconds at the most. Whether it can."""
    poll = select.poll()
    if descriptor >= 0:
        poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(max(0.0, seconds) * 1000))


class Caller:
    """Makes short calls of sudo and waits for them, in the way of the process that makes them."""

    def __init__(self, wait: Wait = wait) -> None:
        """wait: as the function `wait`; it may return early, and what it raises gives up the call."""
        self._wait = wait
        self.left: set[Identity] = set()
        """What calls that were given up have left behind: programs of sudo's own (PAM), which may be root's."""

    def run(self, argv: Sequence[str], timeout: float = CALL_TIMEOUT, wait: Wait | None = None) -> Outcome:
        """Make a call, and wait `timeout` seconds at the most. Raises nothing of its own: a refusal is an Outcome.

        wait: another way to wait, for this call.
        """
        wait = wait or self._wait
        try:
            reading, writing = os.pipe()
        except OSError as error:
            return Outcome(None, f"cannot run {argv[0]}: {error.strerror}")
        try:
            pid = _spawn(argv, writing)
        except OSError as error:
            os.close(reading)
            return Outcome(None, f"cannot run {argv[0]}: {error.strerror}")
        finally:
            os.close(writing)
        deadline = time.monotonic() + timeout
        status = None
        try:
            message = _read_until_end(reading, deadline, wait)
            status = _status(pid, deadline, wait)
        finally:
            os.close(reading)
            if status is None:
                self._give_up(pid)
        return (
            Outcome(status, message) if status is not None else Outcome(None, f"sudo gave no answer in {timeout:g} s")
        )

    def _give_up(self, pid: int) -> None:
        # A call that was let go on would send its signal late, when the pids may be others'. Nothing that must be kept
        # lives below it. It is stopped first, so that all it has started is known.
        _signal(pid, signal.SIGSTOP)
        if sys.platform == "linux":
            for process in procfs.descendants(pid):
                self.left.add(process.identity)
                _signal(process.pid, signal.SIGKILL)
        _signal(pid, signal.SIGKILL)
        deadline = time.monotonic() + _DIES_WITHIN
        while os.waitpid(pid, os.WNOHANG)[0] == 0:
            if time.monotonic() >= deadline:
                # Once its program has run it is root's altogether, and closing the PAM session can hang.
                self.left.update(_identities(pid))
                return
            time.sleep(0.001)


def _read_until_end(descriptor: int, deadline: float, wait: Wait) -> str:
    # Its standard error closes when it has ended: one wait for text and end, with no signal handler needed.
    text = b""
    while (left := deadline - time.monotonic()) > 0:
        if not wait(left, descriptor):
            continue
        chunk = os.read(descriptor, 4096)
        if not chunk:
            break
        text = (text + chunk)[:_MOST_STDERR]
    return text.decode("utf-8", "replace").strip()


def _status(pid: int, deadline: float, wait: Wait) -> int | None:
    pause = 0.0002
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() >= deadline:
            return None
        wait(pause, -1)
        pause = min(pause * 2, 0.01)


def _identities(pid: int) -> list[Identity]:
    start_time = procfs.start_time(pid) if sys.platform == "linux" else None
    return [(pid, start_time)] if start_time is not None else []


def _signal(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except OSError:
        return  # It is root's by now, or gone.


def run(argv: Sequence[str], timeout: float = CALL_TIMEOUT) -> Outcome:
    """A call by a process that does nothing else meanwhile. See `Caller.run`."""
    return Caller().run(argv, timeout)


def _spawn(argv: Sequence[str], stderr: int) -> int:
    return os.posix_spawn(
        argv[0],
        list(argv),
        {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"},
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, "/dev/null", os.O_WRONLY, 0),
            (os.POSIX_SPAWN_DUP2, stderr, 2),
        ],
        setpgroup=0,
        setsigmask=[],
        setsigdef=[signal.SIGPIPE, signal.SIGCHLD],
    )


def rule(service: str, user: str, command: str, *, environment: bool = False, directory: bool = False) -> str:
    """The sudoers line that lets the service account run a command as a person's account."""
    tags = "NOPASSWD:SETENV:" if environment else "NOPASSWD:"
    where = "CWD=* " if directory else ""
    return f"{service} ALL=({user}) {where}{tags} {command}"


def keep_line(command: str, names: Iterable[str]) -> str:
    """The sudoers line that hands variables of sudo's own environment on to a command, without SETENV."""
    return f'Defaults!{command} env_keep += "{" ".join(names)}"'


def refused(outcome: Outcome) -> bool:
    """Whether the program was not run, as against having failed itself."""
    if outcome.status is None:
        return True
    said = [line for line in outcome.message.splitlines() if not line.startswith(_WARNING)]
    # Its own last word: what comes after that is the program's.
    return outcome.status != 0 and bool(said) and said[-1].startswith(_VOICES)


def forbids(outcome: Outcome) -> bool:
    """Whether sudo said that a rule is missing, as against it having failed, or having given no answer."""
    return refused(outcome) and (wants_password(outcome) or any(text in outcome.message for text in _DENIALS))


def wants_password(outcome: Outcome) -> bool:
    """Whether sudo said that it would run the program for a password only; -n never gives one."""
    return "a password is required" in outcome.message
