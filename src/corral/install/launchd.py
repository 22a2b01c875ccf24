"""The service as a daemon of launchd. No macOS machine was at hand: what is said here is documented, not tried."""

from __future__ import annotations

import math
import plistlib
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from corral.backends.environment import search_path
from corral.install.units import STOP_MARGIN, UnitsError

if TYPE_CHECKING:
    from corral.config import Config

LABEL = "org.corral.serve"
PLIST = f"/Library/LaunchDaemons/{LABEL}.plist"

_FILES = 4096

_WHY = {
    "Label": "What launchctl calls it: launchctl print system/" + LABEL,
    "ProgramArguments": "The service",
    "UserName": "The service's account, not root: sudo takes it to people's accounts",
    "RunAtLoad": "Starts it with the machine",
    "KeepAlive": "A service that died comes back; one that ended well does not",
    "ThrottleInterval": "Seconds between two starts: a config that cannot be used is no reason to be busy",
    "ExitTimeOut": "Seconds from TERM to KILL. Longer than [service] shutdown: what is killed earlier proves nothing",
    "AbandonProcessGroup": "What is left of its process group is ended with it. Agents have sessions of "
    "their own, which launchd does not look after: their reapers end them, and the next start what these leave",
    "ProcessType": "Agents compile and test. As background processes they would get little processor and disk",
    "Umask": "022: what agents write can be shared; the service makes its own files for itself alone without it",
    "EnvironmentVariables": "launchd gives a bare PATH, and here sudo looks for the engines on it",
    "SoftResourceLimits": "launchd allows 256 open files",
    "StandardErrorPath": "The log, a JSON object a line; newsyslog(8) can turn it over",
}


def plist(config: Config, user: str, program: Sequence[str]) -> str:
    """The text of the property list. Raises UnitsError."""
    settings: dict[str, Any] = {
        "Label": LABEL,
        "ProgramArguments": [*program, "serve", *(["--config", str(config.path)] if config.path else [])],
        "UserName": user,
        "RunAtLoad": True,
        "KeepAlive": {"SuccessfulExit": False},
        "ThrottleInterval": 10,
        "ExitTimeOut": math.ceil(config.service.shutdown + STOP_MARGIN),
        "AbandonProcessGroup": False,
        "ProcessType": "Interactive",
        "Umask": 0o022,
        "EnvironmentVariables": {"PATH": search_path("/usr/local/bin:/opt/homebrew/bin")},
        "SoftResourceLimits": {"NumberOfFiles": _FILES},
        "StandardErrorPath": str(config.service.state_dir / "corral.log"),
    }
    for text in (*settings["ProgramArguments"], user, settings["StandardErrorPath"]):
        if not text.isprintable():
            raise UnitsError(f"a property list has no words for {text!a}: it is not printable")
    return _explained(plistlib.dumps(settings, sort_keys=False).decode())


def _explained(text: str) -> str:
    """The same with the reason above each of the outer keys. A comment of XML holds no two hyphens in a row."""

    def with_reason(match: re.Match[str]) -> str:
        return f"\t<!-- {_WHY[match[1]].replace('--', '- -')} -->\n{match[0]}"

    head = f"<!-- Corral as a service. Written by `corral units launchd` for {PLIST} -->\n<plist"
    return re.sub(r"^\t<key>(\w+)</key>", with_reason, text, flags=re.MULTILINE).replace("<plist", head, 1)
