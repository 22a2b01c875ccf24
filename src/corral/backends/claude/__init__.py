"""The Claude engine: Claude Code's stream-json as a job, its messages as Corral's events."""

from corral.backends.claude.binary import find_claude
from corral.backends.claude.kind import Claude

__all__ = ["Claude", "find_claude"]
