"""The child between fork and exec: it finds out what the command needs, waits for the reaper's word, and becomes it.

Whatever may hang (a directory service, a folder or a program on a dead mount, a scanner) hangs here. What the child
finds out it tells the reaper, a JSON object a line.

What only some commands need is imported here when they do: each module is a hundredth of a reaper's start.
"""

from __future__ import annotations

import errno
import json
import os
import pwd
import signal
from collections.abc import Callable, Collection, Mapping, Sequence

from corral.process.bare import sudo
from corral.process.bare.environment import Carried, carry_by_exec, carry_by_sudo
from corral.process.bare.errors import StartError
from corral.process.bare.request import Command
from corral.process.bare.table import account_name
from corral.process.bare.typed import Any, NamedTuple, NoReturn


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
    preserve: Sequence[str] = ()
    """The variables that sudo is asked to pass on."""
    assigned: Sequence[str] = ()
    """The variables that sudo is given as arguments."""


class _Program(NamedTuple):
    """What is to be executed."""

    plan: Plan
    argv: Sequence[str]
    folder: str | int
    """Its path, or a descriptor of it."""
    carried: Carried


def become(
    command: Command,
    *,
    ignored: Collection[int],
    in_child: Callable[[], None],
    telling: int,
    going: int,
    assigns: bool,
) -> NoReturn:
    """Become the command, once the reaper has written a byte to `going`. What there is to say goes to `telling`.

    See `launch.Launch` for `ignored` and `in_child`, and `environment.carry_by_sudo` for `assigns`.
    """
    try:
        signal.set_wakeup_fd(-1)
        # Python ignores two of these, and what is ignored stays so over exec. The others have the reaper's handlers.
        for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
            signal.signal(number, signal.SIG_IGN if number in ignored else signal.SIG_DFL)
        os.setsid()
        in_child()
        program = _find_program(command, assigns=assigns)
        _tell(telling, program.plan._asdict())
        if not os.read(going, 1):
            os._exit(127)  # The reaper is gone, or has thought better of it.
        _replace(command, program)
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


def _replace(command: Command, program: _Program) -> NoReturn:
    """chdir and exec. Raises StartError."""
    cwd = program.folder if isinstance(program.folder, str) else command.cwd or "/"
    try:
        os.chdir(program.folder)
    except OSError as error:
        text = f"the folder {cwd} cannot be entered by {account_name(os.getuid())}: {error.strerror}"
        raise StartError("cwd", text) from error
    if command.limits:
        _limit(command.limits)
    try:
        os.execvpe(program.argv[0], list(program.argv), program.carried.exported)
    except OSError as error:
        raise _exec_error(error, program.argv[0], cwd) from error


def _limit(limits: Mapping[str, int]) -> None:
    from corral.process.bare import limits as resource_limits

    try:
        resource_limits.apply(limits)
    except (OSError, ValueError) as error:
        asked = ", ".join(f"{name} {value}" for name, value in limits.items())
        why = error.strerror if isinstance(error, OSError) else error
        raise StartError("limits", f"the kernel does not take the limits {asked}: {why}") from error


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


def _find_program(command: Command, *, assigns: bool) -> _Program:
    """What is to be executed, with what, and in which folder. Raises StartError."""
    account = _account(command.user)
    program = sudo.find()
    if account.pw_uid == os.getuid():
        plan = Plan(account_name(os.getuid()), account.pw_name, account.pw_uid, program, "", True, False)
        folder = command.cwd or _enterable(command.here)
        return _Program(plan, command.argv, folder, carry_by_exec(command.variables))
    if program is None:
        raise StartError("sudo_missing", f"running as {account.pw_name} needs sudo, and there is none: install sudo")
    return _find_through_sudo(command, account, program, assigns=assigns)


def _find_through_sudo(command: Command, account: pwd.struct_passwd, program: str, *, assigns: bool) -> _Program:
    folder = _open_for(command, account)
    carried = carry_by_sudo(command.variables, assigns=assigns)
    name = command.argv[0]
    plan = Plan(
        service=account_name(os.getuid()),
        user=account.pw_name,
        uid=account.pw_uid,
        sudo=program,
        path=_full_path(name, carried.exported.get("PATH", os.defpath)),
        exists=os.path.exists(name),
        directory=folder is None,
        preserve=carried.preserve,
        assigned=tuple(carried.assign),
    )
    line = sudo.command_line(
        program,
        account.pw_name,
        command.argv,
        preserve=carried.preserve,
        directory=command.cwd if folder is None else None,
        assign=carried.assign,
    )
    return _Program(plan, line, "/" if folder is None else folder, carried)


def _account(user: str | None) -> pwd.struct_passwd:
    try:
        return pwd.getpwnam(user) if user is not None else pwd.getpwuid(os.getuid())
    except KeyError:
        if user is None:
            return pwd.struct_passwd((str(os.getuid()), "", os.getuid(), os.getgid(), "", "/", ""))
        raise StartError("unknown_user", f"there is no account named {user!r} on this host") from None


def _open_for(command: Command, account: pwd.struct_passwd) -> int | None:
    """The folder to start in, checked against the account's rights; None where only sudo (-D) can enter it as them.

    Where none was asked for it is the supervisor's own, or / if the account may not enter that.
    """
    from corral.process.bare import folders

    if command.cwd is None:
        try:
            return folders.open_folder(command.here, account)
        except (folders.ClosedError, folders.UnknownRightsError, OSError):
            return os.open("/", folders.FLAGS)
    try:
        return folders.open_folder(command.cwd, account)
    except folders.UnknownRightsError:
        return None  # This account may not look, or not read who may enter; sudo enters it as the account.
    except (folders.ClosedError, OSError) as error:
        raise StartError("cwd", folders.why_not(error, command.cwd, account.pw_name)) from None


def _enterable(folder: str) -> str:
    return folder if os.access(folder, os.X_OK) else "/"


def _full_path(name: str, path: str) -> str:
    if os.sep in name:
        return name
    for folder in path.split(os.pathsep):
        candidate = os.path.join(folder, name)
        if os.access(candidate, os.X_OK):
            return candidate
    return f"/full/path/of/{name}"
