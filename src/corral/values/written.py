"""Values as a config file has them: for the file itself, and for sentences about it."""

from __future__ import annotations

import json
import re
from pathlib import Path

_BARE = re.compile(r"[A-Za-z0-9_-]+")


def quoted(value: object) -> str:
    """A text as TOML has it, with nothing in it that a terminal would take for an order."""
    return "".join(map(_visible, json.dumps(str(value), ensure_ascii=False)))


def bare(key: str) -> str:
    """A key as TOML has it: in quotes where it needs them."""
    return key if _BARE.fullmatch(key) else quoted(key)


def shown(value: object) -> str:
    """A value, short enough for a sentence."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, list | tuple):
        return "a list"
    text = quoted(value) if isinstance(value, str | Path) else _number(value)
    return text if len(text) <= 80 else f"{text[:76]}…{text[-1]}"


def _visible(letter: str) -> str:
    return letter if letter.isprintable() else f"\\U{ord(letter):08X}"


def _number(value: object) -> str:
    try:
        return str(value)
    except ValueError:
        return "a number of thousands of digits"  # which Python would not write, and hexadecimal TOML can hold
