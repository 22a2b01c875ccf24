"""Settings by which Claude Code talks to the offline model (`corral.offline`), with no account and no network."""

from __future__ import annotations


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
