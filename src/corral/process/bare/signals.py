"""Sending signals to a tree: in which order, directly or through sudo, and never to a stranger."""

from __future__ import annotations

import errno
import os
import signal
import sys
from collections.abc import Callable, Collection, Iterable, Sequence

from corral.process.bare import sudo
from corral.process.bare.report import SignalCount
from corral.process.bare.table import UNKNOWN, Identity, Process, ProcessTable, account_name


def innermost_first(processes: Iterable[Process]) -> list[Process]:
    """Children before their parents: where a batch stops halfway, what is left still hangs on its parents."""
    return sorted(processes, key=lambda process: -process.depth)


def is_sudo(process: Process) -> bool:
    """Whether it may be a sudo, or its monitor: by name, and with the rights of a set-uid program.

    Any set-uid program can be started by a link of that name. What it does cannot be posed: see `relays`.
    """
    return process.comm == "sudo" and process.euid == 0 and not _runs_another_program(process.pid)


def _runs_another_program(pid: int) -> bool:
    # Only root may look.
    try:
        return not os.path.basename(os.readlink(f"/proc/{pid}/exe")).startswith("sudo")
    except OSError:
        return False


def relays(processes: Collection[Process]) -> set[int]:
    """The pids of each sudo that has a living process of another account somewhere below it.

    That takes more rights than the account has that started it, so nobody gets there by calling a program sudo.
    """
    by_pid = {process.pid: process for process in processes}
    candidates = {process.pid for process in processes if is_sudo(process)}
    found: set[int] = set()
    passed: set[tuple[int, int]] = set()
    """Processes that were climbed over, each by the account below it: a second time shows nothing new."""
    for process in processes if candidates else ():
        above = by_pid.get(process.ppid) if process.living else None
        while above is not None and (above.pid, process.uid) not in passed:
            if above.pid in candidates and above.uid != process.uid:
                found.add(above.pid)
            passed.add((above.pid, process.uid))
            above = by_pid.get(above.ppid)
    return found


def spare_sudo(processes: Collection[Process]) -> list[Process]:
    """Without every sudo that relays: a KILL there orphans what is below it, a TERM reaches that twice."""
    spared = relays(processes)
    return [process for process in processes if process.pid not in spared]


def may_signal(process: Process, real: int, effective: int) -> bool:
    """kill(2): the sender's real or effective uid must equal the target's real or saved one, or be root's."""
    return effective == 0 or bool({real, effective} & {process.uid, process.saved_uid})


def split_by_account(
    processes: Iterable[Process], real: int, effective: int
) -> tuple[list[Process], dict[int, list[Process]]]:
    """Those that may be signalled directly, and the others by the account that may signal them.

    A process that the kernel would not show is tried directly.
    """
    direct: list[Process] = []
    others: dict[int, list[Process]] = {}
    for process in processes:
        if process.uid == UNKNOWN or may_signal(process, real, effective):
            direct.append(process)
        else:
            others.setdefault(process.uid, []).append(process)
    return direct, others


def kill_if_same(pid: int, number: signal.Signals, is_same: Callable[[], bool]) -> bool:
    """Send a signal to a process of which is_same() says that it still has this pid; whether it was sent.

    On Linux the process is held by a pidfd while its identity is checked, so that the signal cannot reach another one
    that was given the pid in between. Raises PermissionError, and what is_same raises.
    """
    try:
        if sys.platform == "linux" and (descriptor := _open_pidfd(pid)) is not None:
            try:
                same = is_same()
                if same:
                    signal.pidfd_send_signal(descriptor, number)
                return same
            except OSError as error:
                # The pidfd was the last descriptor to be had, and is_same needs one: without it, then.
                if error.errno not in (errno.EMFILE, errno.ENFILE):
                    raise
            finally:
                os.close(descriptor)
        if not is_same():
            return False
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


def _open_pidfd(pid: int) -> int | None:
    """A pidfd; None where there is none to be had: an old kernel, a seccomp filter, no descriptor left."""
    try:
        return os.pidfd_open(pid) if sys.platform == "linux" else None
    except OSError:
        return None


