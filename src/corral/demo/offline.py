"""A chat with a real agent and the offline model: what `corral chat --offline` does, and the end of the demo."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from corral.backends import registry
from corral.offline import OfflineModel, Run, Say, Script, Turn, echo
from corral.process import default_state_dir
from corral.terminal import terminal
from corral.terminal.connectors import InProcess

if TYPE_CHECKING:
    from corral.backends.engine import EngineKind
    from corral.config import Config, Person
    from corral.service.conversation_ref import ConversationRef

RUN = "run "
# A proxy that the environment names would be asked for the loopback too.
NO_PROXY = {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
HINT = "The model is a script. `run COMMAND` has the agent run a command, for example `run make`; then try /stop."


def obey(message: str) -> Turn:
    """`run COMMAND` has the agent run it; anything else is echoed."""
    if not message.startswith(RUN):
        return echo(message)
    return Turn(Say("I run it."), Run(message.removeprefix(RUN).strip()), Say("It is done."))


async def chat(own: InProcess, *, as_json: bool = False) -> int:
    """`terminal.run` with the offline model; under this account the agent's home lasts as long as the chat."""
    async with OfflineModel(Script(then=obey)) as model:
        url = model.base_url

        def kinds(config: Config, person: Person, ref: ConversationRef) -> EngineKind:
            return registry.entry(ref.engine).offline(own.kinds(config, person, ref), url)

        offline = replace(own, kinds=kinds)
        if own.user is not None:
            return await _run(offline, as_json=as_json)
        home = tempfile.mkdtemp(prefix="corral-offline-")
        try:
            env = {**{entry.home[0]: home for entry in registry.entries()}, **NO_PROXY}
            return await _run(replace(offline, env=env), as_json=as_json)
        finally:
            shutil.rmtree(home, ignore_errors=True)


async def _run(own: InProcess, *, as_json: bool) -> int:
    return await terminal.run(own.connector(), as_json=as_json, state_dir=own.state_dir or Path(default_state_dir()))
