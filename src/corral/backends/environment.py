"""The environment of an agent.

`agent_environment` is the service's: built from a list of what is allowed, and never from the service's own.
`child_environment` is that of a person's own terminal: the person's environment, without the service's secrets.
"""

from __future__ import annotations

import os
import pwd
import stat
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from corral.backends.errors import BackendError
from corral.backends.secret_files import read_secret
from corral.process import default_state_dir
from corral.process.bare.table import account_name, is_this_account

# Not below /run, which is memory, and not below a folder of the service's account, as /run/corral is: there
# systemd-tmpfiles makes nothing for others ("unsafe path transition").
ACCOUNT_TMP = "/var/lib/corral-tmp"
"""Where accounts have folders for temporary files: `ACCOUNT_TMP/NAME`, NAME's own and of mode 0700, made by root."""

SECRET_PREFIXES = ("CORRAL_", "TELEGRAM_")
CHAT_PREFIXES = ("DISCORD_", "MATRIX_", "MATTERMOST_", "SIGNAL_", "SLACK_", "WHATSAPP_")
CHAT_SECRETS = ("_TOKEN", "_SECRET", "_PASSWORD")

HOST_NAMES = frozenset(
    # Language, time and terminal are the host's; without the certificates no model behind a proxy can be reached.
    {"LANG", "LANGUAGE", "TZ", "TERM", "COLORTERM", "SSL_CERT_FILE", "SSL_CERT_DIR", "NODE_EXTRA_CA_CERTS"}
)
"""What an agent gets of the service's environment unasked, beside LC_* and PATH."""

_PLACES = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_NO_SHELLS = frozenset({"", "nologin", "false", "sync", "halt", "shutdown"})


@dataclass(frozen=True, slots=True)
class AgentEnvironment:
    """All variables of an agent, and what the person should know of them."""

    variables: Mapping[str, str]
    notices: tuple[str, ...] = ()


def is_service_secret(name: str) -> bool:
    """Whether a variable belongs to the service or to one of its chats; an agent's own keys do not."""
    if name.startswith(SECRET_PREFIXES) or name.endswith("_BOT_TOKEN"):
        return True
    return name.startswith(CHAT_PREFIXES) and name.endswith(CHAT_SECRETS)


def child_environment(
    extra: Mapping[str, str] | None = None, *, base: Mapping[str, str] | None = None
) -> dict[str, str]:
    """`base` (default: this process's) without the service's secrets, and `extra` on top, as it is."""
    inherited = os.environ if base is None else base
    kept = {name: value for name, value in inherited.items() if not is_service_secret(name)}
    return {**kept, **(extra or {})}


def agent_environment(
    account: str | None,
    *,
    state_dir: str | os.PathLike[str] | None = None,
    keep: Iterable[str] = (),
    env: Mapping[str, str] | None = None,
    secrets: Mapping[str, str | os.PathLike[str]] | None = None,
    base: Mapping[str, str] | None = None,
) -> AgentEnvironment:
    """The whole environment of an agent under `account` (None: this one), for `Launch.base_env`.

    keep: names to hand on from `base` (default: this process's environment) beside those that are always; a secret
        of the service's is not handed on, named or not.
    env: variables on top. secrets: variables whose values are read from files, now, on top of those.

    Reads files: on a slow file system it blocks. Raises SecretError; BackendError for a folder of temporary files
    that is not this account's own.
    """
    service = os.environ if base is None else base
    wanted = {*keep}
    kept = {
        name: value
        for name, value in service.items()
        if (name in HOST_NAMES or name.startswith("LC_") or name in wanted) and not is_service_secret(name)
    }
    tmp, notices = _temporary_folder(account, state_dir)
    variables = {
        **_of_the_account(account),
        "PATH": search_path(service.get("PATH", "")),
        **kept,
        **({"TMPDIR": tmp} if tmp else {}),
        **(env or {}),
        **{name: read_secret(file) for name, file in (secrets or {}).items()},
    }
    return AgentEnvironment(variables, notices)


def search_path(own: str) -> str:
    """Where programs are looked for: the service's places in their order, then the usual ones.

    The service's come first because the operator's choice of engine and tools is there (npm's folder in a home, say);
    the usual ones follow because a service manager's PATH can be bare. Relative entries are left out: they would lead
    into the workspace, where the agent writes.
    """
    usual = _PLACES + (":/opt/homebrew/bin" if sys.platform == "darwin" else "")
    places = [*own.split(os.pathsep), *usual.split(":")]
    return os.pathsep.join(dict.fromkeys(place for place in places if place.startswith("/")))


def _of_the_account(account: str | None) -> dict[str, str]:
    """What login(1) sets; sudo sets the same for another account, whatever it is given."""
    try:
        entry = pwd.getpwuid(os.getuid()) if account is None else pwd.getpwnam(account)
    except KeyError:
        if account is not None:
            return {}  # the job refuses an account that does not exist, with better words
        name = account_name(os.getuid())
        return {"HOME": "/", "USER": name, "LOGNAME": name, "SHELL": "/bin/sh"}
    # An agent runs its commands in this shell, and a service's account often has none that runs any.
    shell = entry.pw_shell if Path(entry.pw_shell).name not in _NO_SHELLS else "/bin/sh"
    return {"HOME": entry.pw_dir, "USER": entry.pw_name, "LOGNAME": entry.pw_name, "SHELL": shell}


def _temporary_folder(
    account: str | None, state_dir: str | os.PathLike[str] | None
) -> tuple[str | None, tuple[str, ...]]:
    if account is None or is_this_account(account):
        return _own_temporary_folder(Path(state_dir or default_state_dir())), ()
    folder = Path(ACCOUNT_TMP) / account
    try:
        about = folder.lstat()
        uid = pwd.getpwnam(account).pw_uid
    except (OSError, KeyError):
        fault = "there is none"
    else:
        fault = _fault_of(about, uid)
    if not fault:
        return str(folder), ()
    make = f"`install -d -m 0700 -o {account} {folder}` as root"
    return None, (f"{account} has no folder of its own for temporary files ({folder}: {fault}): make it with {make}",)


def _own_temporary_folder(state_dir: Path) -> str:
    folder = state_dir.absolute() / "tmp"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        about = folder.lstat()
        if stat.S_ISDIR(about.st_mode) and about.st_uid == os.geteuid():
            folder.chmod(0o700)
            about = folder.lstat()
    except OSError as error:
        raise BackendError(f"the folder {folder} for temporary files cannot be made: {error.strerror}") from None
    if fault := _fault_of(about, os.geteuid()):
        raise BackendError(f"{folder} cannot hold temporary files ({fault}): take it away, and it is made anew")
    return str(folder)


def _fault_of(about: os.stat_result, uid: int) -> str:
    """Why others than the account could read what is put there, or lay something ready; '' if they cannot."""
    if not stat.S_ISDIR(about.st_mode):
        return "it is not a folder"
    if about.st_uid != uid:
        return f"it belongs to {account_name(about.st_uid)}"
    if stat.S_IMODE(about.st_mode) != 0o700:
        return f"its mode is {stat.S_IMODE(about.st_mode):04o} and not 0700"
    return ""
