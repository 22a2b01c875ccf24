"""The first words with codex: who we are, and which conversation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec

import corral
from corral.backends.codex import wire
from corral.backends.errors import BackendError, RequestError, ResumeError
from corral.backends.rpc import RpcConnection

OPEN_TIMEOUT = 60.0  # seconds for each of the requests
# Sent for every word or byte, and of no use here.
UNUSED_NOTIFICATIONS = (
    "command/exec/outputDelta",
    "item/commandExecution/outputDelta",
    "item/fileChange/outputDelta",
    "item/reasoning/summaryTextDelta",
    "item/reasoning/textDelta",
    "turn/diff/updated",
)


@dataclass(frozen=True, slots=True)
class ThreadSettings:
    """What a conversation is opened with; `cwd` is its workspace."""

    cwd: str
    model: str | None
    approval_policy: str
    sandbox: str

    def params(self) -> dict[str, Any]:
        """As codex names them."""
        params = {"cwd": self.cwd, "approvalPolicy": self.approval_policy, "sandbox": self.sandbox}
        return params if self.model is None else {**params, "model": self.model}


async def open_thread(rpc: RpcConnection, resume: str | None, settings: ThreadSettings) -> wire.ThreadOpened:
    """Introduce the client, then start a conversation or go on with one.

    Raises ResumeError, BackendError, and what `RpcConnection.request` raises.
    """
    client = {"name": "corral", "title": "Corral", "version": corral.__version__}
    # experimentalApi: thread/backgroundTerminals/clean is part of it.
    capabilities = {"experimentalApi": True, "optOutNotificationMethods": list(UNUSED_NOTIFICATIONS)}
    await rpc.request("initialize", {"clientInfo": client, "capabilities": capabilities}, timeout=OPEN_TIMEOUT)
    await rpc.notify("initialized")
    if resume is None:
        result = await rpc.request("thread/start", settings.params(), timeout=OPEN_TIMEOUT)
    else:
        params = {"threadId": resume, "excludeTurns": True, **settings.params()}
        try:
            result = await rpc.request("thread/resume", params, timeout=OPEN_TIMEOUT)
        except RequestError as error:
            raise ResumeError(f"codex cannot go on with the conversation {resume}: {error.reason}") from error
    try:
        return msgspec.json.decode(result, type=wire.ThreadOpened)
    except msgspec.DecodeError as error:
        raise BackendError(f"codex opened a conversation in words not known here: {error}") from error
