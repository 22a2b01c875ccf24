"""Times and sizes as a person reads them."""

from __future__ import annotations


def span(seconds: float) -> str:
    """A time in one unit: 5s, 12m, 3h, 2d."""
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= length:
            return f"{int(seconds // length)}{unit}"
    return f"{max(0, int(seconds))}s"


def size(count: int) -> str:
    """Bytes in one unit."""
    return f"{count / 2**30:.1f}G" if count >= 2**30 else f"{count / 2**20:.0f}M"
