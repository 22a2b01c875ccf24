"""The service's side of the socket: each connection is served as the account that the kernel says has made it."""

from __future__ import annotations

import asyncio
import errno
import os
import secrets
import socket
import stat
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog

from corral.backends.backend import Answer, Input
from corral.remote import transfers, wire
from corral.remote.peers import peer_uid
from corral.service import commands
from corral.service.conversation_ref import ConversationRef
from corral.service.front import to_json
from corral.service.front_end import FrontEndError
from corral.service.identity import Account
from corral.service.service import AccessError
from corral.tasks import Tasks

if TYPE_CHECKING:
    from corral.service.front import Shown, Welcome
    from corral.service.seats import LocalSeat
    from corral.service.service import Service

log = structlog.get_logger(__name__)

HELLO_TIMEOUT = 5.0  # seconds for the first line
STALL_TIMEOUT = 30.0  # seconds that a client may read nothing before it is disconnected
FLUSH_TIMEOUT = 2.0  # seconds for the last lines to be read
MOST_WAITING = 1 << 20  # bytes not yet read by a client, above which events wait in its queue
MOST_CONNECTIONS = 256
MOST_OF_ACCOUNT = 32
TOO_MANY = "too many chats are open at the service: end one, and try again"


async def start(service: Service) -> SocketServer:
    """Listen where the configuration says. Raises FrontEndError."""
    server = SocketServer(service, service.config.socket_path)
    await server.start()
    return server


