"""Which folders a person may have a conversation in, by name or by path."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Workspaces:
    """One person's. Paths are compared as text: the folders may be closed to the service's account.

    It is a matter of order and not of safety: the agent goes wherever its account may.
    """

    home: str
    """The person's own workspace, absolute."""
    named: Mapping[str, str]
    """Others that the operator has named, absolute."""

    def find(self, argument: str) -> str:
        """The folder that is meant: a name, or a path in one of the workspaces (a relative one in the first).

        Raises ValueError with a sentence for any other.
        """
        if argument in self.named:
            return self.named[argument]
        if argument in ("", "default", "~"):
            return self.home
        path = posixpath.normpath(posixpath.join(self.home, argument))
        for root in (self.home, *self.named.values()):
            if path == root or path.startswith(root.rstrip("/") + "/"):
                return path
        names = ", ".join(self.named) or "none are named"
        raise ValueError(f"{path} is in none of your workspaces ({self.home}; by name: {names})")
