"""The wire of one claude: stream-json in, a turn's events out."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import msgspec

from corral.backends.claude import permissions, wire
from corral.backends.claude.control import ControlConnection
from corral.backends.claude.turn_reader import TELLS_OF_MESSAGES, TurnReader
from corral.backends.engine import Opened, check_effort
from corral.backends.errors import BackendError, RefusedError
from corral.backends.numbers import moment
from corral.backends.peer import OPENING_TIMEOUT, decode_reply

if TYPE_CHECKING:
    import asyncio

    from corral.backends.attachments import Message
    from corral.backends.backend import Choices
    from corral.backends.engine import Host, Opening
    from corral.backends.turn import Turn

log = logging.getLogger(__name__)

TELL_FROM = ("allowed_warning", "rejected")  # the states of a rate limit that matter
NOTE_LENGTH = 500  # characters of what claude said in a turn that it began itself


class ClaudeEngine:
    """An `Engine` (corral.backends.engine), and the `Handler` of its connection."""

    def __init__(self, model: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, host: Host) -> None:
        self._host = host
        self._connection = ControlConnection(reader, writer, self)
        self._known = wire.Initialized()
        self._model = model
        self._chosen: dict[str, str] = {}
        self._session = ""
        self._tells_of_messages = False
        self._at_work = False
        self._turn_reader: TurnReader | None = None
        self._tasks: set[str] = set()
        self._earlier_tasks: set[str] = set()

    @property
    def at_work(self) -> bool:
        return self._at_work

    async def read(self) -> None:
        await self._connection.run()

    async def open(self, opening: Opening) -> Opened:
        try:
            self._known = decode_reply(
                "claude", await self._connection.request("initialize", OPENING_TIMEOUT, hooks=None), wire.Initialized
            )
        except RefusedError as error:
            raise BackendError(f"claude did not start: {error}") from error
        # Claude names the session of a new conversation with its first turn.
        return Opened(opening.conversation or "", self._model)

    async def begin(self, turn: Turn, message: Message, choices: Choices) -> None:
        if choices.effort is not None:
            check_effort("claude", choices.effort, {level for one in self._known.models for level in one.efforts})
        if choices.model is not None:
            await self._choose("model", choices.model, "set_model", model=choices.model)
        if choices.effort is not None:
            settings = {"effortLevel": choices.effort}
            await self._choose("effort", choices.effort, "apply_flag_settings", settings=settings)
        if turn.stopped:
            raise RefusedError("it was stopped before it was handed over")
        self._earlier_tasks = set(self._tasks)
        turn_reader = self._turn_reader = TurnReader(turn)
        await self._connection.say(turn_reader.message_id, _as_content(message))

    async def steer(self, turn: Turn, message: Message) -> bool:  # noqa: ARG002 - there is one turn at a time
        if self._turn_reader is None or not self._tells_of_messages:
            return False  # which turn answers the message would not be known
        message_id = self._turn_reader.add()
        try:
            await self._connection.say(message_id, _as_content(message))
        except BaseException:
            self._turn_reader.forget(message_id)
            raise
        return True

    async def interrupt(self, turn: Turn | None) -> None:  # noqa: ARG002 - there is one turn at a time
        try:
            await self._connection.request("interrupt", cancel_queued=True)
        except RefusedError as error:
            log.debug("interrupt: %s", error)

    async def stop_background_work(self, *, everything: bool) -> None:
        """Stop the commands in the background, which an interrupt does not touch."""
        for task in self._tasks - (set() if everything else self._earlier_tasks):
            try:
                await self._connection.request("stop_task", task_id=task)
            except RefusedError as error:
                log.info("a task in the background was not stopped: %s", error)

    def close(self) -> None:
        self._connection.peer.close()

    async def settle(self, timeout: float) -> None:
        await self._connection.peer.finish(timeout)

    # What claude sends by itself (corral.backends.claude.control.Handler).

    def on_line(self, head: wire.Head, line: bytes) -> None:
        """Sort it."""
        # Claude writes a conversation down once its model answers: before, it cannot be gone on with.
        if head.type in ("stream_event", "result") and self._session not in ("", self._host.conversation):
            self._host.remember(self._session)
        match head.type, head.subtype:
            case "system", "init":
                init = msgspec.json.decode(line, type=wire.Init)
                self._session, self._at_work = init.session_id, True
                self._tells_of_messages = TELLS_OF_MESSAGES in init.capabilities
            case "system", "background_tasks_changed":
                self._tasks = {task.task_id for task in msgspec.json.decode(line, type=wire.Tasks).tasks}
            case "rate_limit_event", _:
                self._on_rate_limit(msgspec.json.decode(line, type=wire.RateLimitLine).rate_limit_info)
            case "result", _:
                self._at_work = False
                self._on_result(_read_result(line))
        if self._turn_reader is not None:
            self._turn_reader.take(head, line)

    def on_lost(self, why: str) -> None:
        self._host.fail_turn(f"claude wrote {why}")

    async def on_request(self, request_id: str, request: msgspec.Raw) -> object:
        declined = self._turn_reader.declined if self._turn_reader is not None else set()
        return await permissions.answer(request_id, request, self._host, declined)

    async def _choose(self, what: str, value: str, subtype: str, **fields: Any) -> None:
        if self._chosen.get(what) != value:
            await self._connection.request(subtype, **fields)
            self._chosen[what] = value

    def _on_result(self, result: wire.Result) -> None:
        turn = self._host.turn
        if result.origin is not None and result.result and (turn is None or turn.over or turn.id is None):
            self._host.notice(f"meanwhile claude said: {result.result[:NOTE_LENGTH]}")
        if self._turn_reader is not None:
            self._turn_reader.finish(result)

    def _on_rate_limit(self, limit: wire.RateLimit) -> None:
        if limit.status not in TELL_FROM:
            return
        which = f" ({limit.kind})" if limit.kind else ""
        what = "is used up" if limit.status == "rejected" else "is nearly used up"
        when = moment(limit.resets_at)
        again = f"; it begins anew at {when}" if when else ""
        self._host.notice(f"claude: the account's limit{which} {what}{again}")


def _read_result(line: bytes) -> wire.Result:
    """The end of a turn, whatever has become of what does not end it."""
    try:
        return msgspec.json.decode(line, type=wire.Result)
    except msgspec.DecodeError as error:
        log.warning("a result is not as expected: %s", error)
        end = msgspec.json.decode(line, type=wire.ResultEnd)
        return wire.Result(
            is_error=end.is_error, result=end.result, user_message_uuids=end.user_message_uuids, origin=end.origin
        )


def _as_content(message: Message) -> str | list[dict[str, Any]]:
    if not message.images:
        return message.text
    images = [
        {"type": "image", "source": {"type": "base64", "media_type": image.media_type, "data": image.data}}
        for image in message.images
    ]
    return [*images, {"type": "text", "text": message.text}]
