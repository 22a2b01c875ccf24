"""Starting the command of a job: under this account, or through sudo under another; and why it could not be."""

from __future__ import annotations

import errno
import os
import pwd
import signal
import sys
import time
from collections.abc import Collection, Mapping, Sequence

from corral.process import folders, procfs, sudo
from corral.process import limits as resource_limits
from corral.process import mark as marks
from corral.process.errors import StartError
from corral.process.table import account_name
from corral.process.typed import NamedTuple, NoReturn

_SUDO_STARTS_WITHIN = 10.0
"""Seconds after which a sudo that is still busy (a slow directory service) is taken for started."""

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


class Started(NamedTuple):
    """The command is running."""

    pid: int
    user: str
    uid: int
    notice: str = ""
    """What the person should know of it."""


def start(command: Command, ignored: Collection[int] = ()) -> Started:
    """Start it, in a session of its own, over this process's standard streams. Raises StartError, with nothing left.

    ignored: the signals that the supervisor ignored (nohup), and that the command is to ignore as well.
    """
    if not command.argv:
        raise StartError("invalid", "there is no command to run")
    account = _account(command.user)
    if account.pw_uid == os.getuid():
        pid = _spawn(command, command.argv, command.cwd or _enterable(command.here), ignored)
        return Started(pid, account.pw_name, account.pw_uid)
    program = sudo.find()
    if program is None:
        raise StartError("sudo_missing", f"running as {account.pw_name} needs sudo, and there is none: install sudo")
    notice = ""
    try:
        pid = _start_through_sudo(command, account, program, ignored)
    except StartError as error:
        if not command.assign or error.kind not in _OF_THE_TAGS:
            raise
        # What is assigned is a help and no need: where the rule does not let it through, it goes without. If something
        # else was the reason, that is what the second refusal is about.
        pid = _start_through_sudo(command._replace(assign={}), account, program, ignored)
        notice = _not_assigned(command, account)
    return Started(pid, account.pw_name, account.pw_uid, notice)


def release_streams() -> None:
    """Let go of the command's standard streams: a pipe closes when the tree closes it, not when the reaper does."""
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    if null > 2:
        os.close(null)


def _start_through_sudo(command: Command, account: pwd.struct_passwd, program: str, ignored: Collection[int]) -> int:
    folder = _open_for(command, account)
    line = sudo.command_line(
        program,
        account.pw_name,
        command.argv,
        preserve=command.preserve,
        directory=command.cwd if folder is None else None,
        assign=command.assign,
    )
    try:
        pid = _spawn(command, line, "/" if folder is None else folder, ignored)
    finally:
        if folder is not None:
            os.close(folder)
    _confirm(pid, command, account, program, directory=folder is None)
    return pid


def _account(user: str | None) -> pwd.struct_passwd:
    try:
        return pwd.getpwnam(user) if user is not None else pwd.getpwuid(os.getuid())
    except KeyError:
        if user is None:
            return pwd.struct_passwd((str(os.getuid()), "", os.getuid(), os.getgid(), "", "/", ""))
        raise StartError("unknown_user", f"there is no account named {user!r} on this host") from None


def _spawn(command: Command, argv: Sequence[str], cwd: str | int, ignored: Collection[int]) -> int:
    reading, writing = os.pipe()
    try:
        pid = os.fork()
    except OSError as error:
        os.close(reading)
        os.close(writing)
        text = f"the host refuses another process ({error.strerror}): end some, or raise the limit"
        raise StartError("fork", text) from error
    if pid == 0:
        _become(command, argv, cwd, ignored, writing)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        # Closed by exec: an empty answer means that the command runs.
        failure = pipe.read(64)
    if not failure:
        return pid
    os.waitpid(pid, 0)
    stage, number = failure.split()
    if stage == b"limits":
        asked = ", ".join(f"{name} {value}" for name, value in command.limits.items())
        raise StartError("limits", f"the kernel does not take the limits {asked}: {os.strerror(int(number))}")
    raise _exec_error(stage.decode(), int(number), argv[0], cwd if isinstance(cwd, str) else command.cwd or "/")


