"""Where a running service may be reached."""

from __future__ import annotations

import os
from pathlib import Path

from corral.config import ConfigError, find, load
from corral.process import default_state_dir

SYSTEM_SOCKET = Path("/run/corral/corral.sock")


def sockets(config_file: Path | None) -> list[Path]:
    """Where a service may listen here, the likeliest first. Raises ConfigError for a config that was named.

    The variable CORRAL_SOCKET names another one, for people who may not read the config of a service that has it.
    """
    found = []
    try:
        chosen = config_file or find()
        if chosen is not None:
            found.append(load(chosen).socket_path)
    except ConfigError:
        # A person may not be allowed to read the service's configuration; the socket is what they may use.
        if config_file is not None:
            raise
    found += [SYSTEM_SOCKET, Path(default_state_dir()) / "corral.sock"]
    named = [Path(named)] if (named := os.environ.get("CORRAL_SOCKET", "")) else []
    return list(dict.fromkeys([*named, *filter(_is_socket, found)]))


def _is_socket(path: Path) -> bool:
    try:
        return path.is_socket()
    except OSError:  # in a folder that is closed to this account
        return False
