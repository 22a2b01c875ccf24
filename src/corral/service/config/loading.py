"""Finding and reading the config file."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path

import platformdirs
from pydantic import ValidationError

from corral.service.config.models import Config

FILE = "corral.toml"


class ConfigError(Exception):
    """The config cannot be used. `faults` are sentences, each of one thing to mend."""

    def __init__(self, faults: tuple[str, ...]) -> None:
        super().__init__("\n".join(faults))
        self.faults = faults


def places() -> tuple[Path, ...]:
    """Where a config is looked for, in this order."""
    named = os.environ.get("CORRAL_CONFIG", "")
    usual = (Path(platformdirs.user_config_dir()) / FILE, Path("/etc/corral") / FILE)
    return (Path(named), *usual) if named else usual


def find() -> Path | None:
    """The config file of this machine: the first of the places that is there."""
    return next((place for place in places() if place.exists()), None)


def load(path: Path | None) -> Config:
    """Read a config; None: the one that `find` gives. Raises ConfigError with all that is wrong with it."""
    chosen = path or find()
    if chosen is None:
        looked = ", ".join(str(place) for place in places())
        raise ConfigError((f"There is no config: looked for {looked}. `corral init` writes one.",))
    try:
        document = tomllib.loads(chosen.read_text())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError((f"{chosen}: {error}",)) from None
    try:
        return Config(path=chosen.absolute(), **document)
    except ValidationError as error:
        raise ConfigError(tuple(f"{chosen}: {fault['loc']}: {fault['msg']}" for fault in error.errors())) from None
