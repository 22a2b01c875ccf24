"""Making a start request: the checks that need no reaper, so that bad input is refused before anything starts."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence

from corral.process.bare import containment, environment, ledger, lifeline
from corral.process.bare import limits as resource_limits
from corral.process.bare import mark as marks
from corral.process.bare.ending import Ladder
from corral.process.bare.errors import StartError
from corral.process.bare.host import host_table, why_unusable
from corral.process.bare.report import clear as clear_report
from corral.process.bare.request import Command, StartRequest
from corral.process.bare.table import Identity
from corral.process.reaper_process import NOT_STARTED

Path = str | os.PathLike[str]


def make_request(
    argv: Sequence[str],
    *,
    user: str | None,
    env: Mapping[str, str] | None,
    kept_env: Mapping[str, str] | None,
    cwd: Path | None,
    ladder: Ladder,
    state_dir: Path | None,
    report_file: Path | None,
    tracker: str,
    label: str,
    job_id: str,
    limits: Mapping[str, int] | None,
) -> tuple[StartRequest, str]:
    """The request for what `Job.start` was asked, and a notice for the person or ''. Raises StartError.

    The report of an earlier run is removed: a start that fails must not leave it to be taken for its own.
    """
    folder = _absolute(state_dir if state_dir is not None else ledger.default_state_dir())
    report_path = _absolute(report_file) if report_file is not None else None
    wanted_cwd = _absolute(cwd) if cwd is not None else None
    notice = _clear_report(report_path) if report_path is not None else ""
    _check_words(argv, user, {**(kept_env or {}), **(env or {})})
    _check_choices(ladder, tracker)
    resource_limits.check(limits or {})
    job_id = job_id or ledger.new_id()
    if not ledger.is_id(job_id):
        raise StartError("invalid", f"{job_id!r} is not a job id: use ledger.new_id()")
    variables = environment.given(os.environ, env, kept_env)
    request = StartRequest(
        job_id=job_id,
        supervisor=_own_identity(),
        command=Command(tuple(argv), user, variables, wanted_cwd, _here(), dict(limits or {})),
        ladder=ladder,
        tracker=tracker,
        mark=marks.choose(),
        state_dir=folder,
        report_file=report_path,
        label=label,
    )
    return request, notice


def _check_words(argv: Sequence[str], user: str | None, env: Mapping[str, str]) -> None:
    if not argv:
        raise StartError("invalid", "there is no command to run")
    if bad := [word for word in [*argv, *env, user or ""] if not _can_be_told(word)]:
        raise StartError("invalid", f"{bad[0]!r} holds a NUL byte, or what no argument can hold")
    # The value is not shown: it may be a secret.
    if names := [name for name, value in env.items() if not name or "=" in name or not _can_be_told(value)]:
        raise StartError("invalid", f"the variable {names[0]!r} cannot be given to a command: a bad name or a NUL byte")
    # One message carries both to the reaper; the kernel would refuse them at a fraction of that.
    if sum(map(len, [*argv, *env, *env.values()])) > lifeline.MOST_BYTES // 8:
        raise StartError("invalid", "the arguments and the environment are larger than any command may have")


def _check_choices(ladder: Ladder, tracker: str) -> None:
    if tracker not in containment.NAMES:
        raise StartError("invalid", f"tracker {tracker!r} is not one of {', '.join(containment.NAMES)}")
    if not (0 <= ladder.grace < math.inf and 0 <= ladder.kill < math.inf):
        raise StartError("invalid", "grace and kill are seconds: finite, and not negative")


def _own_identity() -> Identity:
    if (why := why_unusable()) is not None:
        raise StartError("proc", f"no job can be held here: {why}")
    try:
        start_time = host_table().start_time(os.getpid())
    except OSError as error:
        raise StartError("fork", f"{NOT_STARTED} ({error.strerror}): close some files, or raise the limit") from error
    if start_time is None:
        # A record that does not know its supervisor would be taken for a dead one's, and its job ended by a sweep.
        raise StartError(
            "internal", "this process's own entry in the process table cannot be read: without it no job is started"
        )
    return os.getpid(), start_time


def _absolute(path: Path) -> str:
    try:
        found = os.path.abspath(path)
    except FileNotFoundError:
        raise StartError("cwd", "this process's own folder is gone, and a path is relative to it") from None
    if not _can_be_told(found):
        raise StartError("invalid", f"the path {found!r} holds a NUL byte, or what no file name can hold")
    return found


def _can_be_told(word: str) -> bool:
    """Whether the kernel takes it as a name or an argument."""
    try:
        return b"\0" not in os.fsencode(word)
    except UnicodeEncodeError:
        return False


def _clear_report(path: str) -> str:
    """Remove the report of an earlier run; a sentence if it may still be there."""
    try:
        clear_report(path)
    except OSError as error:
        return f"the report of an earlier run could not be removed from {path}: {error.strerror}"
    return ""


def _here() -> str:
    try:
        return os.getcwd()
    except OSError:
        return "/"
