"""The Codex engine: `codex app-server` as a job, its JSON-RPC as Corral's events."""

from corral.backends.codex.backend import CodexBackend
from corral.backends.codex.binary import find_codex
from corral.backends.codex.requests import Approve, decline

__all__ = ["Approve", "CodexBackend", "decline", "find_codex"]
