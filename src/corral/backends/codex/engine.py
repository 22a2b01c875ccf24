"""The wire of one `codex app-server`: JSON-RPC in, a turn's events out."""

from __future__ import annotations

import logging
import re
import uuid
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec

import corral
from corral.backends.codex import limits, requests, wire
from corral.backends.codex.turn_reader import MOST_EARLY, TurnReader
from corral.backends.engine import Opened, check_effort
from corral.backends.errors import BackendError, RefusedError, RequestError, ResumeError
from corral.backends.peer import OPENING_TIMEOUT, Skipped, decode_reply
from corral.backends.rpc import MOST_NAME, RequestId, RpcConnection

if TYPE_CHECKING:
    import asyncio

    from corral.backends.attachments import Message
    from corral.backends.backend import Choices
    from corral.backends.engine import Host, Opening
    from corral.backends.turn import Turn

log = logging.getLogger(__name__)

OF_HOST = "bubblewrap"
"""In a warning that is the operator's: codex has it with every start where the host has no bubblewrap."""
WARNINGS = ("warning", "guardianWarning", "configWarning", "deprecationNotice")
# What codex says of a thread that it does not know, or whose file is damaged (0.125 to 0.171).
UNKNOWN_CONVERSATION = ("no rollout found", "invalid thread id", "invalid session id")
DAMAGED_CONVERSATION = ("failed to read thread", "failed to read session metadata", "failed to load rollout")
# A file that cannot be read now may be readable later: a permission, a full table of descriptors. A folder stays one.
PASSING_FAULT = re.compile(r"\(os error (?!21\))")
MOST_REASON = 300  # characters of a refusal; codex names the file several times, and the cause last
INTERRUPT_ANSWER = 1.0  # seconds
# Of no use here, and sent for every change of a file.
UNUSED_NOTIFICATIONS = ("command/exec/outputDelta", "item/fileChange/outputDelta", "turn/diff/updated")


