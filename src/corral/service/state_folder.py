"""The state folder: the rule for its owner and mode, which the service keeps and the doctor tries."""

from __future__ import annotations

import errno
import os
import shlex
import stat
from pathlib import Path

from corral.process.bare.table import account_name


class StateFolderError(Exception):
    """The folder cannot be used; the message says why and what to do."""


def prepare(place: Path) -> None:
    """Make the folder if it is missing, and refuse one that the rule forbids. Raises StateFolderError."""
    account = account_name(os.geteuid())
    try:
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        about = place.stat()
    except OSError as error:
        raise StateFolderError(why_not(place, error)) from None
    if owner := wrong_owner(about):
        raise StateFolderError(f"{place} belongs to {owner} and not to {account}: {give_to(account, place)}")
    if mode := wrong_mode(about):
        raise StateFolderError(f"{place} has mode {mode}: {OPEN_TO_OTHERS}: {close_to_others(place)}")


OPEN_TO_OTHERS = "others could see whose agents run, and reach what is kept in it"


def wrong_owner(about: os.stat_result) -> str:
    """Who owns the folder, where that is not this account; else empty."""
    return "" if about.st_uid == os.geteuid() else account_name(about.st_uid)


def wrong_mode(about: os.stat_result) -> str:
    """The mode of a folder that others than its owner may use; else empty."""
    return f"{stat.S_IMODE(about.st_mode):04o}" if about.st_mode & 0o077 else ""


def give_to(account: str, place: Path) -> str:
    """The command that makes the folder the account's."""
    return f"sudo chown -R {shlex.quote(account)} {shlex.quote(str(place))}"


def close_to_others(place: Path) -> str:
    """The command that takes everybody else's rights."""
    return f"chmod 0700 {shlex.quote(str(place))}"


def make_for(account: str, place: Path) -> str:
    """The command that makes a folder which the account itself may not make."""
    return f"sudo install -d -m 0700 -o {shlex.quote(account)} {shlex.quote(str(place))}"


def why_not(place: Path, error: OSError) -> str:
    """What an error at the folder, or at a file in it, means to the operator."""
    account = account_name(os.geteuid())
    match error.errno:
        case errno.ENOSPC | errno.EDQUOT:
            return f"the disk of {place} is full: make room"
        case errno.EROFS:
            return f"{place} lies on a file system that is mounted read-only: name another with [service] state_dir"
        case errno.EEXIST | errno.ENOTDIR:
            return f"{place} cannot be the state folder, since {error.filename or place} is a file: name another place"
        case errno.EACCES | errno.EPERM if not _is_there(place):
            return f"{place} is not there, and {account} may not make it: {make_for(account, place)}"
        case errno.EACCES | errno.EPERM:
            return f"{account} may not use {error.filename or place}: `namei -l {place}` shows why"
    return f"{error.filename or place} cannot be used: {error.strerror or error}"


def _is_there(place: Path) -> bool:
    try:
        place.stat()
    except FileNotFoundError:
        return False
    except OSError:
        return os.access(place.parent, os.X_OK)
    return True
