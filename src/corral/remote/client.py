"""A terminal's side of the socket: a seat whose calls go over it, and whose events come from it."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterable, AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from corral.remote import wire
from corral.service.files import MOST_BYTES, STALL_TIMEOUT, TIMEOUT, FileOut, FilesError, send_and_answer
from corral.service.files_as_account import PIECE, PIECE_BYTES

if TYPE_CHECKING:
    from corral.backends.backend import Answer, Input
    from corral.service.front import Front, Welcome

CONNECT_TIMEOUT = 5.0  # seconds
CONNECT_PAUSE = 0.01  # seconds between two tries at a service whose backlog is full
# Seconds for the welcome. A conversation that is just being ended is waited for, and that takes a ladder.
WELCOME_TIMEOUT = 60.0
END_TIMEOUT = 120.0  # seconds for all of a person's backends to be ended
GONE = "the service is gone: what it ran is ended by its reapers"
LET_GO = "the service has let go of this chat: `corral chat --resume` takes up the conversation again"


class NoServiceError(Exception):
    """No service listens there."""


class RefusedError(Exception):
    """The service refused, with a reason, or did not answer in time."""


class NotServedError(RefusedError):
    """The service closed the connection without an answer, as it does for accounts that it does not serve."""


class AttachedSeat:
    """A `corral.service.front.Seat` at a running service."""

    def __init__(
        self, path: Path, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, welcome: Welcome, name: str
    ) -> None:
        """`name`: the service's for this seat, for connections that carry files."""
        self._path = path
        self._reader = reader
        self._writer = writer
        self._welcome = welcome
        self._name = name
        self._over = False

    @classmethod
    async def open(cls, path: Path, hello: wire.Hello) -> AttachedSeat:
        """Connect and say hello. Raises NoServiceError, RefusedError."""
        reader, writer = await _connect(path)
        try:
            first = await _ask(reader, writer, hello, WELCOME_TIMEOUT)
            if first.get("event") == "closed":
                raise RefusedError(str(first.get("reason")))
            return cls(path, reader, writer, wire.welcome_from(first), str(first.get("seat", "")))
        except BaseException:
            writer.close()
            raise

    async def read(self, front: Front) -> None:
        """Hand on what the service tells, until it says that this seat is closed, or is gone itself."""
        try:
            while line := await self._reader.readline():
                data = msgspec.json.decode(line)
                match data.get("event"):
                    case "idle":
                        front.idle()
                    case "closed":
                        self._over = True
                        front.closed(str(data.get("reason", "")))
                        return
                    case _:
                        front.show(wire.event_from(data))
                        await front.ready()
        except (ValueError, KeyError, TypeError) as error:
            front.closed(f"the service was not understood: {error}")
        except OSError:  # it was lost while something was being sent
            await self._tell_of_the_end(front)
        except Exception as error:
            front.closed(f"a fault in this chat: {error!r}")
            raise
        else:
            await self._tell_of_the_end(front)
        finally:
            self._over = True
            self._writer.close()

    @property
    def welcome(self) -> Welcome:
        return self._welcome

    def send(self, message: Input) -> None:
        self._call(wire.Send(message.text))

    def command(self, line: str) -> None:
        self._call(wire.Command(line))

    def answer(self, approval_id: str, answer: Answer) -> None:
        answers = {question: list(given) for question, given in answer.answers.items()}
        self._call(wire.AnswerCall(approval_id, answer.decision, answers))

    def decline(self, approval_id: str) -> None:
        self._call(wire.Decline(approval_id))

    def interrupt(self) -> None:
        self._call(wire.Plain("interrupt"))

    def finish(self) -> None:
        self._call(wire.Plain("finish"))

    def leave(self) -> None:
        self._call(wire.Plain("leave"))

    def hurry(self) -> None:
        self._call(wire.Plain("hurry"))

    async def put_file(self, name: str, pieces: AsyncIterable[bytes]) -> str:
        """Hand a file to the person's account; its path in the workspace. Raises FilesError, and what `pieces` does."""
        async with self._file_connection(wire.PutFile(self._name, name)) as (reader, writer):
            answer = await send_and_answer(_send_pieces(writer, pieces), _file_answer(reader, TIMEOUT))
            return str(answer["path"])

    @asynccontextmanager
    async def get_file(self, path: str, *, most: int = MOST_BYTES) -> AsyncIterator[FileOut]:
        """A file from inside the workspace, at most `most` bytes. Raises FilesError."""
        async with self._file_connection(wire.GetFile(self._name, path, most)) as (reader, _):
            answer = await _file_answer(reader, STALL_TIMEOUT)
            yield FileOut(str(answer["name"]), int(answer["size"]), _file_pieces(reader, int(answer["size"])))

    def detach(self) -> None:
        self._over = True
        self._writer.close()

    @asynccontextmanager
    async def _file_connection(
        self, first: wire.PutFile | wire.GetFile
    ) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        try:
            reader, writer = await _connect(self._path)
        except (NoServiceError, RefusedError) as error:
            raise FilesError(str(error)) from error
        try:
            writer.write(wire.encode(first))
            yield reader, writer
        finally:
            writer.transport.abort()

    async def _tell_of_the_end(self, front: Front) -> None:
        """Find out whether the service has died, or lives and has dropped this connection."""
        if self._over:
            return  # closed from this end
        self._over = True
        try:
            _, writer = await _connect(self._path)
        except NoServiceError:
            front.closed(GONE)
        except RefusedError:
            front.closed(LET_GO)
        else:
            writer.close()
            front.closed(LET_GO)

    def _call(self, call: wire.Call) -> None:
        if not self._over and not self._writer.is_closing():
            self._writer.write(wire.encode(call))


