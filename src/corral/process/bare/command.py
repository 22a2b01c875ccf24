"""Starting the command of a job: under this account, or through sudo under another; and why it could not be.

Whatever may hang (a directory service, a folder or a program on a dead mount, a scanner, sudo itself) hangs in a child.
This process only waits for that child, in the caller's own loop, and can be told to give up at any moment.
"""

from __future__ import annotations

import errno
import json
import os
import pwd
import signal
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence

from corral.process.bare import folders, procfs, sudo
from corral.process.bare import limits as resource_limits
from corral.process.bare import mark as marks
from corral.process.bare.errors import StartError
from corral.process.bare.table import account_name, remember_account
from corral.process.bare.typed import Any, NamedTuple, NoReturn

_SUDO_STARTS_WITHIN = 10.0
"""Seconds after which a sudo that is still busy (a slow directory service) is taken for started."""

_SLOWEST_LOOK = 0.05
"""Seconds between two looks at a child; SIGCHLD cuts a wait short as well."""

_OF_THE_TAGS = ("sudo_password", "sudo_environment", "cwd")
"""Kinds of refusals of a command that sudo has a rule for."""


class Command(NamedTuple):
    """What to run."""

    argv: Sequence[str]
    user: str | None
    """The account to run as; None for this one."""
    env: Mapping[str, str]
    preserve: Sequence[str]
    """Names in env that sudo is asked to pass on."""
    cwd: str | None
    """The folder that was asked for."""
    here: str
    """The supervisor's folder, which does where none was asked for."""
    mark: int
    assign: Mapping[str, str] = {}
    """Variables that sudo is given as arguments, where its environment cannot carry them."""
    limits: Mapping[str, int] = {}
    """See `limits.NAMES`."""


class Plan(NamedTuple):
    """What the child found out about a command before it became that command."""

    service: str
    """The name of this process's own account."""
    user: str
    """The account that the command runs as."""
    uid: int
    sudo: str | None
    """The host's sudo, whether or not this command goes through it."""
    path: str
    """The command's full path, for a rule of sudo."""
    exists: bool
    directory: bool
    """Whether sudo is to change the folder (-D), because this account may not look who may enter it."""


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

        in_child() is called in each child, to close what only the reaper may hold: an exec that hangs closes nothing.
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
            self._attempt(self._command)
        except StartError as error:
            if not self._command.assign or error.kind not in _OF_THE_TAGS or self.uid == os.getuid():
                raise
            # What is assigned is a help and no need: where the rule does not let it through, it goes without. If
            # something else was the reason, that is what the second refusal is about.
            self._attempt(self._command._replace(assign={}))
            self.notice = self._not_assigned()
        self.running = True

    def _attempt(self, command: Command) -> None:
        """Fork, let the child find out what it needs, and let it become the command."""
        answers, telling, going, go = _pipes()
        try:
            self.pid = _fork()
            if self.pid == 0:
                os.close(answers)
                os.close(go)
                _become(command, self._ignored, self._in_child, telling, going)
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
            self._confirm(command, plan)

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

    def _confirm(self, command: Command, plan: Plan) -> None:
        """Wait until sudo has started the command. Raises StartError if it refused."""
        deadline = time.monotonic() + _SUDO_STARTS_WITHIN
        pause = 0.001
        while (ended := os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)) is None:
            if _has_started(self.pid, plan.uid) or time.monotonic() >= deadline:
                return
            self._wait(pause, -1)
            pause = min(pause * 1.3, 0.02)
        if ended.si_code != os.CLD_EXITED or ended.si_status != 1:
            return  # sudo says 1 of its own failures; anything else is the command's word.
        ran = _has_run(self.pid, plan.uid)
        refusal = None if ran else self._why_refused(command, plan, ran)
        if refusal is not None:
            os.waitpid(self.pid, 0)
            raise refusal

    def _why_refused(self, command: Command, plan: Plan, ran: bool | None) -> StartError | None:
        """What sudo had against it. ran: False for a command that did not run, None for one of which that is unknown.

        None where a command that may have run cannot be shown to have been refused.
        """
        user, name = plan.user, command.argv[0]
        assert plan.sudo is not None
        listed = self._caller.run([plan.sudo, "-n", "-u", user, "-l", "--", *command.argv], wait=self._wait)
        advice = "add to sudoers: " + sudo.rule(
            plan.service,
            user,
            plan.path,
            environment=bool(command.preserve),
            directory=plan.directory,
        )
        if ran is None and (listed.status in (0, None) or sudo.wants_password(listed)):
            # To list a rule can need a password that to use it does not (listpw in sudoers).
            return None
        if listed.status == 0:
            return _known_but_not_run(command, user, advice, directory=plan.directory)
        if "command not found" in listed.message:
            if plan.exists:
                return StartError("not_executable", f"{name} cannot be executed by {user}: check its mode")
            return StartError("not_found", f"{name}: command not found by sudo; name its full path")
        if sudo.wants_password(listed):
            text = f"sudo has no rule for {name} as {user} that works without a password: {advice}"
            return StartError("sudo_password", text)
        if not listed.message:
            return StartError("sudo_rule", f"sudo has no rule for {name} as {user}: {advice}")
        return StartError("sudo_refused", f"sudo does not run {name} as {user}: {listed.message}")

    def _not_assigned(self) -> str:
        assert self.plan is not None
        names = list(self._command.assign)
        line = sudo.keep_line(self.plan.path, names)
        return f"sudo does not set {', '.join(names)} for {self.plan.user}: add to sudoers: {line}"


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


