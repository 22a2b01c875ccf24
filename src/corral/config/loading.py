"""Finding the config file and reading it, with all that is wrong with it at once."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import platformdirs
from pydantic import ValidationError

from corral.config import faults, files, host
from corral.config.errors import ConfigError
from corral.config.models import Config

FILE = "corral.toml"
SYSTEM_FILE = Path("/etc/corral") / FILE

_PLACE = re.compile(r"(?P<what>.*) \((?:at line (?P<line>\d+), column (?P<column>\d+)|at end of document)\)", re.DOTALL)


def user_file() -> Path:
    """The config of this account, in the platform's folder for a user's config."""
    return Path(platformdirs.user_config_dir("corral")) / FILE


def find() -> Path | None:
    """The config of this machine: what CORRAL_CONFIG names, else the account's own, else the system's; the first that
    is there. What CORRAL_CONFIG names is taken whether or not it is there: no other is what its author meant."""
    if named := os.environ.get("CORRAL_CONFIG", ""):
        return Path(named)
    return next((place for place in (user_file(), SYSTEM_FILE) if _is_there(place)), None)


def load(path: Path | None) -> Config:
    """Read a config; None: the one that `find` gives. Raises ConfigError with all that is wrong with it.

    It must be read as the service's account: defaults, owners of files and the account of people who name none are
    that account's.
    """
    chosen = path or find()
    if chosen is None:
        raise ConfigError((f"There is no config, neither {user_file()} nor {SYSTEM_FILE}: `corral init` writes one",))
    text, wrong = files.read_config(chosen)
    document = _parse(chosen, text, wrong)
    config, found = judge(document, chosen.absolute())
    if config is None or wrong or found:
        raise ConfigError((*wrong, *(f"{chosen}: {fault}" for fault in found)))
    return config


def judge(document: Mapping[str, Any], path: Path | None = None) -> tuple[Config | None, tuple[str, ...]]:
    """The config of a parsed file, and all that is wrong with it, each as `KEY: what is wrong`."""
    config = None
    found = [f"path: {faults.unknown('path', Config)}"] if "path" in document else []
    try:
        config = Config.model_validate({**document, "path": path})
    except ValidationError as error:
        found += faults.sentences(error, document)
    return config, (*found, *host.faults(document))


def _parse(path: Path, text: str, wrong: tuple[str, ...]) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except RecursionError:
        fault = f"{path}: its lists or tables are nested too deeply"
    # Not only TOMLDecodeError: a number of thousands of digits is refused by int itself.
    except ValueError as error:
        match = _PLACE.fullmatch(str(error))
        what = match["what"] if match else str(error)
        at = f"line {match['line']}, column {match['column']}" if match and match["line"] else "at its end"
        fault = f"{path}, {at}: not valid TOML ({what}): texts stand in quotes, and each key once, on its own line"
    raise ConfigError((*wrong, fault))


def _is_there(place: Path) -> bool:
    try:
        place.stat()
    except PermissionError:
        return True  # `load` says who may not read it
    except OSError:
        return False
    return True
