"""Settings by which codex talks to the offline model (`corral.offline`), with no account and no network."""

from __future__ import annotations

import json

# A model that Codex 0.169 knows and talks to with plain tool calls; of an unknown one it warns in every turn.
MODEL = "gpt-5.5"
PROVIDER = "corral_offline"


def codex_overrides(base_url: str, model: str = MODEL) -> list[str]:
    """The `key=value` overrides, in TOML, with which Codex needs no account and no network."""
    provider = f"model_providers.{PROVIDER}"
    values: dict[str, str | bool | int] = {
        "model": model,
        "model_provider": PROVIDER,
        f"{provider}.name": "Corral offline model",
        f"{provider}.base_url": base_url,
        f"{provider}.wire_api": "responses",
        f"{provider}.requires_openai_auth": False,
        f"{provider}.request_max_retries": 1,
        f"{provider}.stream_max_retries": 1,
        "analytics.enabled": False,
        "check_for_update_on_startup": False,
    }
    return [f"{key}={json.dumps(value)}" for key, value in values.items()]


def codex_arguments(base_url: str, model: str = MODEL) -> list[str]:
    """The same as arguments, `-c` before each, for `codex ARGUMENTS… app-server`."""
    return [argument for override in codex_overrides(base_url, model) for argument in ("-c", override)]
