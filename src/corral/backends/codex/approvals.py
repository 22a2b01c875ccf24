"""Asking for leave: the policy decides, within a bound, and whatever goes wrong is a no."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING

from corral.backends.events import ApprovalRequested, Decision, Notice

if TYPE_CHECKING:
    from corral.backends.codex.requests import Approve, Emit

log = logging.getLogger(__name__)


class Approvals:
    """The approvals of one backend: how many are open, and when the last was closed (`time.monotonic`)."""

    def __init__(self, approve: Approve, timeout: float, emit: Emit) -> None:
        self.open = 0
        self.last_closed = 0.0
        self._approve = approve
        self._timeout = timeout
        self._emit = emit

    async def ask(self, approval: ApprovalRequested) -> Decision:
        """The policy's decision; `decline` if it fails, or has none in time."""
        self._emit(approval)
        self.open += 1
        try:
            async with asyncio.timeout(self._timeout):
                return await self._approve(approval)
        except TimeoutError:
            self._emit(Notice(f"declined, for nobody answered in {self._timeout:g} s: {approval.what}"))
            return "decline"
        except Exception:  # a policy's fault must not leave codex waiting, nor allow anything
            log.exception("the approval policy failed; declined: %s", approval.what)
            return "decline"
        finally:
            self.open -= 1
            self.last_closed = time.monotonic()
