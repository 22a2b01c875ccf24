"""Where the codex program is."""

from __future__ import annotations

import shutil

from corral.backends.errors import EngineNotFoundError
from corral.installed import extra_command


def find_codex(path: str | None = None) -> list[str]:
    """The command that starts codex: the person's own on `path` (default: PATH), else the one from PyPI.

    Raises EngineNotFoundError, with what to install.
    """
    if found := shutil.which("codex", path=path):
        return [found]
    try:
        import codex_cli_bin  # type: ignore[import-not-found, import-untyped, unused-ignore]
    except ImportError as error:
        raise EngineNotFoundError(
            "there is no `codex` on PATH: install it with `npm install -g @openai/codex`, or add it to this Corral "
            f"with `{extra_command('codex')}`"
        ) from error
    return [str(codex_cli_bin.bundled_codex_path())]
