"""The environment of an agent: the service's own, without the service's secrets."""

from __future__ import annotations

import os
from collections.abc import Mapping

SECRET_PREFIXES = ("CORRAL_", "TELEGRAM_")
CHAT_PREFIXES = ("DISCORD_", "MATRIX_", "MATTERMOST_", "SIGNAL_", "SLACK_", "WHATSAPP_")
CHAT_SECRETS = ("_TOKEN", "_SECRET", "_PASSWORD")


def is_service_secret(name: str) -> bool:
    """Whether a variable belongs to the service or to one of its chats; an agent's own keys do not."""
    if name.startswith(SECRET_PREFIXES) or name.endswith("_BOT_TOKEN"):
        return True
    return name.startswith(CHAT_PREFIXES) and name.endswith(CHAT_SECRETS)


def child_environment(
    extra: Mapping[str, str] | None = None, *, base: Mapping[str, str] | None = None
) -> dict[str, str]:
    """`base` (default: this process's) without the service's secrets, and `extra` on top, as it is."""
    inherited = os.environ if base is None else base
    kept = {name: value for name, value in inherited.items() if not is_service_secret(name)}
    return {**kept, **(extra or {})}
