"""Starting the command of a job: under this account, or through sudo under another; and why it could not be.

Whatever may hang (a directory service, a folder or a program on a dead mount, a scanner, sudo itself) hangs in a child.
This process only waits for that child, in the caller's own loop, and can be told to give up at any moment.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Collection

from corral.process.bare import sudo
from corral.process.bare.child import Plan, become
from corral.process.bare.errors import StartError
from corral.process.bare.request import Command
from corral.process.bare.table import remember_account
from corral.process.bare.typed import Any

_SUDO_STARTS_WITHIN = 10.0
"""Seconds after which a sudo that is still busy (a slow directory service) is taken for started."""

_SLOWEST_LOOK = 0.05
"""Seconds between two looks at a child; SIGCHLD cuts a wait short as well."""

_OF_THE_TAGS = ("sudo_password", "sudo_environment", "cwd")
"""Kinds of refusals of a command that sudo has a rule for."""


class Launch:
    """One start of a command, over this process's standard streams and in a session of its own.

    wait(seconds, descriptor) waits for a descriptor; what it raises to give up the start passes through here, and the
    child stays for the caller to end.
    """

    def __init__(
        self,
        command: Command,
        *,
        ignored: Collection[int],
        caller: sudo.Caller,
        wait: sudo.Wait,
        in_child: Callable[[], None],
        forked: Callable[[int], None],
        planned: Callable[[Plan], None],
    ) -> None:
        """ignored: the signals that the supervisor ignored (nohup), and that the command is to ignore as well.

        in_child() is called in each child, in the command's own session: see `reaper.Reaper`.
        forked(pid) is called for each child in the reaper; planned(plan) once, before the command runs.
        """
        self.pid = -1
        """The command's, or sudo's above it, or that of the child that is to become it."""
        self.running = False
        self.plan: Plan | None = None
        self.notice = ""
        """What the person should know of the start."""
        self._command = command
        self._ignored = ignored
        self._caller = caller
        self._wait = wait
        self._in_child = in_child
        self._forked = forked
        self._planned = planned

    @property
    def uid(self) -> int:
        """The account that the command runs as; this process's own while that is not known."""
        return self.plan.uid if self.plan is not None else os.getuid()

    def run(self) -> None:
        """Start it. Raises StartError, with nothing left, and what `wait` raises."""
        if not self._command.argv:
            raise StartError("invalid", "there is no command to run")
        try:
            self._attempt(assigns=True)
        except StartError as error:
            if self.plan is None or not self.plan.assigned or error.kind not in _OF_THE_TAGS:
                raise
            # The command can do without what is assigned: where the rule does not let it through, it is left out. If
            # something else was the reason, that is what the second refusal is about.
            self._attempt(assigns=False)
            self.notice = self._not_assigned(self.plan)
        self.running = True

    def _attempt(self, *, assigns: bool) -> None:
        """Fork, let the child find out what it needs, and let it become the command."""
        answers, telling, going, go = _pipes()
        try:
            self.pid = _fork()
            if self.pid == 0:
                os.close(answers)
                os.close(go)
                become(
                    self._command,
                    ignored=self._ignored,
                    in_child=self._in_child,
                    telling=telling,
                    going=going,
                    assigns=assigns,
                )
        finally:
            os.close(telling)
            os.close(going)
        try:
            self._forked(self.pid)
            plan = self._talk(_Answers(answers, self._wait), go)
        finally:
            os.close(answers)
            os.close(go)
        if plan.uid != os.getuid():
            self._confirm(plan)

    def _talk(self, child: _Answers, go: int) -> Plan:
        plan = self._take(child.next())
        if self.plan is None:
            self.plan = plan
            remember_account(os.getuid(), plan.service)
            remember_account(plan.uid, plan.user)
            self._planned(plan)
        try:
            os.write(go, b"!")
        except BrokenPipeError:
            pass  # It is dead, as its end of the other pipe will show.
        # Closed by exec: no further word means that the command runs.
        if (failure := child.next()) is not None:
            self._take(failure)
        return plan

    def _take(self, answer: dict[str, Any] | None) -> Plan:
        """The plan in an answer. Raises StartError for a failure, or none at all, with the child collected."""
        if answer is not None and "error" not in answer:
            return Plan(**answer)
        status = self._collect()
        if answer is None:
            code = os.waitstatus_to_exitcode(status)
            raise StartError("internal", f"the process that was to become the command ended with status {code}")
        raise StartError(answer["error"], answer["message"])

    def _collect(self) -> int:
        """Wait for the child, which has said its last word. It can be stopped, or hang in its exit, like any other."""
        pause = 0.001
        while True:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                return status
            self._wait(pause, -1)
            pause = min(pause * 2, _SLOWEST_LOOK)

    def _confirm(self, plan: Plan) -> None:
        """Wait until sudo has started the command. Raises StartError if it refused."""
        from corral.process.bare import refusal  # what only a command of another account needs: see `child`

        deadline = time.monotonic() + _SUDO_STARTS_WITHIN
        pause = 0.001
        while (ended := os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)) is None:
            if refusal.has_started(self.pid, plan.uid) or time.monotonic() >= deadline:
                return
            self._wait(pause, -1)
            pause = min(pause * 1.3, 0.02)
        if ended.si_code != os.CLD_EXITED or ended.si_status != 1:
            return  # sudo says 1 of its own failures; anything else is the command's word.
        ran = refusal.has_run(self.pid, plan.uid)
        if ran:
            return
        assert plan.sudo is not None
        question = [plan.sudo, "-n", "-u", plan.user, "-l", "--", *self._command.argv]
        listed = self._caller.run(question, wait=self._wait)
        if (error := refusal.why_refused(self._command, plan, listed, surely=ran is False)) is not None:
            os.waitpid(self.pid, 0)
            raise error

    def _not_assigned(self, plan: Plan) -> str:
        line = sudo.keep_line(plan.path, plan.assigned)
        return f"sudo does not set {', '.join(plan.assigned)} for {plan.user}: add to sudoers: {line}"


def release_streams() -> bool:
    """Let go of the command's standard streams: a pipe closes when the tree closes it, not when the reaper does.

    True when it is done. Raises OSError where no descriptor can be had.
    """
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    if null > 2:
        os.close(null)
    return True


class _Answers:
    """The child's messages: one JSON object a line, until its end of the pipe closes."""

    def __init__(self, descriptor: int, wait: sudo.Wait) -> None:
        self._descriptor = descriptor
        self._wait = wait
        self._text = b""

    def next(self) -> dict[str, Any] | None:
        """The next message, or None at the end. It waits for as long as `wait` lets it."""
        while b"\n" not in self._text:
            if not self._wait(_A_WHILE, self._descriptor):
                continue
            piece = os.read(self._descriptor, 65536)
            if not piece:
                return None
            self._text += piece
        line, _, self._text = self._text.partition(b"\n")
        message: dict[str, Any] = json.loads(line)
        return message


_A_WHILE = 3600.0


def _pipes() -> tuple[int, int, int, int]:
    first = os.pipe()
    try:
        return (*first, *os.pipe())
    except OSError:
        os.close(first[0])
        os.close(first[1])
        raise


def _fork() -> int:
    try:
        return os.fork()
    except OSError as error:
        text = f"the host refuses another process ({error.strerror}): end some, or raise the limit"
        raise StartError("fork", text) from error
