"""What the daemon asks of a front end: one package with `start(service)`, in the list of `corral.daemon.front_ends`."""

from __future__ import annotations

from typing import Protocol


class FrontEndError(Exception):
    """A front end cannot start; the message says why and what to do."""


class FrontEnd(Protocol):
    """What `start(service)` returns: a front end that serves people until `close`.

    For each person it asks the service for a seat (`Service.seat`), with the identity that it has authenticated. Each
    seat has a bounded queue of its own (`corral.service.front_queue`), so that no front end delays another.

    `start` raises FrontEndError where it cannot serve; everything else that it raises is a fault.
    """

    def reloaded(self) -> None:
        """Called when the service has another configuration; its seats were rechecked already. It must not wait."""

    async def wait_closed(self) -> None:
        """Wait until it is closed. Raises what ended it before `close` was called."""

    async def close(self) -> None:
        """Stop serving, and let go of everything. Called once, also after `wait_closed` has raised."""
