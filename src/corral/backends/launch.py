"""How an engine's process is started and ended, whichever engine it is."""

from __future__ import annotations

import os
import pwd
import stat
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from corral.backends.environment import child_environment
from corral.process import Job
from corral.process.bare import folders
from corral.process.bare.table import is_this_account
from corral.workers import Workers

LOOK_TIMEOUT = 2.0  # seconds for a look at the workspace, which may be on a file system that hangs

_FOLDERS = Workers("corral-folder", usual=2, most=16)


@dataclass(frozen=True, slots=True)
class Launch:
    """The account, the folder, the environment and the ladder of a backend."""

    user: str | None = None
    """The account it runs as; None for this process's own."""
    workspace: str | os.PathLike[str] | None = None
    """The folder of the conversation; by default the account's home, or this process's folder for the own account."""
    env: Mapping[str, str] = field(default_factory=dict)
    """Variables on top of `base_env`; for another account those that sudo is asked to pass on (its rule needs
    SETENV)."""
    base_env: Mapping[str, str] | None = None
    """The environment (`agent_environment`). For another account sudo hands on what its rules keep of it (env_keep),
    and drops the rest without a word. None: this process's without the service's secrets; for another account what
    sudo makes."""
    limits: Mapping[str, int] = field(default_factory=dict)
    """Resource limits, by the names in `corral.process.bare.limits.NAMES`."""
    notices: Sequence[str] = ()
    """What the person should hear in the first turn."""
    tell_operator: Callable[[str], None] | None = None
    """Takes what an engine says of the host, which the person cannot change. None: the person is the operator."""
    goodbye: float = 3.0
    """Seconds that the engine has to stop its work and to end by itself."""
    grace: float = 5.0
    """Seconds from TERM to KILL."""
    kill: float = 10.0
    """Seconds of KILL before survivors are reported."""
    state_dir: str | os.PathLike[str] | None = None
    report_file: str | os.PathLike[str] | None = None
    """Where the reaper writes its report, whether or not this process lives to see it."""
    label: str = ""
    """What `corral ps` shows."""
    job_id: str = ""
    """The job's id, for a caller who must know it before the start; by default a fresh one."""

    @property
    def account(self) -> str | None:
        """The other account, or None for this process's own."""
        return None if is_this_account(self.user) else self.user

    def folder(self) -> str:
        """The workspace, absolute."""
        if self.workspace is not None:
            return str(Path(self.workspace).absolute())
        if self.account is None:
            return str(Path.cwd())
        try:
            return pwd.getpwnam(self.account).pw_dir
        except KeyError:
            return "/"  # the job refuses an account that does not exist, with better words

    async def folder_fault(self, folder: str) -> str:
        """Why the account cannot work in the folder, as a sentence; empty if it can, or if that is not known."""
        try:
            return await _FOLDERS.run(lambda: _folder_fault(folder, self.account), LOOK_TIMEOUT)
        except OSError:  # a TimeoutError too
            return ""

    async def start(self, argv: Sequence[str], cwd: str | None, label: str) -> Job:
        """Start a command so, in `cwd`; None for a folder that every account may enter."""
        account = self.account
        env, kept = self.env, self.base_env
        if account is None and kept is None:
            env = child_environment(env)
        # A person's folder may be closed to this account, which must not fail an engine that enters it by itself.
        outside = "/" if account is not None else None
        return await Job.start(
            argv,
            user=account,
            env=env,
            kept_env=kept,
            limits=self.limits,
            cwd=cwd if cwd is not None else outside,
            grace=self.grace,
            kill=self.kill,
            state_dir=self.state_dir,
            report_file=self.report_file,
            label=self.label or label,
            job_id=self.job_id,
        )


def _folder_fault(folder: str, account: str | None) -> str:
    try:
        if account is None:
            if not stat.S_ISDIR(os.stat(folder).st_mode):  # noqa: PTH116 - what is not a folder is said as below
                raise NotADirectoryError
            return ""
        os.close(folders.open_folder(folder, pwd.getpwnam(account)))
    except (KeyError, PermissionError, folders.UnknownRightsError):
        return ""  # an unknown account is the start's matter
    except (OSError, folders.ClosedError) as error:
        return folders.why_not(error, folder, account or "this account")
    return ""
