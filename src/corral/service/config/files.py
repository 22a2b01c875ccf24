"""Reading the files that decide who runs as whom, and with which secrets: whose they are comes before what they say."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from corral.process.table import account_name
from corral.service.config.errors import ConfigError

LARGEST_CONFIG = 2**20
LARGEST_SECRET = 2**16
"""Bytes. Linux takes a variable of 128 KiB at the most."""


def read_config(path: Path) -> tuple[str, tuple[str, ...]]:
    """The text of a config, and what is wrong with whose it is. Raises ConfigError where there is nothing to read."""
    content, about = _read(path, LARGEST_CONFIG)
    faults = []
    if fault := _wrong_owner(about):
        faults.append(
            f"{path}: {fault}, who would decide who runs as whom: `chown {_own_name()} {path}`, after reading it"
        )
    if about.st_mode & 0o022:
        faults.append(
            f"{path}: others than its owner may write it (mode {_mode(about)}), and would decide who runs as whom: "
            f"`chmod go-w {path}`, after reading it"
        )
    try:
        return content.decode(), tuple(faults)
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigError((*faults, f"{path}, line {line}: this is not UTF-8, as TOML must be")) from None


def read_secret(path: Path) -> str:
    """What a file of a secret holds, without the newline at its end. Raises ConfigError; it never shows the secret."""
    content, about = _read(path, LARGEST_SECRET)
    if fault := _wrong_owner(about):
        raise ConfigError((f"{path}: {fault}: `chown {_own_name()} {path}`",))
    if about.st_mode & 0o077 and not _is_credential_of_systemd(about):
        raise ConfigError((f"{path}: others than its owner may use it (mode {_mode(about)}): `chmod 0600 {path}`",))
    try:
        secret = content.decode().rstrip("\r\n")
    except UnicodeDecodeError:
        raise ConfigError((f"{path}: it is not text in UTF-8, so that no variable can hold it",)) from None
    if not secret or "\0" in secret:
        raise ConfigError((f"{path}: it {'holds NUL' if secret else 'is empty'}, so that no variable can hold it",))
    return secret


def _read(path: Path, largest: int) -> tuple[bytes, os.stat_result]:
    try:
        content, about = _regular(path, largest)
    except FileNotFoundError:
        raise ConfigError((f"{path}: there is no such file",)) from None
    except PermissionError:
        why = f"the account {_own_name()} may not read it: `namei -l {path}` shows who may, folder by folder"
        raise ConfigError((f"{path}: {why}",)) from None
    except OSError as error:
        raise ConfigError((f"{path}: it cannot be read ({error.strerror})",)) from None
    if len(content) > largest:
        raise ConfigError((f"{path}: it is larger than {largest // 1024} KiB",))
    return content, about


def _regular(path: Path, largest: int) -> tuple[bytes, os.stat_result]:
    # Checked and read through one descriptor: the name may point elsewhere a moment later. O_NONBLOCK: a pipe that
    # lies there instead would be waited for without end.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    try:
        about = os.fstat(descriptor)
        if not stat.S_ISREG(about.st_mode):
            raise ConfigError((f"{path}: this is not a regular file",))
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            return file.read(largest + 1), about
    finally:
        os.close(descriptor)


def _wrong_owner(about: os.stat_result) -> str:
    if about.st_uid in (0, os.geteuid()):
        return ""
    return f"it belongs to {account_name(about.st_uid)}, neither to root nor to {_own_name()}"


def _is_credential_of_systemd(about: os.stat_result) -> bool:
    # LoadCredential= gives root's file to the service by an access list, whose mask shows as the mode of group root.
    return about.st_uid == 0 and about.st_gid == 0 and about.st_mode & 0o077 == 0o040


def _mode(about: os.stat_result) -> str:
    return f"{stat.S_IMODE(about.st_mode):04o}"


def _own_name() -> str:
    return account_name(os.geteuid())