class Signaller:
    """Delivers signals for one ending and remembers what was sent and what was refused."""

    def __init__(
        self,
        table: ProcessTable,
        *,
        person: int,
        groups: bool = True,
        caller: sudo.Caller | None = None,
        program: str | None = None,
    ) -> None:
        """groups: whether the process groups of the tree are its own, so that they may be signalled whole.

        caller: makes the calls of sudo. program: the host's sudo, for a process that must not look for it itself.
        """
        self._table = table
        self._person = person
        self._groups = groups
        self._caller = caller or sudo.Caller()
        self._program = program
        self._counts: dict[tuple[str, str], set[Identity]] = {}
        self.refusals: dict[int, str] = {}
        """uid of an account → why its processes could not be signalled, and what would allow it."""

    @property
    def _sudo(self) -> str | None:
        # Looked for when it is needed: PATH can name a folder that does not answer.
        self._program = self._program or sudo.find()
        return self._program

    @property
    def counts(self) -> tuple[SignalCount, ...]:
        """Distinct processes per signal and account, in the order of sending."""
        return tuple(SignalCount(name, account, len(who)) for (name, account), who in self._counts.items())

    def send(
        self,
        number: signal.Signals,
        processes: Iterable[Process],
        *,
        with_groups: bool = False,
        outermost_first: bool = False,
    ) -> None:
        """Send one signal to each, innermost first; the processes of one other account in one call.

        with_groups adds the process groups to the call of another account: kill(2) of a group is atomic against fork.
        Every group of the tree was made within the tree (the command leads a session of its own, and a group cannot
        leave its session), so no stranger is in one. Its number is not given out as a pid while anybody is in it.
        """
        name = number.name.removeprefix("SIG")
        real, effective = os.getuid(), os.geteuid()
        order = innermost_first(processes)
        if outermost_first:
            order.reverse()
        direct, others = split_by_account(order, real, effective)
        for process in direct:
            if not self._send_directly(number, name, process):
                # One that is hidden and may not be signalled is taken for the person's.
                others.setdefault(self._person if process.uid == UNKNOWN else process.uid, []).append(process)
        for uid, theirs in others.items():
            self._send_through_sudo(uid, name, theirs, with_groups)

    def freeze(self, uid: int) -> bool:
        """Stop everything that belongs to another account, at one stroke. True if sudo did it.

        Only for an account of which nothing but the job is alive; see `Ending`, which makes sure of that.
        """
        if uid in (UNKNOWN, 0) or uid == os.getuid() or (program := self._sudo) is None:
            return False
        return not sudo.refused(self._caller.run(sudo.freeze_line(program, _for_sudo(uid))))

    def _send_directly(self, number: signal.Signals, name: str, process: Process) -> bool:
        """False where it may not be signalled."""
        try:
            sent = kill_if_same(process.pid, number, lambda: self._is_still(process))
        except PermissionError:
            # Not a word about the account: macOS says it of zombies too. What counts is what is still there later.
            return False
        if sent:
            self.count(name, [process])
        return True

    def _send_through_sudo(self, uid: int, name: str, processes: Sequence[Process], with_groups: bool) -> None:
        account = account_name(uid)
        if (program := self._sudo) is None:
            self.refusals[uid] = f"it belongs to {account} and there is no sudo to signal it with: install sudo"
            return
        if uid == UNKNOWN or not (targets := [process for process in processes if self._is_still(process)]):
            return
        # As root a group would take the sudo that leads it along.
        groups = sorted({p.pgid for p in targets if p.pgid > 1}) if with_groups and self._groups and uid != 0 else []
        outcome = sudo.Outcome(0, "")
        for line in sudo.kill_lines(program, _for_sudo(uid), name, [p.pid for p in targets], groups):
            outcome = self._caller.run(line)
            if sudo.refused(outcome):
                break
        if sudo.refused(outcome):
            self.refusals[uid] = self._why(account, uid, outcome)
            return
        self.refusals.pop(uid, None)
        self.count(name, targets)

    def _why(self, account: str, uid: int, outcome: sudo.Outcome) -> str:
        if uid == 0:
            # A rule for root would let this account signal every process of the host.
            return "it belongs to root: end it as root"
        if outcome.status is None:
            return f"it belongs to {account}, and {outcome.message}"
        text = f"sudo does not let this account signal {account} ({outcome.message})"
        if not sudo.forbids(outcome):
            return text
        return f"{text}; add to sudoers: {sudo.rule(account_name(os.getuid()), account, sudo.KILL)}"

    def _is_still(self, process: Process) -> bool:
        # A child of our own that nobody waited for keeps its pid, dead or alive; it needs no second look, and where
        # the kernel hides it (hidepid=2) it could not be had.
        if process.ppid == os.getpid() and not process.readable:
            return True
        return self._table.start_time(process.pid) == process.start_time

    def count(self, name: str, processes: Iterable[Process]) -> None:
        """Note that these were sent a signal."""
        for process in processes:
            self._counts.setdefault((name, account_name(process.uid)), set()).add(process.identity)


def _for_sudo(uid: int) -> str:
    # sudo takes an account without a name by its number, behind a "#".
    name = account_name(uid)
    return f"#{uid}" if name.isdigit() else name
