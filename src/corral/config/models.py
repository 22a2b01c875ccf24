"""What a config says, as models: every key with its default and its meaning. All else is derived from these."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field, create_model

from corral.backends import registry
from corral.backends.backend import Limits
from corral.backends.settings import EngineSettings
from corral.config.kinds import EngineName, KeptVariable
from corral.process import default_state_dir
from corral.values.kinds import (
    AbsolutePath,
    Bytes,
    Count,
    CountOrNone,
    Name,
    Seconds,
    Text,
    ValueOfVariable,
    Variable,
    Workspace,
    YesOrNo,
)
from corral.values.quantities import seconds
from corral.values.table import Table

SOCKET = "corral.sock"


class Service(Table):
    """The service itself."""

    state_dir: AbsolutePath = Field(
        default_factory=lambda: Path(default_state_dir()), examples=["/var/lib/corral"], validate_default=True
    )
    """The folder of all that is kept: the ledger of jobs, conversations, reports. Without it: the platform's folder
    for the state of the service's account (on Linux ~/.local/state/corral)."""
    engine: EngineName = registry.DEFAULT
    """The engine of people who name none."""
    socket: AbsolutePath | None = Field(default=None, examples=["/run/corral/corral.sock"])
    """The Unix socket at which `corral chat` and the operator's commands reach the service. Without it: `corral.sock`
    in the folder that systemd names in RUNTIME_DIRECTORY, else in state_dir."""
    shutdown: Seconds = seconds("20s")
    """The time in which the service ends with all that it runs. Keep it below what the service manager allows."""
    keep: Seconds = seconds("90d")
    """For how long history and reports are kept."""


class Timeouts(Table):
    """When a turn is stopped by itself."""

    silence: Seconds = seconds("10m")
    """A turn without a sign of life: words, thoughts, tools. Not counted while an approval is open."""
    tool: Seconds = seconds("30m")
    """A running tool counts as a sign of life for this long, however silent it is."""
    turn: Seconds = seconds("1h")
    """A turn altogether."""
    approval: Seconds = seconds("10m")
    """What the agent asks is declined when nobody has answered for this long."""

    def limits(self) -> Limits:
        """The same, as a backend takes it."""
        return Limits(silence=self.silence, tool=self.tool, turn=self.turn, approval=self.approval)


class Recycle(Table):
    """When a backend is ended between turns. The conversation stays, and the next message goes on with it."""

    idle: Seconds = seconds("30m")
    """A backend that nobody talks to for this long is ended."""
    age: Seconds = seconds("12h")
    """A backend this old is replaced by the next message."""
    background: YesOrNo = False
    """Whether a backend is ended for idleness also when its agent left something running in the background, for
    example a development server: that ends it too."""


class LadderTimes(Table):
    """How long each step of an ending may take, from the friendly to the last."""

    goodbye: Seconds = seconds("3s")
    """For the agent to stop its work and to end by itself."""
    grace: Seconds = seconds("5s")
    """From TERM to KILL."""
    kill: Seconds = seconds("10s")
    """For KILL, before what survives is reported."""


class PoolLimits(Table):
    """How much may run at once."""

    backends: Count = 32
    """Backends in all."""
    per_person: Count = 3
    """Backends of one person."""
    queue: CountOrNone = 10
    """Messages that may wait in a conversation while a turn runs."""


class _Engines(Table):
    """How the engines are started."""

    def settings(self, name: str) -> EngineSettings:
        """The table of one engine."""
        found = getattr(self, name)
        assert isinstance(found, EngineSettings)
        return found


if TYPE_CHECKING:
    Engines = _Engines
else:
    # A table for each engine, by its entry in the registry.
    Engines = create_model(
        "Engines",
        __base__=_Engines,
        __doc__=_Engines.__doc__,
        **{entry.name: (entry.settings, Field(default_factory=entry.settings)) for entry in registry.entries()},
    )


class Person(Table):
    """A person who may talk with an agent. Who has no such table gets nothing, and learns nothing."""

    name: Name
    """How the person is called in commands, lists and logs. No two people may have the same name."""
    os_user: Text | None = Field(default=None, examples=["daniel"])
    """The account of this machine that the person's agents run as, through sudo. Without it: the service's own."""
    telegram: Count | None = Field(default=None, examples=[123456789])
    """The person's number in Telegram. Without it the person cannot write from there."""
    engine: EngineName | None = Field(default=None, examples=[registry.names()[-1]])
    """The engine that the person begins with. Without it: that of [service]."""
    model: Text | None = Field(default=None, examples=["gpt-5-codex"])
    """The model that the person begins with. Without it: that of the engine."""
    effort: Text | None = Field(default=None, examples=["medium"])
    """The effort of reasoning that the person begins with. Without it: that of the engine."""
    workspace: Workspace = "~"
    """The folder that the person's agents work in. `~` is the home of os_user."""
    workspaces: dict[Name, Workspace] = Field(default_factory=dict, examples=[{"site": "~/projects/site"}])
    """More folders, by name, for the command /workspace."""
    backends: Count | None = Field(default=None, examples=[5])
    """How many backends the person may have at once. Without it: per_person of [pool]."""
    memory: Bytes | None = Field(default=None, examples=[4 * 2**30])
    """The memory that each process of the person's agents may allocate (RLIMIT_DATA). Without it: no limit."""
    processes: Count | None = Field(default=None, examples=[512])
    """How many processes and threads the account may have when an agent of the person's starts another (RLIMIT_NPROC,
    which the kernel counts over the whole account). Without it: no limit."""
    env: dict[Variable, ValueOfVariable] = Field(default_factory=dict, examples=[{"LANG": "C.UTF-8"}])
    """Variables for the person's agents. Nothing secret: this file is not the place for it, secrets is."""
    secrets: dict[Variable, AbsolutePath] = Field(
        default_factory=dict, examples=[{"OPENAI_API_KEY": "/etc/corral/daniel.key"}]
    )
    """Variables whose values are in files, one a file, for the person's agents. Each file belongs to the service's
    account, and nobody else may read it (mode 0600 or 0400)."""
    keep_env: tuple[KeptVariable, ...] = Field(default=(), examples=[["HTTPS_PROXY", "NO_PROXY"]])
    """Variables that are handed on from the service's own environment, for example for a proxy. No others are."""


class Config(Table):
    """All of it, as `load` reads it. The file is its only source: no variable of the environment may say who runs as
    whom."""

    path: Path | None = None
    """The file that it was read from."""
    service: Service = Field(default_factory=Service)
    timeouts: Timeouts = Field(default_factory=Timeouts)
    recycle: Recycle = Field(default_factory=Recycle)
    ladder: LadderTimes = Field(default_factory=LadderTimes)
    pool: PoolLimits = Field(default_factory=PoolLimits)
    engines: Engines = Field(default_factory=Engines)
    people: tuple[Person, ...] = ()

    @property
    def socket_path(self) -> Path:
        """Where the service listens."""
        if self.service.socket is not None:
            return self.service.socket
        # systemd separates several with colons.
        runtime = os.environ.get("RUNTIME_DIRECTORY", "").partition(":")[0]
        return Path(runtime or self.service.state_dir) / SOCKET

    @property
    def head_count(self) -> str:
        """How many people there are, in words."""
        return "1 person" if len(self.people) == 1 else f"{len(self.people)} people"

    def person(self, name: str) -> Person | None:
        """The person of this name."""
        return next((person for person in self.people if person.name == name), None)

    def engine_of(self, person: Person) -> str:
        """The engine that the person begins with."""
        return person.engine or self.service.engine
