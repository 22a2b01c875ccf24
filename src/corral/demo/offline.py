"""A chat with a real agent and the offline model: what `corral chat --offline` does, and the end of the demo."""

from __future__ import annotations

import json
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

from corral.backends.claude import Claude
from corral.backends.codex import Codex
from corral.backends.engine import EngineKind
from corral.offline import OfflineModel, Run, Say, Script, Turn, claude_environment, codex_overrides, echo
from corral.process import default_state_dir
from corral.terminal import terminal
from corral.terminal.connectors import InProcess

RUN = "run "
# A proxy that the environment names would be asked for the loopback too.
NO_PROXY = {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
HINT = "The model is a script. `run COMMAND` has the agent run a command, for example `run make`; then try /stop."


def obey(message: str) -> Turn:
    """`run COMMAND` has the agent run it; anything else is echoed."""
    if not message.startswith(RUN):
        return echo(message)
    return Turn(Say("I run it."), Run(message.removeprefix(RUN).strip()), Say("It is done."))


def pointed(kind: EngineKind, base_url: str) -> EngineKind:
    """The engine, with settings by which it talks to the offline model."""
    if isinstance(kind, Codex):
        return replace(kind, overrides=codex_overrides(base_url))
    assert isinstance(kind, Claude), "the engines of this version"
    return replace(kind, settings=json.dumps({"env": claude_environment(base_url)}))


async def chat(own: InProcess, *, as_json: bool = False) -> int:
    """`terminal.run` with the offline model; under this account the agent's home lasts as long as the chat."""
    async with OfflineModel(Script(then=obey)) as model:
        offline = replace(own, kinds=lambda engine: pointed(own.kinds(engine), model.base_url))
        if own.user is not None:
            return await _run(offline, as_json=as_json)
        home = tempfile.mkdtemp(prefix="corral-offline-")
        try:
            env = {"CODEX_HOME": home, "CLAUDE_CONFIG_DIR": home, **NO_PROXY}
            return await _run(replace(offline, env=env), as_json=as_json)
        finally:
            shutil.rmtree(home, ignore_errors=True)


async def _run(own: InProcess, *, as_json: bool) -> int:
    return await terminal.run(own.connector(), as_json=as_json, state_dir=own.state_dir or Path(default_state_dir()))
