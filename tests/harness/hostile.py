"""The hostile trees as one program: hostile.py SHAPE STATUS_FILE [NUMBER or COMMAND...].

Standard library only, for `python3 -I -S`, so that any account can start it. Every process says in the status file who
it is ("name pid"); the line "ready" comes when the whole shape stands. Nothing here sleeps to be ready.
"""

import ctypes
import fcntl
import os
import platform
import pty
import random
import select
import signal
import sys
import tempfile
import termios
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NoReturn

LIBC = ctypes.CDLL(None)
PR_SET_NAME, PR_SET_CHILD_SUBREAPER = 15, 36
SYS_EXIT = {"x86_64": 60, "aarch64": 93}
POLITE_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
status_file = ""


def say(line: str) -> None:
    """Append to the status file in one write; the descriptor is gone again at once."""
    handle = os.open(status_file, os.O_WRONLY | os.O_APPEND)
    os.write(handle, f"{line}\n".encode())
    os.close(handle)


def here(name: str) -> None:
    say(f"{name} {os.getpid()}")


def hold() -> NoReturn:
    """Stay for good, unless a signal ends the process."""
    while True:
        signal.pause()


def child(act: Callable[[], object]) -> int:
    """Fork a child that does the act and then holds. Return its pid to the parent."""
    pid = os.fork()
    if pid:
        return pid
    try:
        act()
        hold()
    finally:
        os._exit(1)


def deaf() -> None:
    for number in POLITE_SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def ready_and_hold() -> NoReturn:
    say("ready")
    hold()


def wait_for_line(line: str) -> None:
    """Return once another process of the tree has said this line."""
    while not any(said.startswith(line) for said in Path(status_file).read_text().splitlines()):
        os.sched_yield()


def depth(levels: str) -> None:
    """Nest so many processes, each the child of the one before."""
    for level in range(1, int(levels)):
        here(f"level-{level}")  # before there is anybody below it who says that all is ready
        if pid := os.fork():
            os.waitpid(pid, 0)
            hold()
    here(f"level-{levels}")
    ready_and_hold()


def breadth(number: str) -> None:
    """Have so many children, forked without exec."""
    for _ in range(int(number)):
        child(lambda: None)
    ready_and_hold()


def ignores_term() -> None:
    """Be deaf to every polite signal, child and parent."""
    deaf()
    child(lambda: here("child"))
    wait_for_line("child")
    ready_and_hold()


def close_all() -> None:
    os.closerange(0, 4096)


def become_daemon(act: Callable[[], object]) -> None:
    """Fork twice with a new session between, as daemons do; the daemon does the act and holds."""

    def middle() -> None:
        os.setsid()
        child(act)
        os._exit(0)

    os.waitpid(child(middle), 0)


def closed_daemon() -> None:
    os.chdir("/")
    close_all()
    here("daemon")


def daemon() -> None:
    """Leave a daemon with closed descriptors beside the command, which goes on."""
    become_daemon(closed_daemon)
    wait_for_line("daemon")
    ready_and_hold()


def left_behind() -> None:
    """Leave a daemon and exit with status 0."""
    become_daemon(closed_daemon)
    wait_for_line("daemon")
    say("ready")


def holds_stdin() -> None:
    """Leave a daemon that keeps all the command's descriptors open."""
    become_daemon(lambda: here("daemon"))
    wait_for_line("daemon")
    ready_and_hold()


def thread_forks() -> None:
    """Fork from a worker thread, so that only that thread's children file lists the child."""

    def work() -> None:
        child(lambda: here("child"))
        threading.Event().wait()

    threading.Thread(target=work, daemon=True).start()
    wait_for_line("child")
    ready_and_hold()


def dead_main() -> None:
    """End the main thread while a worker with a child goes on: the process looks like a zombie."""

    def work() -> None:
        child(lambda: here("child"))
        wait_for_line("child")
        main = f"/proc/{os.getpid()}/stat"
        while Path(main).read_text().rpartition(")")[2].split()[0] != "Z":
            os.sched_yield()
        here("main-is-dead")
        say("ready")
        threading.Event().wait()

    threading.Thread(target=work).start()
    LIBC.syscall(SYS_EXIT[platform.machine()], 0)


def inner_subreaper() -> None:
    """Be a subreaper inside the tree: the daemon's orphans stop at this process."""

    def reaper() -> None:
        LIBC.prctl(PR_SET_CHILD_SUBREAPER, 1)
        here("subreaper")
        deaf()
        become_daemon(closed_daemon)
        wait_for_line("daemon")

    child(reaper)
    wait_for_line("daemon")
    ready_and_hold()


def stopped() -> None:
    """Have stopped children, for which TERM stays pending, one of them in a session of its own."""

    def still(name: str) -> None:
        if name == "away":
            os.setsid()
        here(name)
        os.kill(os.getpid(), signal.SIGSTOP)

    for name in ("near", "away"):
        os.waitpid(child(partial(still, name)), os.WUNTRACED)
    ready_and_hold()