def _become(
    command: Command, ignored: Collection[int], in_child: Callable[[], None], telling: int, going: int
) -> NoReturn:
    """The child: find out what the command needs, wait for the reaper's word, and become it."""
    try:
        signal.set_wakeup_fd(-1)
        # Python ignores two of these, and what is ignored stays so over exec. The others have the reaper's handlers.
        for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
            signal.signal(number, signal.SIG_IGN if number in ignored else signal.SIG_DFL)
        os.setsid()
        in_child()
        if command.mark:
            marks.apply(command.mark)
        plan, argv, cwd = _plan(command)
        _tell(telling, plan._asdict())
        if not os.read(going, 1):
            os._exit(127)  # The reaper is gone, or has thought better of it.
        _replace(command, argv, cwd)
    except StartError as error:
        _tell(telling, {"error": error.kind, "message": str(error)})
    except BaseException as error:  # noqa: BLE001 - a child that ended without a word would be taken for the command
        text = f"{command.argv[0]} could not be set up: {type(error).__name__}: {error}"
        _tell(telling, {"error": "internal", "message": text})
    finally:
        os._exit(127)


def _tell(telling: int, message: dict[str, Any]) -> None:
    data = json.dumps(message).encode() + b"\n"
    while data:
        data = data[os.write(telling, data) :]


def _replace(command: Command, argv: Sequence[str], folder: str | int) -> NoReturn:
    """chdir and exec. Raises StartError."""
    cwd = folder if isinstance(folder, str) else command.cwd or "/"
    try:
        os.chdir(folder)
    except OSError as error:
        text = f"the folder {cwd} cannot be entered by {account_name(os.getuid())}: {error.strerror}"
        raise StartError("cwd", text) from error
    try:
        resource_limits.apply(command.limits)
    except (OSError, ValueError) as error:
        asked = ", ".join(f"{name} {value}" for name, value in command.limits.items())
        why = error.strerror if isinstance(error, OSError) else error
        raise StartError("limits", f"the kernel does not take the limits {asked}: {why}") from error
    try:
        os.execvpe(argv[0], list(argv), command.env)
    except OSError as error:
        raise _exec_error(error, argv[0], cwd) from error


def _exec_error(error: OSError, program: str, cwd: str) -> StartError:
    number, text = error.errno, error.strerror
    there = os.path.join(cwd, program)
    if number in (errno.ENOENT, errno.ENOTDIR) and (os.sep not in program or not os.path.exists(there)):
        return StartError("not_found", f"{program}: command not found; name its full path, or put its folder on PATH")
    if number == errno.ENOEXEC:
        text = "it is not a program (a script needs a first line such as #!/bin/sh)"
    elif number == errno.ENOENT:
        text = "the interpreter that its first line names does not exist"
    return StartError("not_executable", f"{program} cannot be executed: {text}")


