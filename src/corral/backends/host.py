"""What an engine asks of the backend that reads it (corral.backends.engine.Host)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from corral.backends.bounds import NOTICE_LENGTH
from corral.backends.events import Notice, TurnEnded
from corral.backends.notices import Notices
from corral.backends.turn import DECLINE
from corral.printable import shortened

if TYPE_CHECKING:
    from corral.backends.backend import Answer
    from corral.backends.events import ApprovalRequested
    from corral.backends.turn import Turn


class BackendHost:
    """The `Host` of one engine process."""

    def __init__(self, turn: Callable[[], Turn | None], tell_operator: Callable[[str], None] | None) -> None:
        """`turn`: asked for the turn that runs. `tell_operator`: None where the person is the operator."""
        self.conversation = ""
        self._turn = turn
        self._tell_operator = tell_operator
        self._notices = Notices()

    @property
    def turn(self) -> Turn | None:
        turn = self._turn()
        return turn if turn is not None and not turn.over else None

    def remember(self, conversation: str) -> None:
        self.conversation = conversation

    def notice(self, message: str) -> None:
        message, turn = shortened(message, NOTICE_LENGTH), self.turn
        if self._notices.add(message, told=turn is not None) and turn is not None:
            turn.put(Notice(message))

    def notice_of_host(self, message: str) -> None:
        if self._tell_operator is not None:
            self._tell_operator(shortened(message, NOTICE_LENGTH))
        else:
            self.notice(message)

    async def ask(self, approval: ApprovalRequested) -> Answer:
        turn = self.turn
        return await turn.ask(approval) if turn is not None else DECLINE

    def fail_turn(self, reason: str) -> None:
        if self.turn is not None:
            self.turn.stop(TurnEnded("failed", reason))

    def untold(self, more: Iterable[str]) -> list[str]:
        """What was to be told between turns, or before the first, with what is new in `more`."""
        return self._notices.untold(more)
