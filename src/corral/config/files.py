"""Reading the file that decides who runs as whom: whose it is comes before what it says."""

from __future__ import annotations

import codecs
import os
import stat
from pathlib import Path

from corral.config.errors import ConfigError
from corral.process.bare.table import account_name

LARGEST_CONFIG = 2**20


def read_config(path: Path) -> tuple[str, tuple[str, ...]]:
    """The text of a config, and what is wrong with whose it is. Raises ConfigError where there is nothing to read."""
    content, about = _read(path)
    faults = []
    if fault := _wrong_owner(about, path):
        faults.append(f"{path}: {fault}")
    if about.st_mode & 0o022:
        faults.append(
            f"{path}: others than its owner may write it (mode {_mode(about)}), and would decide who runs as whom: "
            f"`chmod go-w {path}`, after reading it"
        )
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise ConfigError((*faults, f"{path}: this is UTF-16, and TOML is UTF-8: save it as UTF-8"))
    try:
        # Some editors begin a UTF-8 file with a byte order mark, which is no part of its text.
        return content.removeprefix(codecs.BOM_UTF8).decode(), tuple(faults)
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigError((*faults, f"{path}, line {line}: this is not UTF-8, as TOML must be")) from None


def _read(path: Path) -> tuple[bytes, os.stat_result]:
    try:
        content, about = _regular(path)
    except FileNotFoundError:
        raise ConfigError((f"{path}: there is no such file",)) from None
    except PermissionError:
        why = f"the account {_own_name()} may not read it: `namei -l {path}` shows who may, folder by folder"
        raise ConfigError((f"{path}: {why}",)) from None
    except OSError as error:
        raise ConfigError((f"{path}: it cannot be read ({error.strerror})",)) from None
    if len(content) > LARGEST_CONFIG:
        raise ConfigError((f"{path}: it is larger than {LARGEST_CONFIG // 1024} KiB",))
    return content, about


def _regular(path: Path) -> tuple[bytes, os.stat_result]:
    # Checked and read through one descriptor: the name may point elsewhere a moment later. O_NONBLOCK: a pipe that
    # lies there instead would be waited for without end.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    try:
        about = os.fstat(descriptor)
        if not stat.S_ISREG(about.st_mode):
            raise ConfigError((f"{path}: this is not a regular file",))
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            return file.read(LARGEST_CONFIG + 1), about
    finally:
        os.close(descriptor)


def _wrong_owner(about: os.stat_result, path: Path) -> str:
    if about.st_uid in (0, os.geteuid()):
        return ""
    owner = account_name(about.st_uid)
    if os.geteuid() == 0:
        # Most likely the service's own: given to root, the service could not read it any more.
        return (
            f"it belongs to {owner}, who would decide what root does: if {owner} is the service's account, "
            f"ask as {owner}, with `sudo -u {owner} corral` and the rest"
        )
    return (
        f"it belongs to {owner}, neither to root nor to {_own_name()}, who would decide who runs as whom: "
        f"`chown {_own_name()} {path}`, after reading it"
    )


def _mode(about: os.stat_result) -> str:
    return f"{stat.S_IMODE(about.st_mode):04o}"


def _own_name() -> str:
    return account_name(os.geteuid())
