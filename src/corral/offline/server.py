"""The server: it listens on the loopback, plays the script to whoever asks, and keeps what it was asked."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from corral.offline import http, messages, responses
from corral.offline.script import Place, Script, Step
from corral.tasks import Tasks

log = logging.getLogger(__name__)

KEPT_REQUESTS = 1000
CLOSE_TIMEOUT = 5.0  # seconds


@dataclass(frozen=True, slots=True)
class Seen:
    """A request that the model answered: the person's last message, and the tool outputs since."""

    path: str
    headers: Mapping[str, str]
    body: Mapping[str, Any]
    message: str
    results: tuple[str, ...]


class OfflineModel:
    """A scripted model on the loopback: `async with OfflineModel(script) as model: … model.base_url`.

    The Responses API (`POST /responses`, `GET /models`) and the Messages API (`POST /messages`) are served below
    `base_url`; another API is one more module beside these and one more line in `_answer`. Raises OSError from `start`
    where it cannot listen.
    """

    def __init__(self, script: Script | None = None, *, host: str = "127.0.0.1", port: int = 0) -> None:
        self.script = script if script is not None else Script()
        self.requests: deque[Seen] = deque(maxlen=KEPT_REQUESTS)
        self._host = host
        self._port = port
        self._server: asyncio.Server | None = None
        self._connections = Tasks(_log_fault)
        self._changed = asyncio.Condition()
        self._asked: Counter[Place] = Counter()

    @property
    def base_url(self) -> str:
        """The root of the API, for example `http://127.0.0.1:40123/v1`."""
        if self._server is None:
            raise RuntimeError("the offline model is not listening: use `async with` or `await start()`")
        return f"http://{self._host}:{self._server.sockets[0].getsockname()[1]}/v1"

    async def start(self) -> None:
        """Listen; OSError where the port is taken."""
        self._server = await asyncio.start_server(self._accept, self._host, self._port, limit=http.MAX_HEAD)

    async def close(self) -> None:
        """Stop listening, and hang up on whoever is being answered."""
        if self._server is None:
            return
        self._server.close()
        self._connections.cancel()
        await self._connections.settle(CLOSE_TIMEOUT)
        self._server = None

    async def seen(self, predicate: Callable[[Seen], bool], *, timeout: float = 10.0) -> Seen:
        """Wait for a request, TimeoutError after `timeout` seconds; one that came before counts."""
        async with asyncio.timeout(timeout), self._changed:
            while True:
                for request in self.requests:
                    if predicate(request):
                        return request
                await self._changed.wait()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections.own(self._serve(reader, writer))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            request = await http.read_request(reader)
            if request is not None:
                await self._answer(request, reader, writer)
        except http.BadRequest as error:
            await _refuse(writer, error.status, str(error))
        except (http.HungUp, TimeoutError):
            log.debug("an agent hung up, or sent nothing for too long")
        finally:
            writer.close()

    async def _answer(self, request: http.Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        match request.method, request.path:
            case "POST", "/v1/responses":
                body = request.json()
                place = responses.read_place(body)
                steps = await self._steps(request, body, place)
                await responses.stream_answer(reader, writer, body, place, steps)
            case "POST", "/v1/messages":
                body = request.json()
                place = messages.read_place(body)
                steps = messages.aside(body) or await self._steps(request, body, place)
                await messages.send_answer(reader, writer, body, place, steps)
            case "POST", "/v1/messages/count_tokens":
                await http.send_json(writer, 200, messages.count_tokens(request.json()))
            case "HEAD", _:
                # Claude Code asks for /api/hello, only to see whether anybody is there.
                await http.send_head(writer)
            case "GET", "/v1/models":
                # `models` is Codex's own list, which would take the place of what it knows: leave it empty.
                await http.send_json(writer, 200, {"object": "list", "data": [], "models": []})
            case method, path:
                raise http.BadRequest(404, f"the offline model does not serve {method} {path}")

    async def _steps(self, request: http.Request, body: Mapping[str, Any], place: Place) -> tuple[Step, ...]:
        """Keep the request, and find what the script says to it."""
        steps = self.script.answer(place, self._asked[place])
        self._asked[place] += 1
        await self._record(request, body, place)
        return steps

    async def _record(self, request: http.Request, body: Mapping[str, Any], place: Place) -> None:
        message = place.messages[-1] if place.messages else ""
        async with self._changed:
            self.requests.append(Seen(request.path, request.headers, body, message, place.results))
            self._changed.notify_all()


async def _refuse(writer: asyncio.StreamWriter, status: int, message: str) -> None:
    try:
        await http.send_json(writer, status, messages.error_body(status, message))
    except http.HungUp:
        log.debug("an agent hung up before it was refused")


def _log_fault(error: BaseException | None) -> None:
    if error is not None:
        log.error("the answer to a request failed", exc_info=error)
