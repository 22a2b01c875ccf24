"""Calls of sudo: how they are built, run with a bound, and what their refusals mean."""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Iterable, Mapping, Sequence

from corral.process.typed import NamedTuple

KILL = "/bin/kill"
"""The program of the one rule that is needed beside the command's own."""

CALL_TIMEOUT = 5.0
"""Seconds that one call of sudo may take; directory services can make it slow, but nothing may hang on it."""

_PLACES = ("/usr/bin", "/bin", "/usr/local/bin", "/run/wrappers/bin", "/opt/homebrew/bin")
_MOST_STDERR = 4096
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


def run(argv: Sequence[str], timeout: float = CALL_TIMEOUT) -> Outcome:
    """Run a short call and wait for it, `timeout` seconds at the most. Raises nothing: a refusal is an Outcome."""
    try:
        reading, writing = os.pipe()
    except OSError as error:
        return Outcome(None, f"cannot run {argv[0]}: {error.strerror}")
    try:
        pid = os.posix_spawn(
            argv[0],
            list(argv),
            {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"},
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, "/dev/null", os.O_WRONLY, 0),
                (os.POSIX_SPAWN_DUP2, writing, 2),
            ],
            setpgroup=0,
            setsigmask=[],
            setsigdef=[signal.SIGPIPE, signal.SIGCHLD],
        )
    except OSError as error:
        os.close(reading)
        return Outcome(None, f"cannot run {argv[0]}: {error.strerror}")
    finally:
        os.close(writing)
    deadline = time.monotonic() + timeout
    try:
        message = _read_until_end(reading, deadline)
    finally:
        os.close(reading)
    return _collect(pid, deadline, Outcome(None, f"sudo gave no answer in {timeout:g} s"), message)


def _read_until_end(descriptor: int, deadline: float) -> str:
    # Its standard error closes when it has ended: one wait for text and end, with no signal handler needed.
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    text = b""
    while (left := deadline - time.monotonic()) > 0 and poll.poll(left * 1000):
        chunk = os.read(descriptor, 4096)
        if not chunk:
            break
        text = (text + chunk)[:_MOST_STDERR]
    return text.decode("utf-8", "replace").strip()


def _collect(pid: int, deadline: float, too_late: Outcome, message: str) -> Outcome:
    pause = 0.0002
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return Outcome(os.waitstatus_to_exitcode(status), message)
        if time.monotonic() >= deadline:
            break
        time.sleep(pause)
        pause = min(pause * 2, 0.01)
    os.kill(pid, signal.SIGKILL)
    # Nothing that must be kept lives below a call of sudo kill; the zombie is collected with the tree.
    return too_late


def rule(service: str, user: str, command: str, *, environment: bool = False, directory: bool = False) -> str:
    """The sudoers line that lets the service account run a command as a person's account."""
    tags = "NOPASSWD:SETENV:" if environment else "NOPASSWD:"
    where = "CWD=* " if directory else ""
    return f"{service} ALL=({user}) {where}{tags} {command}"


def keep_line(command: str, names: Iterable[str]) -> str:
    """The sudoers line that hands variables of sudo's own environment on to a command, without SETENV."""
    return f'Defaults!{command} env_keep += "{" ".join(names)}"'


def refused(outcome: Outcome) -> bool:
    """Whether sudo itself refused, as against the program it ran having failed."""
    return outcome.status is None or (outcome.status != 0 and "sudo: " in outcome.message)
