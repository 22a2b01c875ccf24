"""How this Corral was installed, and the command that adds one of its extras."""

from __future__ import annotations

import json
import platform
import shlex
import sys
from importlib import metadata, util
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote, urlsplit

Manner = Literal["pipx", "uv tool", "checkout", "venv", "system"]


def manner() -> Manner:
    """What installed it: each tool leaves a file of its own in the environment that it made."""
    prefix = Path(sys.prefix)
    if (prefix / "pipx_metadata.json").is_file():
        return "pipx"
    if (prefix / "uv-receipt.toml").is_file():
        return "uv tool"
    if _checkout() is not None:
        return "checkout"
    return "venv" if sys.prefix != sys.base_prefix else "system"


def extra_command(extra: str) -> str:
    """The shell command that adds the extra to this installation."""
    match manner():
        case "pipx":
            words = ["pipx", "install", "--force", _requirement(extra)]
        case "uv tool":
            words = ["uv", "tool", "install", "--force", _requirement(extra)]
        case "checkout":
            words = [*_pip(), "-e", f"{_checkout()}[{extra}]"]
        case _:
            words = [*_pip(), _requirement(extra)]
    return shlex.join(words)


def about() -> dict[str, str]:
    """What a report of a fault needs to name."""
    from corral import __version__

    return {
        "version": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "installed": manner(),
        "prefix": sys.prefix,
    }


def _pip() -> list[str]:
    if util.find_spec("pip") is not None:
        return [sys.executable, "-m", "pip", "install"]
    return ["uv", "pip", "install", "--python", sys.executable]  # an environment made by uv has no pip


def _origin() -> dict[str, Any] | None:
    """The record of an install from elsewhere than an index (PEP 610), None where there is none."""
    try:
        text = metadata.distribution("corral").read_text("direct_url.json")
        found = json.loads(text or "null")
    except (metadata.PackageNotFoundError, OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _checkout() -> Path | None:
    """The source folder that is run in place, None where Corral was copied into the environment."""
    origin = _origin()
    if origin is not None and origin.get("dir_info", {}).get("editable"):
        return Path(unquote(urlsplit(origin["url"]).path))
    source = Path(__file__).parents[2]
    return source if (source / "pyproject.toml").is_file() else None


def _requirement(extra: str) -> str:
    """Corral with the extra, from where this Corral came."""
    origin = _origin()
    if origin is None:
        return f"corral[{extra}]"
    url = origin["url"]
    if source := origin.get("vcs_info"):
        url = f"{source['vcs']}+{url}@{source['commit_id']}"
    return f"corral[{extra}] @ {url}"