def respawner() -> None:
    """Start a new child, in a new session, whenever one ends."""
    deaf()

    def born() -> None:
        os.setsid()
        here("child")

    def keep() -> None:
        os.setsid()
        while Path(status_file).exists():  # never outlive the test by long
            os.waitpid(child(born), 0)

    child(keep)
    wait_for_line("child")
    ready_and_hold()


def odd_name() -> None:
    """Carry a name that spoils a careless reader of /proc/PID/stat."""

    def named(role: str) -> None:
        LIBC.prctl(PR_SET_NAME, b"a) Z 1 (b c", 0, 0, 0)
        here(role)

    def parent() -> None:
        named("child")
        child(partial(named, "grandchild"))

    child(parent)
    wait_for_line("grandchild")
    ready_and_hold()


def vfork() -> None:
    """Be suspended in vfork, which ends only when the child, stuck with all signals blocked, execs or dies."""
    pipe = tempfile.mktemp(prefix="fifo-", dir=str(Path(status_file).parent))
    os.mkfifo(pipe)

    def suspended() -> None:
        here("suspended")
        os.posix_spawn("/bin/true", ["true", status_file], {}, file_actions=[(os.POSIX_SPAWN_OPEN, 0, pipe, 0, 0)])

    stat = f"/proc/{child(suspended)}/stat"
    while Path(stat).read_text().rpartition(")")[2].split()[0] != "D":
        os.sched_yield()
    ready_and_hold()


def fill(handle: int) -> None:
    """Write until the pipe is full."""
    os.set_blocking(handle, False)
    try:
        while True:
            os.write(handle, b"x" * 65536)
    except BlockingIOError:
        os.set_blocking(handle, True)


def flood() -> None:
    """Write more than anybody reads, and stay blocked in the write."""

    def drown() -> NoReturn:
        deaf()
        fill(1)
        here("full")
        while True:
            os.write(1, b"x" * 65536)

    child(drown)
    wait_for_line("full")
    ready_and_hold()


def zombies() -> None:
    """Keep fifty dead children and wait for none of them."""
    for _ in range(50):
        pid = child(lambda: os._exit(0))
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    ready_and_hold()


def successors(milliseconds: str) -> None:
    """Hand on to a successor in a new session every few milliseconds: whoever was seen is gone already."""

    def chain() -> NoReturn:
        generation = 0
        while True:
            generation += 1
            if generation <= 3:
                here(f"generation-{generation}")
            select.select([], [], [], int(milliseconds) / 1000)
            if os.fork() or not Path(status_file).exists():  # never outlive the test by long
                os._exit(0)
            os.setsid()

    os.waitpid(child(chain), 0)
    wait_for_line("generation-3")
    ready_and_hold()


def churn(number: str) -> None:
    """Have so many children at a time, each of which lives some milliseconds: its pids are free all the time."""
    dice = random.Random(int(number))

    def live(seconds: float) -> None:
        select.select([], [], [], seconds)
        os._exit(0)

    for _ in range(int(number)):
        child(partial(live, dice.random() * 0.03))
    say("ready")
    while Path(status_file).exists():  # never outlive the test by long
        os.wait()
        child(partial(live, dice.random() * 0.03))


def env_wiped() -> None:
    """Start a daemon that execs with an empty environment."""

    def wiped() -> None:
        os.execve(sys.executable, [sys.executable, "-I", "-S", __file__, "bare", status_file], {})

    become_daemon(wiped)
    wait_for_line("bare")
    ready_and_hold()


def bare() -> None:
    """Hold: what `env_wiped` and the sudo shapes put below them."""
    here("bare")
    hold()


def mixed(*command: str) -> None:
    """Run another command (sudo) below this one, so that the tree has processes of two accounts."""
    child(lambda: os.execvp(command[0], command))
    wait_for_line("bare")
    ready_and_hold()


def terminal(*command: str) -> None:
    """Run sudo below this one on a terminal: with use_pty it puts a monitor and a terminal of its own there."""
    leader, follower = pty.openpty()

    def on_terminal() -> None:
        os.setsid()
        fcntl.ioctl(follower, termios.TIOCSCTTY, 0)
        for handle in range(3):
            os.dup2(follower, handle)
        os.execvp(command[0], command)

    child(on_terminal)
    os.close(follower)
    threading.Thread(target=lambda: drain(leader), daemon=True).start()
    wait_for_line("bare")
    ready_and_hold()


def drain(handle: int) -> None:
    try:
        while os.read(handle, 65536):
            pass
    except OSError:
        return


SHAPES: dict[str, Callable[..., None]] = {
    shape.__name__: shape
    for shape in (
        bare, breadth, churn, daemon, dead_main, depth, env_wiped, flood, holds_stdin, ignores_term, inner_subreaper,
        left_behind, mixed, odd_name, respawner, stopped, successors, terminal, thread_forks, vfork, zombies,
    )
}  # fmt: skip

if __name__ == "__main__":
    status_file = sys.argv[2]
    here("command")
    SHAPES[sys.argv[1]](*sys.argv[3:])
