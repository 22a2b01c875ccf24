"""Asking the person at the terminal for leave: the next line that is an answer answers the oldest question."""

from __future__ import annotations

import asyncio
from collections import deque

from corral.backends.events import ApprovalRequested, Decision

ANSWERS: dict[str, Decision] = {
    "y": "accept",
    "yes": "accept",
    "n": "decline",
    "no": "decline",
    "s": "accept_for_session",
    "session": "accept_for_session",
}


class Approver:
    """The open questions of one conversation."""

    def __init__(self) -> None:
        self._open: deque[asyncio.Future[Decision]] = deque()

    async def ask(self, _: ApprovalRequested) -> Decision:
        """Wait for the person's decision; the backend bounds it, and it shows the question as an event."""
        future: asyncio.Future[Decision] = asyncio.get_running_loop().create_future()
        self._open.append(future)
        try:
            return await future
        finally:
            if future in self._open:
                self._open.remove(future)

    @property
    def waiting(self) -> bool:
        """Whether a question is open."""
        return bool(self._open)

    def answer(self, line: str) -> bool:
        """Take a line for an answer, if a question is open and the line is one."""
        decision = ANSWERS.get(line.strip().lower())
        if decision is None or not self._open:
            return False
        future = self._open.popleft()
        if not future.done():
            future.set_result(decision)
        return True
