"""The account that the service runs as, and where its program is, for what is written for it beforehand."""

from __future__ import annotations

import os
import pwd
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from corral.process.bare.table import account_name

if TYPE_CHECKING:
    from corral.config import Config


class NoServiceAccountError(Exception):
    """Nobody said as which account the service is to run; the message says how to."""


def service_account(config: Config, named: str | None = None) -> str:
    """The account of the service: the one named, else this one; for root, which it rarely is, whose the state is.

    Raises NoServiceAccountError, with what to do.
    """
    if named is not None:
        try:
            return pwd.getpwnam(named).pw_name
        except (KeyError, ValueError):
            raise NoServiceAccountError(f"{named!a} is no account of this machine") from None
    if os.geteuid() != 0:
        return account_name(os.geteuid())
    try:
        owner = config.service.state_dir.stat().st_uid
    except OSError:
        owner = 0
    if owner == 0:
        raise NoServiceAccountError(
            "root asks, and as which account the service is to run is not known: say it with --service-user NAME"
        )
    return account_name(owner)


def program() -> list[str]:
    """How this installation of Corral is started, with full paths."""
    beside = Path(sys.executable).with_name("corral")
    return [str(beside)] if os.access(beside, os.X_OK) else [sys.executable, "-m", "corral"]
