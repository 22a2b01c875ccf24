"""Real agents and the offline model: `corral chat --offline`, `corral serve --offline`, and the end of the demo."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from corral.backends import registry
from corral.daemon import serving
from corral.offline import OfflineModel, Run, Say, Script, Turn, echo
from corral.process import default_state_dir
from corral.service.starting import Kinds, configured_kind
from corral.terminal import terminal
from corral.terminal.connectors import InProcess

if TYPE_CHECKING:
    from corral.backends.engine import EngineKind
    from corral.config import Config, Person
    from corral.service.conversation_ref import ConversationRef

RUN = "run "
ASK = "ask "
# A proxy that the environment names would be asked for the loopback too.
NO_PROXY = {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
SCRIPTED = (
    "offline: a script answers in the place of the model; `run COMMAND` has the agent run a command, `ask "
    "COMMAND` has it ask for permission first, anything else is echoed"
)
HINT = "The model is a script. `run COMMAND` has the agent run a command, for example `run make`; then try /stop."


def obey(message: str) -> Turn:
    """`run COMMAND` has the agent run it, `ask COMMAND` outside its sandbox with permission; else an echo."""
    if message.startswith(ASK):
        return Turn(Say("I ask."), Run(message.removeprefix(ASK).strip(), escalate=True), Say("It is done."))
    if not message.startswith(RUN):
        return echo(message)
    return Turn(Say("I run it."), Run(message.removeprefix(RUN).strip()), Say("It is done."))


def pointed(kinds: Kinds, base_url: str) -> Kinds:
    """The engines of `kinds`, talking to the offline model."""

    def offline(config: Config, person: Person, ref: ConversationRef) -> EngineKind:
        return registry.entry(ref.engine).offline(kinds(config, person, ref), base_url)

    return offline


async def serve(config: Path | None, say: Callable[[str], None]) -> int:
    """`serving.run` with the offline model for everybody; each is told so when an agent starts."""
    async with OfflineModel(Script(then=obey)) as model:
        say(f"no agent reaches its vendor: all of them talk to a scripted model at {model.base_url}")
        return await serving.run(config, say, pointed(configured_kind, model.base_url), greeting=SCRIPTED)


async def chat(own: InProcess, *, as_json: bool = False) -> int:
    """`terminal.run` with the offline model; under this account the agent's home lasts as long as the chat."""
    async with OfflineModel(Script(then=obey)) as model:
        offline = replace(own, kinds=pointed(own.kinds, model.base_url))
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
