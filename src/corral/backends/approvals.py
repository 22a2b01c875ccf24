"""What an engine asks a person: open until it is answered, withdrawn, or declined for lack of an answer."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from corral.backends.backend import Answer
from corral.backends.bounds import bounded
from corral.backends.events import ApprovalClosed, ApprovalRequested, Decision, Notice

if TYPE_CHECKING:
    from collections.abc import Sequence

    from corral.backends.turn import Turn

DECLINE = Answer("decline")


@dataclass(frozen=True, slots=True)
class _Open:
    turn: Turn
    approval: ApprovalRequested
    future: asyncio.Future[Answer]


class Approvals:
    """The open approvals of one backend."""

    def __init__(self) -> None:
        self._open: dict[str, _Open] = {}

    def __len__(self) -> int:
        return len(self._open)

    async def ask(self, turn: Turn | None, approval: ApprovalRequested) -> Answer:
        """Put the approval into the turn and wait for its answer, as long as the limits allow; then it is declined.

        Outside the person's turn nobody reads it, and it is declined at once. Cancelled, it is withdrawn.
        """
        kept = bounded(approval)
        if turn is None or turn.over or turn.id is None or not isinstance(kept, ApprovalRequested):
            return DECLINE
        approval = kept
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._open[approval.approval_id] = _Open(turn, approval, future)
        turn.put(approval)
        turn.pause_clock()
        timeout = turn.limits.approval
        decision: Decision | None = None
        try:
            async with asyncio.timeout(timeout):
                answer = await future
            decision = answer.decision
        except TimeoutError:
            turn.put(Notice(f"declined: nobody answered within {timeout:g} s: {approval.what}"))
            decision = "decline"
            return DECLINE
        else:
            return answer
        finally:
            if (one := self._open.get(approval.approval_id)) is not None and one.future is future:
                del self._open[approval.approval_id]
            turn.put(ApprovalClosed(approval.approval_id, decision))
            turn.resume_clock()

    def answer(self, approval_id: str, answer: Answer) -> bool:
        """Hand an answer to whoever waits for it; False if nobody does."""
        one = self._open.get(approval_id)
        if one is None or one.turn.over or one.future.done():
            return False
        one.future.set_result(Answer(_allowed(answer.decision, one.approval.decisions), answer.answers))
        return True

    def withdraw(self, turn: Turn) -> None:
        """The turn is over: the engine, should it still wait, is told no."""
        for one in self._open.values():
            if one.turn is turn and not one.future.done():
                one.future.set_result(DECLINE)


def _allowed(decision: Decision, offered: Sequence[Decision]) -> Decision:
    """The decision, or the nearest that was offered; never one that allows more."""
    if decision in offered:
        return decision
    return "accept" if decision == "accept_for_session" and "accept" in offered else "decline"
