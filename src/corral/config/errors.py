"""What is wrong with a config, said to whoever writes it."""

from __future__ import annotations


class ConfigError(Exception):
    """The config cannot be used. `faults` are sentences, one for each thing to fix, with the file and the key."""

    def __init__(self, faults: tuple[str, ...]) -> None:
        super().__init__("\n".join(faults))
        self.faults = faults