def _plan(command: Command) -> tuple[Plan, Sequence[str], str | int]:
    """What is to be executed, and in which folder. Raises StartError."""
    service = account_name(os.getuid())
    account = _account(command.user)
    program = sudo.find()
    if account.pw_uid == os.getuid():
        plan = Plan(service, account.pw_name, account.pw_uid, program, "", True, False)
        return plan, command.argv, command.cwd or _enterable(command.here)
    if program is None:
        raise StartError("sudo_missing", f"running as {account.pw_name} needs sudo, and there is none: install sudo")
    folder = _open_for(command, account)
    name = command.argv[0]
    path = _full_path(name, command.env.get("PATH", os.defpath))
    plan = Plan(service, account.pw_name, account.pw_uid, program, path, os.path.exists(name), folder is None)
    line = sudo.command_line(
        program,
        account.pw_name,
        command.argv,
        preserve=command.preserve,
        directory=command.cwd if folder is None else None,
        assign=command.assign,
    )
    return plan, line, "/" if folder is None else folder


def _account(user: str | None) -> pwd.struct_passwd:
    try:
        return pwd.getpwnam(user) if user is not None else pwd.getpwuid(os.getuid())
    except KeyError:
        if user is None:
            return pwd.struct_passwd((str(os.getuid()), "", os.getuid(), os.getgid(), "", "/", ""))
        raise StartError("unknown_user", f"there is no account named {user!r} on this host") from None


def _open_for(command: Command, account: pwd.struct_passwd) -> int | None:
    """The folder to start in, checked against the account's rights; None where only sudo (-D) can enter it as them."""
    if command.cwd is None:
        return _open_here(command.here, account)
    try:
        return folders.open_folder(command.cwd, account)
    except folders.UnknownRightsError:
        return None  # This account may not look, or not read who may enter; sudo enters it as the account.
    except (folders.ClosedError, OSError) as error:
        raise StartError("cwd", folders.why_not(error, command.cwd, account.pw_name)) from None


def _open_here(here: str, account: pwd.struct_passwd) -> int:
    """The supervisor's own folder, or / where the account may not enter it."""
    try:
        return folders.open_folder(here, account)
    except (folders.ClosedError, folders.UnknownRightsError, OSError):
        return os.open("/", folders.FLAGS)


def _enterable(folder: str) -> str:
    return folder if os.access(folder, os.X_OK) else "/"


def _has_started(pid: int, uid: int) -> bool:
    if sys.platform != "linux":
        return False
    process = procfs.read(pid)
    if process is None or process.uid == uid:
        return True  # Hidden (hidepid=2), so that nothing can be learnt; or sudo became the command.
    return any(below.uid == uid for below in procfs.descendants(pid))


def _has_run(pid: int, uid: int) -> bool | None:
    """Whether a sudo that is dead, and not collected yet, had run its command as `uid`; None where nothing can tell."""
    if sys.platform != "linux":
        return None
    line, process = procfs.stat(pid), procfs.read(pid)
    if line is None or process is None:
        return None  # hidden (hidepid=2)
    # Without a PAM session sudo becomes the command itself. Its real uid is the caller's until then, and a zombie keeps
    # its credentials.
    if process.uid == uid:
        return True
    # A sudo that waited for a child shows that child's page faults. It is the command, or a program of sudo's own (mail
    # about the refusal).
    return None if line.children_faults else False


def _known_but_not_run(command: Command, user: str, advice: str, *, directory: bool) -> StartError:
    """sudo lists the command and yet did not run it: a tag of its rule is missing, and which one sudo says itself."""
    reasons, kind = ["asks for a password"], "sudo_password"
    if command.preserve:
        reasons, kind = [*reasons, "does not pass on " + ", ".join(command.preserve)], "sudo_environment"
    if directory:
        reasons, kind = [*reasons, f"may not start in {command.cwd}"], "cwd"
    return StartError(kind, f"sudo knows {command.argv[0]} as {user}, but {' or '.join(reasons)}: {advice}")


def _full_path(name: str, path: str) -> str:
    if os.sep in name:
        return name
    for folder in path.split(os.pathsep):
        candidate = os.path.join(folder, name)
        if os.access(candidate, os.X_OK):
            return candidate
    return f"/full/path/of/{name}"
