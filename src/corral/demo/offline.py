"""A chat with the real Codex and the offline model: what `corral chat --offline` does, and the end of the demo."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import replace

from corral.backends.codex import Codex
from corral.chat import terminal
from corral.chat.terminal import ChatOptions
from corral.offline import OfflineModel, Run, Say, Script, Turn, codex_overrides, echo

RUN = "run "
# A proxy that the environment names would be asked for the loopback too.
NO_PROXY = {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
HINT = "The model is a script. `run COMMAND` has Codex run a command, for example `run sleep 100`; then try /stop."


def obey(message: str) -> Turn:
    """`run COMMAND` has the agent run it; anything else is echoed."""
    if not message.startswith(RUN):
        return echo(message)
    return Turn(Say("I run it."), Run(message.removeprefix(RUN).strip()), Say("It is done."))


async def chat(options: ChatOptions) -> int:
    """`terminal.run` with the offline model; under this account Codex gets a home that lasts as long as the chat."""
    async with OfflineModel(Script(then=obey)) as model:
        assert isinstance(options.kind, Codex), "the only engine of the demo"
        offline = replace(options, kind=replace(options.kind, overrides=codex_overrides(model.base_url)))
        if options.user is not None:
            return await terminal.run(offline)
        home = tempfile.mkdtemp(prefix="corral-offline-")
        try:
            return await terminal.run(replace(offline, env={"CODEX_HOME": home, **NO_PROXY}))
        finally:
            shutil.rmtree(home, ignore_errors=True)