def _become(command: Command, argv: Sequence[str], cwd: str | int, ignored: Collection[int], writing: int) -> NoReturn:
    stage = "setup"
    try:
        signal.set_wakeup_fd(-1)
        os.setsid()
        # Python ignores these two, and what is ignored stays ignored over exec.
        for spared in (signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(spared, signal.SIG_DFL)
        for number in ignored:
            signal.signal(number, signal.SIG_IGN)
        if command.mark:
            marks.apply(command.mark)
        stage = "cwd"
        os.chdir(cwd)
        stage = "limits"
        resource_limits.apply(command.limits)
        stage = "exec"
        os.execvpe(argv[0], list(argv), command.env)
    except OSError as error:
        os.write(writing, f"{stage} {error.errno or errno.EINVAL}".encode())
    except ValueError:
        os.write(writing, f"{stage} {errno.EINVAL}".encode())
    finally:
        os._exit(127)


def _exec_error(stage: str, number: int, program: str, cwd: str) -> StartError:
    text = os.strerror(number)
    if stage == "cwd":
        return StartError("cwd", f"the folder {cwd} cannot be entered by {account_name(os.getuid())}: {text}")
    if stage == "setup":
        return StartError("internal", f"{program} could not be set up: {text}")
    there = os.path.join(cwd, program)
    if number in (errno.ENOENT, errno.ENOTDIR) and (os.sep not in program or not os.path.exists(there)):
        return StartError("not_found", f"{program}: command not found; name its full path, or put its folder on PATH")
    if number == errno.ENOEXEC:
        text = "it is not a program (a script needs a first line such as #!/bin/sh)"
    elif number == errno.ENOENT:
        text = "the interpreter that its first line names does not exist"
    return StartError("not_executable", f"{program} cannot be executed: {text}")


def _open_for(command: Command, account: pwd.struct_passwd) -> int | None:
    """The folder to start in, checked against the account's rights; None where only sudo (-D) can enter it as them."""
    if command.cwd is None:
        return _open_here(command.here, account)
    try:
        return folders.open_folder(command.cwd, account)
    except folders.ClosedError as error:
        text = f"{account.pw_name} may not enter {error.place}: give it the right to, or choose another folder"
        raise StartError("cwd", f"{text} than {command.cwd}") from None
    except folders.UnknownRightsError:
        return None  # This account may not look, or not read who may enter; sudo enters it as the account.
    except (FileNotFoundError, NotADirectoryError):
        raise StartError("cwd", f"{command.cwd} is not a folder: make it, or choose another") from None
    except OSError as error:
        raise StartError("cwd", f"the folder {command.cwd} cannot be entered: {error.strerror}") from None


def _open_here(here: str, account: pwd.struct_passwd) -> int:
    """The supervisor's own folder, or / where the account may not enter it."""
    try:
        return folders.open_folder(here, account)
    except (folders.ClosedError, folders.UnknownRightsError, OSError):
        return os.open("/", folders.FLAGS)


def _enterable(folder: str) -> str:
    return folder if os.access(folder, os.X_OK) else "/"


def _confirm(pid: int, command: Command, account: pwd.struct_passwd, program: str, *, directory: bool) -> None:
    """Wait until sudo has started the command. Raises StartError if it refused."""
    deadline = time.monotonic() + _SUDO_STARTS_WITHIN
    pause = 0.001
    while (ended := os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)) is None:
        if _has_started(pid, account.pw_uid) or time.monotonic() >= deadline:
            return
        time.sleep(pause)
        pause = min(pause * 1.3, 0.02)
    if ended.si_code != os.CLD_EXITED or ended.si_status != 1:
        return  # sudo says 1 of its own failures; anything else is the command's word.
    line = procfs.stat(pid) if sys.platform == "linux" else None
    # A sudo that waited for a child shows that child's page faults: it ran the command, however briefly.
    ran = line is None or line.children_faults > 0
    refusal = _why_refused(command, account, program, ran=ran, directory=directory)
    if refusal is not None:
        os.waitpid(pid, 0)
        raise refusal


def _has_started(pid: int, uid: int) -> bool:
    if sys.platform != "linux":
        return False
    process = procfs.read(pid)
    if process is None or process.uid == uid:
        return True  # Hidden (hidepid=2), so that nothing can be learnt; or sudo became the command.
    return any(below.uid == uid for below in procfs.descendants(pid))


def _why_refused(
    command: Command, account: pwd.struct_passwd, program: str, *, ran: bool, directory: bool
) -> StartError | None:
    """directory: whether sudo was to change the folder (-D)."""
    user, name = account.pw_name, command.argv[0]
    listed = sudo.run([program, "-n", "-u", user, "-l", "--", *command.argv])
    advice = "add to sudoers: " + sudo.rule(
        account_name(os.getuid()),
        user,
        _full_path(name, command.env.get("PATH", os.defpath)),
        environment=bool(command.preserve),
        directory=directory,
    )
    if listed.status == 0:
        return None if ran else _known_but_not_run(command, user, advice, directory=directory)
    if "command not found" in listed.message:
        if os.path.exists(name):
            return StartError("not_executable", f"{name} cannot be executed by {user}: check its mode")
        return StartError("not_found", f"{name}: command not found by sudo; name its full path")
    if "password is required" in listed.message:
        text = f"sudo has no rule for {name} as {user} that works without a password: {advice}"
        return StartError("sudo_password", text)
    if not listed.message:
        return StartError("sudo_rule", f"sudo has no rule for {name} as {user}: {advice}")
    return StartError("sudo_refused", f"sudo does not run {name} as {user}: {listed.message}")


def _known_but_not_run(command: Command, user: str, advice: str, *, directory: bool) -> StartError:
    """sudo lists the command and yet did not run it: a tag of its rule is missing, and which one sudo says itself."""
    reasons, kind = ["asks for a password"], "sudo_password"
    if command.preserve:
        reasons, kind = [*reasons, "does not pass on " + ", ".join(command.preserve)], "sudo_environment"
    if directory:
        reasons, kind = [*reasons, f"may not start in {command.cwd}"], "cwd"
    return StartError(kind, f"sudo knows {command.argv[0]} as {user}, but {' or '.join(reasons)}: {advice}")


def _not_assigned(command: Command, account: pwd.struct_passwd) -> str:
    names = list(command.assign)
    program = _full_path(command.argv[0], command.env.get("PATH", os.defpath))
    line = sudo.keep_line(program, names)
    return f"sudo does not set {', '.join(names)} for {account.pw_name}: add to sudoers: {line}"


def _full_path(name: str, path: str) -> str:
    if os.sep in name:
        return name
    for folder in path.split(os.pathsep):
        candidate = os.path.join(folder, name)
        if os.access(candidate, os.X_OK):
            return candidate
    return f"/full/path/of/{name}"
