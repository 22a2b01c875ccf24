"""Run a short program to its end, with a bound and its words."""

from __future__ import annotations

import contextlib
import os
import pwd
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Said:
    """How a call ended."""

    status: int | None
    """None: it could not be started, or gave no answer in time."""
    out: str
    err: str

    @property
    def first_line(self) -> str:
        """The first line of what it said, on whichever stream."""
        return next((line for text in (self.out, self.err) for line in text.splitlines() if line.strip()), "").strip()


def call(
    argv: Sequence[str],
    seconds: float = 10.0,
    *,
    env: Mapping[str, str] | None = None,
    account: pwd.struct_passwd | None = None,
) -> Said:
    """Run a program, in plain English. Raises nothing: what went wrong is in the answer.

    env: its environment; by default this process's. account: whom it runs as, from /, if this is root.
    """
    become: dict[str, Any] = {}
    if account is not None:
        groups = os.getgrouplist(account.pw_name, account.pw_gid)
        become = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": groups, "cwd": "/"}
    try:
        program = subprocess.Popen(
            list(argv),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            env={**(os.environ if env is None else env), "LC_ALL": "C"},
            **become,
        )
    except OSError as error:
        return Said(None, "", f"{argv[0]} cannot be run: {error.strerror}")
    with program:
        try:
            out, err = program.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            # A session of its own: what it started and what holds its pipes goes with it.
            with contextlib.suppress(OSError):
                os.killpg(program.pid, signal.SIGKILL)
            return Said(None, "", f"{argv[0]} gave no answer in {seconds:g} s")
    return Said(program.returncode, out.decode("utf-8", "replace"), err.decode("utf-8", "replace"))
