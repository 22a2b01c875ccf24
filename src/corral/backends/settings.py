"""The settings that every engine has; an engine's own table adds its keys."""

from __future__ import annotations

from pydantic import Field

from corral.values.kinds import Approval, Command, Text
from corral.values.table import Table


class EngineSettings(Table):
    """How an engine is started."""

    command: Command = ()
    """The program, with its first arguments."""
    approval: Approval = "ask"
    """What the agent does where it needs permission: `ask` the person, or `never` ask and do only what it may."""
    model: Text | None = Field(default=None)
    """The model of people who name none. Without it: what the person set in the agent itself."""
    effort: Text | None = Field(default=None)
    """The effort of reasoning of people who name none. Without it: what the person set in the agent itself."""
