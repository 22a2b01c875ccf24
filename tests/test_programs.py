"""Which processes are taken for agents, and whose."""

import pytest

from corral.backends.programs import is_agent
from corral.process import JobError, find_orphans
from corral.process.bare.table import Process


def test_an_account_that_does_not_exist_is_named() -> None:
    with pytest.raises(JobError, match="no account named 'nobody-here'"):
        find_orphans("nobody-here", is_agent)


@pytest.mark.parametrize(
    ("arguments", "comm", "agent"),
    [
        (["codex", "app-server"], "codex", True),
        (["/home/d/.npm/vendor/x86_64/codex/codex", "app-server"], "codex", True),
        (["codex-x86_64-unknown-linux-musl"], "codex-x86_64-un", True),
        (["claude"], "claude", True),
        (["node", "/home/d/.npm-global/bin/codex", "app-server"], "node", True),
        (["/usr/bin/node", "--no-warnings", "/x/@anthropic-ai/claude-code/cli.js"], "MainThread", True),
        (["bun", "/x/claude.js"], "bun", True),
        (["node", "/srv/bot/index.js", "codex"], "node", False),
        (["vim", "codex"], "vim", False),
        (["python3", "codex.py"], "python3", False),
        (["/opt/Codex/Codex"], "Codex", False),
        (["/opt/Claude/claude-desktop"], "claude-desktop", False),
        (["sh", "-c", "codex app-server"], "sh", False),
        ([], "codex", False),
    ],
)
def test_an_agent_is_told_by_its_program(arguments: list[str], comm: str, agent: bool) -> None:
    assert is_agent(Process(2, comm=comm), arguments) is agent
