"""Settings of the command line as a config: the same models, the same sentences, the same way on from there."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from corral.backends import registry
from corral.config.errors import ConfigError
from corral.config.faults import sentences
from corral.config.models import Config


def config_of(
    *, engine: str, approval: str | None = None, sandbox: str | None = None, model: str | None = None
) -> Config:
    """The config of a chat that has no file: `approval` holds for every engine, the others for the one that is named.

    Raises ConfigError for a setting that the engine does not have.
    """
    tables: dict[str, dict[str, Any]] = {name: {} for name in registry.names()}
    if approval is not None:
        for table in tables.values():
            table["approval"] = approval
    tables.setdefault(engine, {}).update(
        {key: value for key, value in (("sandbox", sandbox), ("model", model)) if value is not None}
    )
    document = {"service": {"engine": engine}, "engines": tables}
    try:
        return Config.model_validate(document)
    except ValidationError as error:
        raise ConfigError(tuple(sentences(error, document))) from None
