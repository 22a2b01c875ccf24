"""The Codex engine: `codex app-server` as a job, its JSON-RPC as Corral's events."""

from corral.backends.codex.binary import find_codex
from corral.backends.codex.kind import Codex

__all__ = ["Codex", "find_codex"]
