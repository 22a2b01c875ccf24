"""Values that belong into no configuration: one file each, which only its owner may read."""

from __future__ import annotations

import codecs
import os
import stat
import sys
from pathlib import Path

from corral.backends.errors import SecretError
from corral.process.bare.table import account_name

LARGEST = 64 * 1024
"""Bytes. Linux takes a variable of 128 KiB at the most."""

_ACCESS_LIST = "system.posix_acl_access"


def read_secret(path: str | os.PathLike[str]) -> str:
    """What the file holds, without the newline at its end. Raises SecretError, which never shows what it holds.

    A regular file of this account's or of root's, closed to everybody else, of at most 64 KiB.
    """
    content, about, listed = _read(Path(path))
    owner = account_name(os.geteuid())
    if about.st_uid not in (0, os.geteuid()):
        theirs = account_name(about.st_uid)
        raise SecretError(f"{path} belongs to {theirs}, neither to root nor to {owner}: `chown {owner} {path}`")
    if about.st_mode & 0o077 and not (listed and _is_credential_of_systemd(about)):
        mode = f"{stat.S_IMODE(about.st_mode):04o}"
        raise SecretError(f"others than its owner may use {path} (mode {mode}): `chmod 0600 {path}`")
    return _text(path, content)


def _read(path: Path) -> tuple[bytes, os.stat_result, bool]:
    """What it holds, whose it is, and whether an access list says more of that than its mode."""
    # Checked and read through one descriptor: the name may point elsewhere a moment later. O_NONBLOCK: a pipe that
    # lies there instead would be waited for without end.
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
        try:
            about = os.fstat(descriptor)
            if not stat.S_ISREG(about.st_mode):
                raise SecretError(f"{path} is not a regular file: put the secret into one")
            with os.fdopen(descriptor, "rb", closefd=False) as file:
                content = file.read(LARGEST + 1)
            listed = sys.platform == "linux" and _ACCESS_LIST in os.listxattr(descriptor)
        finally:
            os.close(descriptor)
    except FileNotFoundError:
        raise SecretError(f"there is no file {path}: write the secret into it, mode 0600") from None
    except OSError as error:
        owner = account_name(os.geteuid())
        why = f"{path} cannot be read by {owner} ({error.strerror}): `namei -l {path}` shows who may, folder by folder"
        raise SecretError(why) from None
    if len(content) > LARGEST:
        raise SecretError(f"{path} is larger than {LARGEST // 1024} KiB: no variable can hold it")
    return content, about, listed


def _text(path: str | os.PathLike[str], content: bytes) -> str:
    try:
        # Without the byte order mark that some editors begin a file with.
        secret = content.removeprefix(codecs.BOM_UTF8).decode()
    except UnicodeDecodeError:
        # From None: the error it comes from would show a part of the content.
        raise SecretError(f"{path} is not text in UTF-8: no variable can hold it") from None
    secret = secret.rstrip("\r\n")
    if not secret or "\0" in secret:
        raise SecretError(f"{path} {'holds NUL' if secret else 'is empty'}: no variable can hold it")
    return secret


def _is_credential_of_systemd(about: os.stat_result) -> bool:
    # LoadCredential= gives root's file to the service by an access list, whose mask shows as the mode of group root.
    return about.st_uid == 0 and about.st_gid == 0 and about.st_mode & 0o077 == 0o040
