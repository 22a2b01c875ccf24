"""Files between a front end and a person's workspace, handed over as the person's account.

The work is done by a small program that runs as the account (`files_as_account`), each time as a job: so nothing of
it is left running, whatever happens to the front end, the seat or the service.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
import unicodedata
from collections import Counter
from collections.abc import AsyncIterable, AsyncIterator, Coroutine
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import structlog

from corral.backends.launch import Launch
from corral.printable import harmless, in_one_line, valid
from corral.process import JobError, StartError
from corral.service.files_as_account import FOLDER, INBOX, PIECE, PIECE_BYTES
from corral.tasks import Tasks

if TYPE_CHECKING:
    from corral.process import Job

log = structlog.get_logger(__name__)

T = TypeVar("T")

MOST_BYTES = 50 * 2**20  # of one file, unless the caller has another bound
MOST_OF_PERSON = 4  # transfers at once
TIMEOUT = 600.0  # seconds for one transfer altogether
STALL_TIMEOUT = 30.0  # seconds in which a piece must be taken or given by the person's side
CANCEL_TIMEOUT = 1.0  # seconds for a source to let itself be cancelled
GRACE, KILL = 1.0, 5.0  # seconds
MOST_PATH = 4096  # bytes, as the kernel takes them
MOST_NAME = 200  # bytes of a file's name in UTF-8; file systems take 255, and a number may come into it

_PROGRAM = Path(__file__).with_name("files_as_account.py")
_RULES = ("sudo_rule", "sudo_password", "sudo_environment", "sudo_refused")
_CUT = "the transfer was cut off"
_NO_SENSE = "the workspace gave an answer that makes no sense"
_INBOX = re.compile(rf"{re.escape(FOLDER)}(-\d+)?/{re.escape(INBOX)}")


class FilesError(Exception):
    """A file was not handed over; the message is for the person."""


@dataclass(frozen=True, slots=True)
class Place:
    """Whose workspace it is."""

    person: str
    account: str | None
    """None for the service's own."""
    workspace: str
    """Absolute."""
    state_dir: Path


@dataclass(frozen=True, slots=True)
class FileOut:
    """A file that comes out of a workspace."""

    name: str
    """Made safe, as `safe_name` does."""
    size: int
    """Bytes."""
    pieces: AsyncIterator[bytes]
    """All of them together have `size` bytes. Raises FilesError if the rest does not come."""


@dataclass(eq=False, slots=True)
class _Transfer:
    place: Place
    owner: object
    job: Job | None = None
    stopped: bool = False


def command() -> list[str]:
    """The command that runs as a person's account: the one, to its last word, that `corral sudoers` allows."""
    # Without site-packages any interpreter will do: the one below a venv is more likely to be open to other accounts.
    return [os.path.realpath(sys.executable), "-I", "-S", str(_PROGRAM)]


