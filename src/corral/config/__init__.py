"""The config: who may talk with an agent, as whom it runs, and within which bounds. `load` reads it."""

from corral.config.errors import ConfigError
from corral.config.loading import find, load
from corral.config.models import (
    Config,
    Engines,
    LadderTimes,
    Person,
    PoolLimits,
    Recycle,
    Service,
    Timeouts,
)

__all__ = [
    "Config",
    "ConfigError",
    "Engines",
    "LadderTimes",
    "Person",
    "PoolLimits",
    "Recycle",
    "Service",
    "Timeouts",
    "find",
    "load",
]
