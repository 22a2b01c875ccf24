"""Where the claude program is."""

from __future__ import annotations

import shutil

from corral.backends.errors import EngineNotFoundError


def find_claude(path: str | None = None) -> list[str]:
    """The command that starts claude: the person's own on `path` (default: PATH).

    Raises EngineNotFoundError, with what to install.
    """
    if found := shutil.which("claude", path=path):
        return [found]
    raise EngineNotFoundError(
        "there is no `claude` on PATH: install it with `npm install -g @anthropic-ai/claude-code` (and Node 22 or "
        "newer: npm takes an old claude for an older Node)"
    )