async def end_person(path: Path, person: str) -> list[dict[str, Any]]:
    """Have the service end all backends of a person; their `backend_ended` events.

    Raises NoServiceError, RefusedError.
    """
    reader, writer = await _connect(path)
    try:
        answer = await _ask(reader, writer, wire.EndPerson(person), END_TIMEOUT)
    except NotServedError:
        raise RefusedError(f"the service has nobody called {person!r} whose agents this account may end") from None
    finally:
        writer.close()
    if answer.get("event") == "closed":
        raise RefusedError(str(answer.get("reason")))
    return list(answer["ended"])


async def _send_pieces(writer: asyncio.StreamWriter, pieces: AsyncIterable[bytes]) -> None:
    async for data in pieces:
        try:
            for start in range(0, len(data), PIECE_BYTES):
                part = data[start : start + PIECE_BYTES]
                writer.write(PIECE.pack(len(part)) + part)
                async with asyncio.timeout(STALL_TIMEOUT):
                    await writer.drain()
        except TimeoutError:
            raise FilesError(f"the service took nothing for {STALL_TIMEOUT:g} s") from None
        except OSError:
            return  # it takes no more: its answer says why
    writer.write(PIECE.pack(0))


async def _file_answer(reader: asyncio.StreamReader, within: float) -> dict[str, Any]:
    """The service's answer. Raises FilesError for a refusal, or where there is none."""
    line = b""
    with suppress(OSError):  # a TimeoutError too
        async with asyncio.timeout(within):
            line = await reader.readline()
    if not line:
        raise FilesError("the service has dropped the transfer")
    answer: dict[str, Any] = msgspec.json.decode(line)
    if answer.get("event") != "file":
        raise FilesError(str(answer.get("reason", "the service was not understood")))
    return answer


async def _file_pieces(reader: asyncio.StreamReader, size: int) -> AsyncIterator[bytes]:
    while size > 0:
        data = b""
        with suppress(OSError):  # a TimeoutError too
            async with asyncio.timeout(STALL_TIMEOUT):
                data = await reader.read(min(size, PIECE_BYTES))
        if not data:
            raise FilesError("the transfer was cut off")
        size -= len(data)
        yield data


async def _connect(path: Path) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    connection = socket.socket(socket.AF_UNIX)
    connection.setblocking(False)
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT):
            # The kernel does not report when a backlog has room again.
            while not _is_connected(connection, path):  # noqa: ASYNC110
                await asyncio.sleep(CONNECT_PAUSE)
            return await asyncio.open_unix_connection(sock=connection, limit=wire.MOST_BYTES)
    except TimeoutError:
        connection.close()
        raise RefusedError(f"the service at {path} takes no connection: it did not for {CONNECT_TIMEOUT:g} s") from None
    except OSError as error:
        connection.close()
        raise NoServiceError(f"no service listens at {path} ({error.strerror or error})") from error
    except BaseException:
        connection.close()
        raise


def _is_connected(connection: socket.socket, path: Path) -> bool:
    try:
        connection.connect(os.fspath(path))
    except BlockingIOError:
        # The backlog is full. asyncio would take this for a connection in progress.
        return False
    return True


async def _ask(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, first: wire.First, timeout: float
) -> dict[str, Any]:
    line = b""
    try:
        async with asyncio.timeout(timeout):
            writer.write(wire.encode(first))
            with suppress(OSError):
                line = await reader.readline()
    except TimeoutError:  # a subclass of OSError, handled apart
        raise RefusedError(f"the service has not answered in {timeout:g} s") from None
    if not line:
        raise NotServedError(
            "the service ended the connection without a word: it does not serve this account, or not for that person"
        )
    answer: dict[str, Any] = msgspec.json.decode(line)
    return answer
