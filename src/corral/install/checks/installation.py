"""How Corral itself is installed."""

from __future__ import annotations

import importlib.util
import os
import struct
from collections.abc import Iterable
from pathlib import Path

from corral import process
from corral.install.finding import Findings, ok, warn

_HEADER = struct.Struct("<4sIII")


def bytecode() -> Findings:
    """Whether what every reaper imports is compiled: without that each start of an agent compiles it again."""
    folder = Path(process.__file__).parent
    stale = sorted(file.name for file in _sources(folder) if not _is_compiled(file))
    if not stale:
        yield ok("bytecode", "what every reaper imports is compiled")
    elif os.access(folder / "__pycache__" if (folder / "__pycache__").exists() else folder, os.W_OK):
        yield ok("bytecode", "the first reaper writes it")
    else:
        yield warn(
            "bytecode",
            f"{len(stale)} files in {folder} are not compiled, and this account may not write there: every start of an "
            "agent compiles them again",
            "compile them once",
            f"sudo python3 -m compileall -q {folder}",
        )


def _sources(folder: Path) -> Iterable[Path]:
    # boot.py is a script, which Python never keeps compiled.
    return (file for file in folder.glob("*.py") if file.name != "boot.py")


def _is_compiled(file: Path) -> bool:
    """As importlib decides it: by magic number, time and size (or a hash, which is believed here)."""
    try:
        with Path(importlib.util.cache_from_source(str(file))).open("rb") as compiled:
            magic, flags, mtime, size = _HEADER.unpack(compiled.read(_HEADER.size))
        about = file.stat()
    except (OSError, struct.error, NotImplementedError):
        return False
    if magic != importlib.util.MAGIC_NUMBER:
        return False
    return bool(flags) or (mtime, size) == (int(about.st_mtime) & 0xFFFFFFFF, about.st_size & 0xFFFFFFFF)