class CodexEngine:
    """An `Engine` (corral.backends.engine), and the `Handler` of its connection."""

    def __init__(
        self,
        settings: Mapping[str, Any],
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        host: Host,
    ) -> None:
        self._settings = settings
        self._host = host
        self._rpc = RpcConnection(reader, writer, self)
        self._thread = ""
        self._nonce = uuid.uuid4().hex[:12]
        self._efforts: set[str] | None = None
        self._turn_reader: TurnReader | None = None
        self._skipped = Skipped()

    @property
    def at_work(self) -> bool:
        return False

    async def read(self) -> None:
        await self._rpc.run()

    async def open(self, opening: Opening) -> Opened:
        client = {"name": "corral", "title": "Corral", "version": corral.__version__}
        # experimentalApi: thread/backgroundTerminals/clean is part of it.
        capabilities = {"experimentalApi": True, "optOutNotificationMethods": list(UNUSED_NOTIFICATIONS)}
        try:
            params = {"clientInfo": client, "capabilities": capabilities}
            await self._rpc.request("initialize", params, timeout=OPENING_TIMEOUT)
            await self._rpc.notify("initialized")
            opened = await self._open_thread(opening)
        except RequestError as error:
            raise BackendError(f"codex did not start: {error}") from error
        self._thread = opened.thread.id
        return Opened(opened.thread.id, opened.model)

    async def begin(self, turn: Turn, message: Message, choices: Choices) -> None:
        if choices.effort is not None:
            await self._check_effort(choices.effort)
        if turn.stopped:
            raise RefusedError("it was stopped before it was handed over")
        # Before the reply names the turn, what follows it may have come already: the turn_reader keeps it.
        counted = self._turn_reader.counted if self._turn_reader is not None else 0
        turn_reader = self._turn_reader = TurnReader(self._thread, turn, counted)
        named = (("model", choices.model), ("effort", choices.effort))
        chosen = {name: value for name, value in named if value is not None}
        try:
            result = await self._rpc.request(
                "turn/start", {"threadId": self._thread, "input": _as_input(message), **chosen}
            )
        except RequestError as error:
            raise RefusedError(f"codex did not take the message: {error.reason} ({error.code})") from error
        turn_reader.begin(decode_reply("codex", result, wire.TurnNote).turn.id)
        # Before its first turn a conversation is not written down, and cannot be gone on with.
        self._host.remember(self._thread)

    async def steer(self, turn: Turn, message: Message) -> bool:
        params = {"threadId": self._thread, "expectedTurnId": turn.id, "input": _as_input(message)}
        try:
            await self._rpc.request("turn/steer", params)
        except RequestError as error:
            log.info("codex would not be steered: %s", error)
            return False
        return True

    async def interrupt(self, turn: Turn | None) -> None:
        if turn is None or turn.id is None:
            return
        try:
            params = {"threadId": self._thread, "turnId": turn.id}
            await self._rpc.request("turn/interrupt", params, timeout=INTERRUPT_ANSWER)
        except (RequestError, TimeoutError) as error:
            # Between its answer to turn/start and turn/started codex knows "no active turn" to interrupt; 0.125 then
            # gives no answer at all.
            log.debug("turn/interrupt: %r", error)

    async def stop_background_work(self, *, everything: bool) -> None:  # noqa: ARG002 - codex cleans all of the conversation's
        if self._thread and not self._rpc.peer.ended:
            await self._rpc.request("thread/backgroundTerminals/clean", {"threadId": self._thread})

    def close(self) -> None:
        self._rpc.peer.close()

    async def settle(self, timeout: float) -> None:
        await self._rpc.peer.finish(timeout)

    # What codex sends by itself (corral.backends.rpc.Handler).

    def on_notification(self, method: str, params: msgspec.Raw, line: bytes) -> None:
        """Sort it; a message that is not as expected is logged and skipped."""
        try:
            if method in WARNINGS:
                warned = msgspec.json.decode(params, type=wire.Warned)
                said = " ".join(part for part in (warned.message, warned.summary, warned.details) if part)
                if OF_HOST in said.lower():
                    self._host.notice_of_host(said)
                else:
                    self._host.notice(said)
            elif method == "serverRequest/resolved":
                self._rpc.peer.drop(msgspec.json.decode(params, type=wire.Resolved).request_id)
            elif method == "account/rateLimits/updated":
                for warning in limits.warnings(msgspec.json.decode(params, type=wire.RateLimitsNote)):
                    self._host.notice(warning)
            elif self._turn_reader is not None and not self._turn_reader.take(method, params, line):
                self.on_lost(f"more than {MOST_EARLY:,} bytes before it named the turn")
        except (ValueError, OverflowError, RecursionError) as error:
            self._skipped.note("a %s that is not as expected: %s", method[:MOST_NAME], error)

    def on_lost(self, why: str) -> None:
        self._host.fail_turn(f"codex wrote {why}")

    async def on_request(self, request_id: RequestId, method: str, params: msgspec.Raw) -> object:
        title_of = self._turn_reader.title_of if self._turn_reader is not None else str
        # Codex counts from 0 in every process: a late answer to an earlier one must not fit.
        key = f"{self._nonce}-{request_id!r}"
        return await requests.answer(key, method, params, self._host, title_of)

    async def _check_effort(self, effort: str) -> None:
        """From 0.140 on codex hands any word on to the model. Raises RefusedError."""
        if self._efforts is None:
            try:
                models = decode_reply("codex", await self._rpc.request("model/list", {}), wire.ModelList).data
            except RequestError as error:
                log.info("codex does not list its models: %s", error)
                models = []
            self._efforts = {one.reasoning_effort for model in models for one in model.supported_reasoning_efforts}
        check_effort("codex", effort, self._efforts)

    async def _open_thread(self, opening: Opening) -> wire.ThreadOpened:
        params = {"cwd": opening.workspace, **self._settings}
        if opening.conversation is None:
            return decode_reply(
                "codex", await self._rpc.request("thread/start", params, timeout=OPENING_TIMEOUT), wire.ThreadOpened
            )
        params = {"threadId": opening.conversation, "excludeTurns": True, **params}
        try:
            return decode_reply(
                "codex", await self._rpc.request("thread/resume", params, timeout=OPENING_TIMEOUT), wire.ThreadOpened
            )
        except RequestError as error:
            cause = error.reason if len(error.reason) <= MOST_REASON else f"…{error.reason[-MOST_REASON:]}"
            reason = f"codex cannot go on with the conversation {opening.conversation}: {cause}"
            raise (ResumeError if _is_lost(error.reason) else BackendError)(reason) from error


def _is_lost(reason: str) -> bool:
    """Whether no later try can go on with the conversation."""
    if any(words in reason for words in UNKNOWN_CONVERSATION):
        return True
    return any(words in reason for words in DAMAGED_CONVERSATION) and PASSING_FAULT.search(reason) is None


def _as_input(message: Message) -> list[dict[str, Any]]:
    images = [{"type": "image", "url": f"data:{image.media_type};base64,{image.data}"} for image in message.images]
    return [{"type": "text", "text": message.text}, *images]
