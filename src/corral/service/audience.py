"""The front ends that follow one conversation."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from corral.service.front import Follower, Shown


class Audience:
    """Tells all of them everything. It waits for none: each has a queue of its own."""

    def __init__(self) -> None:
        self.followers: list[Follower] = []

    def __len__(self) -> int:
        return len(self.followers)

    def join(self, follower: Follower) -> None:
        """Begin to follow."""
        if follower not in self.followers:
            self.followers.append(follower)

    def quit(self, follower: Follower) -> None:
        """Follow no more."""
        if follower in self.followers:
            self.followers.remove(follower)

    def show(self, event: Shown) -> None:
        """Show it to all."""
        for follower in list(self.followers):
            follower.show(event)

    def idle(self) -> None:
        """Tell all that nothing is to be done."""
        for follower in list(self.followers):
            follower.idle()

    def closed(self, reason: str) -> None:
        """Tell all that it is over."""
        for follower in list(self.followers):
            follower.closed(reason)
        self.followers.clear()