def safe_name(name: str) -> str:
    """A name that is only a name: no folder, nothing hidden, nothing that reads as an option, no control characters."""
    plain = unicodedata.normalize("NFC", harmless(valid(name)))
    kept = "".join(one for one in plain if unicodedata.category(one) not in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"))
    last = kept.replace("\\", "/").rstrip("/").rpartition("/")[2]
    last = " ".join(last.split()).lstrip(".-~ ").rstrip(". ")
    stem, ending = os.path.splitext(last)  # noqa: PTH122 - a text
    if len(ending.encode()) > MOST_NAME // 4:
        stem, ending = last, ""
    short = stem.encode()[: MOST_NAME - len(ending.encode())].decode(errors="ignore").rstrip()
    return f"{short}{ending}" or "file"


async def send_and_answer(sending: Coroutine[Any, Any, None], answering: Coroutine[Any, Any, T]) -> T:
    """Send, and wait for the answer, both at once: it may be a refusal while the source gives nothing.

    Raises what either does, FilesError if the answer does not come within STALL_TIMEOUT of the last piece.
    """
    work = Tasks(lambda _: None)  # their errors are raised here
    sent, answer = work.own(sending), work.own(answering)
    try:
        await asyncio.wait([sent, answer], return_when=asyncio.FIRST_COMPLETED)
        if not answer.done():
            sent.result()
            await asyncio.wait([answer], timeout=STALL_TIMEOUT)
        if not answer.done():
            raise FilesError(f"there was no answer within {STALL_TIMEOUT:g} s")
        return answer.result()
    finally:
        work.cancel()
        await asyncio.wait([sent, answer], timeout=CANCEL_TIMEOUT)


class Files:
    """The transfers of a service, at most MOST_OF_PERSON at once for each person."""

    def __init__(self) -> None:
        self._of_person: Counter[str] = Counter()
        self._transfers: set[_Transfer] = set()
        self._endings = Tasks(_log)

    async def put(
        self, place: Place, name: str, pieces: AsyncIterable[bytes], *, owner: object, most: int = MOST_BYTES
    ) -> str:
        """Hand a file over to the person's account; its absolute path in the workspace. Raises FilesError.

        It is made as a whole or not at all, with mode 0600, in `.corral/inbox`; a name that is taken gets a number.
        """
        request = {"act": "put", "workspace": place.workspace, "name": safe_name(name), "most": most}
        async with self._helper(place, owner, request) as job:
            answer = await send_and_answer(_send(job, name, pieces, most), _answer(job, TIMEOUT))
            folder, _, taken = _told(answer, "path").rpartition("/")
            if not _INBOX.fullmatch(folder) or safe_name(taken) != taken:
                raise FilesError(_NO_SENSE)
            return os.path.join(place.workspace, folder, taken)  # noqa: PTH118 - a text, not a file of this account

    @asynccontextmanager
    async def get(self, place: Place, path: str, *, owner: object, most: int = MOST_BYTES) -> AsyncIterator[FileOut]:
        """A file from inside the workspace, for as long as the context lasts. Raises FilesError.

        path: relative to the workspace, or absolute and in it. Only regular files, and none behind a symbolic link.
        """
        if len(path.encode(errors="replace")) > MOST_PATH:
            raise FilesError(f"a path has at most {MOST_PATH:,} bytes")
        request = {"act": "get", "workspace": place.workspace, "path": valid(path), "most": most}
        async with self._helper(place, owner, request) as job:
            answer = await _answer(job)
            size = answer.get("size")
            if type(size) is not int or not 0 <= size <= most:
                raise FilesError(_NO_SENSE)
            yield FileOut(safe_name(_told(answer, "name")), size, _pieces(job, size))

    def stop(self, owner: object) -> None:
        """End the transfers of an owner, which then raise FilesError."""
        for one in self._transfers:
            if one.owner is owner:
                one.stopped = True
                if one.job is not None:
                    self._endings.own(one.job.end(grace=0))

    async def settle(self, timeout: float) -> None:
        """Wait at most `timeout` seconds for what was stopped to be ended."""
        await self._endings.settle(timeout)

    @asynccontextmanager
    async def _helper(self, place: Place, owner: object, request: dict[str, Any]) -> AsyncIterator[Job]:
        """The program, at work on the request. On the way out it is ended, with proof."""
        if self._of_person[place.person] >= MOST_OF_PERSON:
            raise FilesError(f"{MOST_OF_PERSON} files of yours are on their way: wait for one of them")
        self._of_person[place.person] += 1
        transfer = _Transfer(place, owner)
        self._transfers.add(transfer)
        whole = asyncio.timeout(TIMEOUT)
        try:
            async with whole, await _start(place) as job:
                transfer.job = job
                if transfer.stopped:
                    raise FilesError(_CUT)
                assert job.stdin is not None, "it is a pipe"
                job.stdin.write(json.dumps(request).encode() + b"\n")
                yield job
        except TimeoutError:
            if not whole.expired():  # the caller's own
                raise
            raise FilesError(f"the file was not handed over within {TIMEOUT:g} s") from None
        finally:
            self._transfers.discard(transfer)
            self._of_person[place.person] -= 1
            if transfer.job is not None and (report := transfer.job.report) is not None and not report.empty:
                log.warning("a file transfer could not be ended", person=place.person, job=transfer.job.id)


def _log(error: BaseException | None) -> None:
    if error is not None:
        log.error("a file transfer could not be ended", exc_info=error)


async def _start(place: Place) -> Job:
    launch = Launch(
        place.account,
        grace=GRACE,
        kill=KILL,
        state_dir=place.state_dir,
        label=f"a file of {place.person}",
    )
    try:
        return await launch.start(command(), None, "")
    except StartError as error:
        if error.kind in _RULES:
            # Without its words: they name a rule for the interpreter with any program.
            log.warning(
                "files cannot be handed over: sudo has no rule for it. Write the rules again with `corral sudoers`",
                person=place.person,
                account=place.account,
            )
            raise FilesError(
                f"files cannot be handed to {place.account}: sudo does not allow it. The operator writes the rules"
                " again with `corral sudoers`"
            ) from error
        log.warning("a file cannot be handed over", person=place.person, account=place.account, error=str(error))
        raise FilesError(f"files cannot be handed over: {error}") from error
    except (JobError, OSError) as error:
        log.warning("a file cannot be handed over", person=place.person, error=str(error))
        raise FilesError(f"files cannot be handed over: {error}") from error


async def _send(job: Job, name: str, pieces: AsyncIterable[bytes], most: int) -> None:
    """Give it all of the source. Raises FilesError, and whatever the source raises."""
    assert job.stdin is not None, "it is a pipe"
    taken = 0
    async for data in _in_time(name, pieces):
        taken += len(data)
        if taken > most:
            raise FilesError(f"{in_one_line(name)} is larger than {most:,} bytes, the most that is taken")
        try:
            for start in range(0, len(data), PIECE_BYTES):
                part = data[start : start + PIECE_BYTES]
                job.stdin.write(PIECE.pack(len(part)) + part)
                async with asyncio.timeout(STALL_TIMEOUT):
                    await job.stdin.drain()
        except TimeoutError:
            raise FilesError(f"the workspace took nothing for {STALL_TIMEOUT:g} s") from None
        except OSError:
            return  # it takes no more: its answer says why
    job.stdin.write(PIECE.pack(0))


async def _in_time(name: str, pieces: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
    """The pieces. Raises FilesError if one does not come within STALL_TIMEOUT, and whatever the source raises."""
    source = aiter(pieces)
    while True:
        stalled = asyncio.timeout(STALL_TIMEOUT)
        try:
            async with stalled:
                data = await anext(source)
        except StopAsyncIteration:
            return
        except TimeoutError:
            if not stalled.expired():  # the source's own
                raise
            raise FilesError(f"nothing came of {in_one_line(name)} for {STALL_TIMEOUT:g} s") from None
        yield data


async def _answer(job: Job, within: float = STALL_TIMEOUT) -> dict[str, Any]:
    """What it answers to the request. Raises FilesError for its refusal, or where there is no answer."""
    assert job.stdout is not None, "it is a pipe"
    line = b""
    try:
        async with asyncio.timeout(within):
            line = await job.stdout.readline()
        answer: Any = json.loads(line) if line else {}
    except (ValueError, RecursionError):  # a line without an end is a ValueError too
        raise FilesError(_NO_SENSE) from None
    except TimeoutError:
        raise FilesError(f"the workspace gave no answer in {within:g} s") from None
    if not line:
        raise FilesError(await _why_silent(job))
    if not isinstance(answer, dict):
        raise FilesError(_NO_SENSE)
    if "error" in answer:
        raise FilesError(in_one_line(valid(str(answer["error"])), 500))
    return answer


def _told(answer: dict[str, Any], key: str) -> str:
    """A text of an answer. Whatever else runs as the account can write into it. Raises FilesError."""
    text = answer.get(key)
    if not isinstance(text, str) or not text or "\0" in text or valid(text) != text:
        raise FilesError(_NO_SENSE)
    return text


async def _why_silent(job: Job) -> str:
    """It ended without an answer: it was ended from here, or the account cannot run it."""
    said = b""
    with suppress(TimeoutError):
        async with asyncio.timeout(GRACE):
            said = await job.stderr.read() if job.stderr is not None else b""
    lines = said.decode(errors="replace").strip().splitlines()
    if not lines:
        return _CUT
    log.warning("a file cannot be handed over", job=job.id, error=in_one_line(lines[-1], 500))
    return f"{job.user} cannot run the program that hands files over: {in_one_line(lines[-1], 300)}"


async def _pieces(job: Job, size: int) -> AsyncIterator[bytes]:
    assert job.stdout is not None, "it is a pipe"
    while size > 0:
        try:
            async with asyncio.timeout(STALL_TIMEOUT):
                data = await job.stdout.read(min(size, PIECE_BYTES))
        except TimeoutError:
            raise FilesError(f"the workspace gave nothing for {STALL_TIMEOUT:g} s") from None
        if not data:
            raise FilesError(_CUT)
        size -= len(data)
        yield data
