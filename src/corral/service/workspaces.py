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
    account_home: str = "/"
    """What `~/` stands for, as in the configuration: the home of the person's account."""

    def find(self, argument: str) -> str:
        """The folder that is meant: a name, or a path in one of the workspaces.

        A relative path is one of the first workspace, `~/` the home of the account.

        Raises ValueError with a sentence for any other.
        """
        if argument in self.named:
            return self.named[argument]
        if argument in ("", "default", "~"):
            return self.home
        first, _, rest = argument.partition("/")
        if first.startswith("~") and first != "~":
            raise ValueError(f"{first} is not a folder: write ~/FOLDER for one of your home, or the whole path")
        base, below = (self.account_home, rest.lstrip("/")) if first == "~" else (self.home, argument)
        path = posixpath.normpath(posixpath.join(base, below))
        for root in (self.home, *self.named.values()):
            if path == root or path.startswith(root.rstrip("/") + "/"):
                return path
        names = ", ".join(self.named) or "none are named"
        raise ValueError(f"{path} is in none of your workspaces ({self.home}; by name: {names})")
