"""How each real agent is pointed at the offline model."""

from __future__ import annotations

import json

# A model that Codex 0.169 knows and talks to with plain tool calls; of an unknown one it warns in every turn.
CODEX_MODEL = "gpt-5.5"
CODEX_PROVIDER = "corral_offline"


def codex_overrides(base_url: str, model: str = CODEX_MODEL) -> list[str]:
    """The `key=value` overrides, in TOML, with which Codex needs no account and no network."""
    provider = f"model_providers.{CODEX_PROVIDER}"
    values: dict[str, str | bool | int] = {
        "model": model,
        "model_provider": CODEX_PROVIDER,
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


def codex_arguments(base_url: str, model: str = CODEX_MODEL) -> list[str]:
    """The same as arguments, `-c` before each, for `codex ARGUMENTS… app-server`."""
    return [argument for override in codex_overrides(base_url, model) for argument in ("-c", override)]


def claude_environment(base_url: str) -> dict[str, str]:
    """The environment with which Claude Code needs no account and no network; HOME is the caller's matter."""
    return {
        # Claude Code adds /v1 itself.
        "ANTHROPIC_BASE_URL": base_url.removesuffix("/v1"),
        "ANTHROPIC_API_KEY": "sk-corral-offline",
        # Telemetry, error reports, the updater, and requests that only make the terminal nicer.
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        "CLAUDE_CODE_MAX_RETRIES": "1",
        "NO_PROXY": "127.0.0.1",
        "no_proxy": "127.0.0.1",
    }
