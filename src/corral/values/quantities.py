"""Times and sizes as people write them: "10m", "1h30m", "500ms", "4G"."""

from __future__ import annotations

import math
import re
from decimal import Decimal

from corral.values.written import shown

LONGEST = 3650 * 86_400.0
"""Seconds: ten years. Whoever writes more meant another unit."""
SMALLEST = 16 * 2**20
"""Bytes: 16 MiB. No agent starts with less, so that a smaller number is one without its unit."""
LARGEST = 2**50
"""Bytes: 1024 TiB, more than any machine has."""

_SECONDS = {"d": 86_400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
_PART = r"(?:([0-9]+(?:\.[0-9]+)?){})?"
_TIME = re.compile("".join(_PART.format(unit) for unit in ("d", "h", "m(?!s)", "s", "ms")))
_BYTES = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?)([KMGT]?)(?:iB)?")


def seconds(written: object) -> float:
    """The seconds of "1h30m" or of a number. Raises ValueError, with a sentence."""
    total = _seconds(written)
    if total is None:
        raise ValueError(
            f'{shown(written)} is not a duration: write it like "10m", "1h30m", "90s", "500ms", "90d", or a number'
        )
    if not 0 < total <= LONGEST:
        raise ValueError(
            f"{shown(written)} is not allowed: a time is longer than nothing and at most {as_time(LONGEST)}"
        )
    return total


def as_time(total: float) -> str:
    """The seconds as `seconds` reads them, in the largest units that say it whole."""
    milliseconds = round(total * 1000)
    if milliseconds == 0 or not math.isclose(milliseconds / 1000, total, rel_tol=1e-12):
        return f"{total:f}s"
    parts = []
    for unit, size in (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)):
        count, milliseconds = divmod(milliseconds, size)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts)


def size(written: object) -> int:
    """The bytes of "4G" or of a number; units are powers of 1024. Raises ValueError, with a sentence."""
    total = _bytes(written)
    if total is None:
        raise ValueError(f'{shown(written)} is no size: write it like "4G", "512M", or a number of bytes')
    if not SMALLEST <= total <= LARGEST:
        bounds = f"at least {as_size(SMALLEST)} and at most {as_size(LARGEST)}"
        raise ValueError(f"{shown(written)} is not allowed: a size is {bounds}")
    return total


def as_size(total: int) -> str:
    """The bytes as `size` reads them, in the largest unit that says it whole."""
    for unit, factor in reversed(_BYTES.items()):
        if total and total % factor == 0:
            return f"{total // factor}{unit}"
    return str(total)


def _seconds(written: object) -> float | None:
    if isinstance(written, int | float) and not isinstance(written, bool):
        return float(written) if abs(written) <= LONGEST else math.inf
    match = _TIME.fullmatch(written) if isinstance(written, str) and written else None
    if match is None:
        return None
    return math.fsum(
        float(count) * _SECONDS[unit] for unit, count in zip(_SECONDS, match.groups(), strict=True) if count
    )


def _bytes(written: object) -> int | None:
    if isinstance(written, int) and not isinstance(written, bool):
        return written
    match = _SIZE.fullmatch(written) if isinstance(written, str) else None
    return None if match is None else int(Decimal(match[1]) * _BYTES[match[2]])