class SocketServer:
    """Listens at a path until `close` (a corral.service.front_end.FrontEnd).

    Every account may connect: the kernel says which one it is, and the service decides whom it may act for.
    """

    def __init__(self, service: Service, path: Path) -> None:
        self._service = service
        self._path = path
        self._server: asyncio.Server | None = None
        self._connections = Tasks(_ended)
        self._of_account: Counter[Account] = Counter()
        self._clients: dict[str, _Client] = {}
        """Those with a seat, or on the way to one, by the name of the seat."""
        self._closed = asyncio.Event()

    async def start(self) -> None:
        """Begin to listen. A socket file that a dead service left is replaced. Raises FrontEndError."""
        try:
            await _make_way(self._path)
            self._server = await asyncio.start_unix_server(self._connected, self._path, limit=wire.MOST_CALL_BYTES)
            _open_to_everybody(self._path)
        except OSError as error:
            if self._server is not None:
                self._server.close()
            raise FrontEndError(
                f"cannot listen at {self._path}: {error.strerror or error}; choose another with [service] socket"
            ) from error

    def reloaded(self) -> None:
        """Nothing is kept here of the configuration: its path is read at the start only."""

    async def wait_closed(self) -> None:
        await self._closed.wait()

    async def close(self) -> None:
        """Listen no more, and let the connections end."""
        self._closed.set()
        if self._server is None:
            return
        with suppress(OSError):  # while it listens: afterwards the file may be another service's
            self._path.unlink()
        self._server.close()
        await self._connections.settle(FLUSH_TIMEOUT)

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # Decided at once, from a table: a stranger takes no place from others, and no thread.
        try:
            account = Account(peer_uid(writer.get_extra_info("socket")))
        except OSError:  # it has gone already
            writer.transport.abort()
            return
        if not self._service.access.people(account):
            log.warning("a connection was refused", uid=account.uid)
            writer.transport.abort()
        elif self._of_account[account] >= MOST_OF_ACCOUNT or len(self._connections) >= MOST_CONNECTIONS:
            log.warning("a connection was refused", uid=account.uid, connections=self._of_account[account])
            # With a reason, unlike a stranger: the account is known here, and can do something about it.
            writer.write(wire.encode({"event": "closed", "reason": TOO_MANY}))
            writer.close()
        else:
            self._of_account[account] += 1
            task = self._connections.own(self._serve(account, reader, writer))
            task.add_done_callback(lambda _: self._of_account.subtract((account,)))

    async def _serve(self, account: Account, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(HELLO_TIMEOUT):
                line = await reader.readline()
            if not line:  # a probe for a listening service
                return
            first = wire.first_decoder.decode(line)
            if isinstance(first, wire.PutFile | wire.GetFile):
                await self._hand_over(account, first, reader, writer)
                return
            client = _Client(self._service, account, reader, writer)
            self._clients[client.name] = client
            try:
                await client.serve(first)
            finally:
                del self._clients[client.name]
                client.seat.cancel()
        except (TimeoutError, ValueError, OSError) as error:  # msgspec's errors are ValueErrors
            log.warning("a connection was ended", error=str(error))
        except RecursionError:  # the decoder's, for what a client sent
            log.warning("a connection was ended", error="it is nested too deeply")
        finally:
            writer.close()
            try:
                async with asyncio.timeout(FLUSH_TIMEOUT):
                    await writer.wait_closed()
            except TimeoutError:  # a client that does not read would keep the descriptor, uncounted
                writer.transport.abort()
            except OSError:  # it is lost already; asyncio fails on aborting it then
                pass

    async def _hand_over(
        self,
        account: Account,
        first: wire.PutFile | wire.GetFile,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        client = self._clients.get(first.seat)
        if client is None or client.account != account:
            await transfers.refuse("there is no such seat any more", reader, writer)
            return
        # It is there a moment after the welcome.
        await asyncio.wait([client.seat], timeout=HELLO_TIMEOUT)
        if client.seat.done() and not client.seat.cancelled():
            await transfers.serve(client.seat.result(), first, reader, writer)


@dataclass(eq=False)
class _Client:
    """One connection (a corral.service.front.Front)."""

    service: Service
    account: Account
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    name: str = field(default_factory=lambda: secrets.token_hex(16))
    """Names its seat for the connections that carry files: only its client knows it."""
    seat: asyncio.Future[LocalSeat] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    gone: bool = False
    aborting: asyncio.TimerHandle | None = None
    """Ends the connection after `closed`, unless its end is seen before."""

    @property
    def people(self) -> tuple[str, ...]:
        """The people that it may act for."""
        return self.service.access.people(self.account)

    async def serve(self, first: wire.Hello | wire.EndPerson) -> None:
        """Answer the first line, then take calls until the client or the service ends it."""
        if isinstance(first, wire.EndPerson):
            await self._end_person(first.person)
            return
        person = first.person or (self.people[0] if len(self.people) == 1 else None)
        if person is None and not self.people:  # taken out of the configuration meanwhile
            return
        if person is None:
            # To nobody else: these are the people that this account may act for.
            self._write(
                {"event": "closed", "reason": f"say who you act for, with --person NAME: {', '.join(self.people)}"}
            )
            return
        try:
            self._check(person)
            ref = self._ref(person, first)
            seat = await self.service.seat(self.account, person, self, resume=first.resume, ref=ref, greet=self._greet)
        except AccessError:
            log.warning("a connection was refused", uid=self.account.uid, person=person)
            return
        except LookupError as error:
            self.closed(str(error.args[0]))
            self._stop_aborting()  # nothing is read any more: `_serve` bounds the rest
            return
        self.seat.set_result(seat)
        log.info("attached", person=person, uid=self.account.uid)
        try:
            await self._take_calls(seat)
        finally:
            self._stop_aborting()
            if not self.gone:
                seat.detach()
            await seat.settle(FLUSH_TIMEOUT)
            log.info("detached", person=person, uid=self.account.uid)

    # What the seat tells (corral.service.front.Front).

    def show(self, event: Shown) -> None:
        for line in wire.event_lines(event):
            self._write_line(line)

    async def ready(self) -> None:
        """Wait until the client has read most of it. One that does not read is disconnected, and its turn goes on."""
        try:
            async with asyncio.timeout(STALL_TIMEOUT):
                await self.writer.drain()
        except TimeoutError:
            self.writer.transport.abort()
        except OSError:  # it is lost already
            pass

    def idle(self) -> None:
        self._write({"event": "idle"})

    def closed(self, reason: str) -> None:
        self.gone = True
        self._write({"event": "closed", "reason": reason})
        self.writer.close()
        # Until it has read that, the client's end is not seen, and `_take_calls` waits for it.
        self.aborting = asyncio.get_running_loop().call_later(FLUSH_TIMEOUT, self.writer.transport.abort)

    # Internals.

    def _check(self, person: str) -> None:
        if person not in self.people:
            raise AccessError

    def _stop_aborting(self) -> None:
        if self.aborting is not None:
            self.aborting.cancel()

    def _ref(self, person: str, hello: wire.Hello) -> ConversationRef:
        """What a new conversation is about. Raises LookupError for an unknown engine or a bad model name."""
        engine = hello.engine or self.service.config.engine_of(self.service.person(person))
        if engine not in self.service.engines:
            raise LookupError(f"unknown engine {engine!r}: choose {', '.join(self.service.engines)}")
        if hello.model is not None and not commands.is_name(hello.model):
            raise LookupError(commands.NOT_A_NAME)
        return ConversationRef(person, engine, "", hello.model)

    def _greet(self, welcome: Welcome) -> None:
        self.writer.transport.set_write_buffer_limits(high=MOST_WAITING)
        self._write(wire.welcome_json(welcome, self.name))

    async def _take_calls(self, seat: LocalSeat) -> None:
        while not self.gone:
            await seat.caught_up()  # a client that asks must read the answers
            # One read may bring thousands of calls, and taking one that is buffered does not wait: yield to the others
            # between any two.
            await asyncio.sleep(0)
            line = await self._line()
            if line is None:
                seat.tell(f"not taken: a message may have at most {wire.MOST_CALL_BYTES >> 20} MB")
                continue
            if not line:
                return
            call = wire.call_decoder.decode(line)
            match call:
                case wire.Send(text=text):
                    seat.send(Input(text))
                case wire.Command(line=text):
                    seat.command(text)
                case wire.AnswerCall():
                    seat.answer(call.approval_id, Answer(call.decision, call.answers))
                case wire.Decline(approval_id=approval_id):
                    seat.decline(approval_id)
                case wire.Plain(name=name):
                    if name not in wire.PLAIN:
                        raise ValueError(f"unknown call {name!r}")
                    getattr(seat, name)()

    async def _line(self) -> bytes | None:
        """The next line; None for one that was too long and is dropped, and an empty one at the end."""
        whole = True
        while True:
            try:
                line = await self.reader.readuntil(b"\n")
            except asyncio.LimitOverrunError as error:
                whole = False
                await self.reader.readexactly(error.consumed)
            except asyncio.IncompleteReadError:
                return b""
            else:
                return line if whole else None

    async def _end_person(self, person: str) -> None:
        try:
            self._check(person)
            ended = await self.service.end_person(person)
        except AccessError:
            log.warning("a connection was refused", uid=self.account.uid, person=person)
            return
        self._write({"event": "done", "ended": [to_json(one) for one in ended]})

    def _write(self, message: dict[str, Any]) -> None:
        self._write_line(wire.line(message))

    def _write_line(self, line: bytes) -> None:
        if not self.writer.is_closing():
            self.writer.write(line)


def _open_to_everybody(path: Path) -> None:
    """Let every account connect; access is decided for each connection. Raises OSError.

    Not by the name: where others may write to the folder, it can be a link to any file of this account by now.
    """
    if os.chmod in os.supports_follow_symlinks:
        path.chmod(0o666, follow_symlinks=False)
        return
    descriptor = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if not stat.S_ISSOCK(os.fstat(descriptor).st_mode):
            raise OSError(errno.EBUSY, "something else was put in the place of the socket")
        Path(f"/proc/self/fd/{descriptor}").chmod(0o666)
    finally:
        os.close(descriptor)


def _ended(error: BaseException | None) -> None:
    if error is not None:
        log.error("a connection failed", exc_info=error)


async def _make_way(path: Path) -> None:
    """Remove the socket of a service that is dead. Raises OSError where another one listens, or another file is."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        kind = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(kind):
        raise FileExistsError(17, "a file that is not a socket is there")
    probe = socket.socket(socket.AF_UNIX)
    try:
        probe.settimeout(1.0)
        probe.connect(os.fspath(path))
    except ConnectionRefusedError:
        path.unlink()
    else:
        raise OSError(98, "another service listens there")
    finally:
        probe.close()
