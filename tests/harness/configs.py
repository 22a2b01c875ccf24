"""Config files of a test, and what is wrong with them."""

import os
import pwd
from pathlib import Path

import pytest

from corral.config import ConfigError, load

OWN = pwd.getpwuid(os.geteuid()).pw_name
ONE_PERSON = '[[people]]\nname = "ada"\n'


def faults_of(path: Path) -> list[str]:
    """What is wrong with the file, without the file's name, which every fault begins with."""
    with pytest.raises(ConfigError) as caught:
        load(path)
    assert all(fault.startswith(str(path)) and "\n" not in fault for fault in caught.value.faults)
    assert str(caught.value) == "\n".join(caught.value.faults)
    return [fault.removeprefix(str(path)).removeprefix(": ") for fault in caught.value.faults]


def written(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path
