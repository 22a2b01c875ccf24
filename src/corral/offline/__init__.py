"""A loopback model server: the real agents hold a scripted conversation with it, with no account and no network.

It imports nothing else of corral and nothing outside the standard library::

    script = Script([Turn(Say("Let me look."), Run("uname -s"), Say("It is Linux."))])
    async with OfflineModel(script) as model:
        argv = ["codex", *codex_arguments(model.base_url), "app-server"]  # of corral.backends.codex.offline
"""

from corral.offline.script import Call, Fail, Pause, Run, Say, Script, Step, Think, Turn, echo
from corral.offline.server import OfflineModel, Seen

__all__ = [
    "Call",
    "Fail",
    "OfflineModel",
    "Pause",
    "Run",
    "Say",
    "Script",
    "Seen",
    "Step",
    "Think",
    "Turn",
    "echo",
]
