"""Lines that are told from forged, altered or moved ones: each a JSON object and its MAC under a key of the folder."""

from __future__ import annotations

import json

from corral.process.bare.typed import Any

# hashlib would do, and would bring OpenSSL into every reaper: 4 MB and 8 ms.
try:
    from _blake2 import blake2b
except ImportError:  # pragma: no cover - an interpreter built without its own BLAKE2
    from hashlib import blake2b

_MAC_BYTES = 16


def sealed(key: bytes, job_id: str, number: int, content: dict[str, Any]) -> bytes:
    """A line of a record. Its MAC covers the record and the number of the line in it."""
    text = json.dumps(content, separators=(",", ":"))
    return f"{text} {_mac(key, job_id, number, text)}\n".encode()


def genuine_lines(data: bytes, key: bytes, job_id: str) -> list[dict[str, Any]]:
    """The content of a record, up to its first line that is not whole and genuine."""
    found: list[dict[str, Any]] = []
    # What follows the last newline was cut short while it was written.
    for line in data.decode("utf-8", "replace").split("\n")[:-1]:
        text, _, mac = line.rpartition(" ")
        if not key or mac != _mac(key, job_id, len(found), text):
            break
        found.append(json.loads(text))
    return found


def _mac(key: bytes, job_id: str, line: int, text: str) -> str:
    return blake2b(f"{job_id}:{line}:{text}".encode(), key=key, digest_size=_MAC_BYTES).hexdigest()
