"""Files of a seat over the socket: the same as in the service's own process, and nobody else's seat."""

import asyncio
import os
import pwd
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from corral.config import Person
from corral.process import live_jobs
from corral.remote import server, wire
from corral.remote.client import AttachedSeat
from corral.service import files
from corral.service.files import FilesError
from corral.service.identity import Access
from tests.harness.hosting import SOON, Host, Watcher, configured, hosting
from tests.harness.waiting import until


async def pieces(*data: bytes) -> AsyncIterator[bytes]:
    for one in data:
        yield one


async def endless() -> AsyncIterator[bytes]:
    yield b"x" * 1000
    await asyncio.get_running_loop().create_future()


@asynccontextmanager
async def attached(host: Host) -> AsyncIterator[AttachedSeat]:
    front_end = await server.start(host.service)
    seat = await AttachedSeat.open(host.service.config.socket_path, wire.Hello(person="anna"))
    reading = asyncio.create_task(seat.read(Watcher()))
    try:
        yield seat
    finally:
        seat.detach()
        await asyncio.wait_for(asyncio.wait([reading]), SOON)
        await front_end.close()


def inbox(folder: Path) -> list[str]:
    return sorted(one.name for one in (folder / "work" / ".corral").glob("inbox/*"))


async def test_files_go_both_ways(tmp_path: Path) -> None:
    data = os.urandom(3_000_000)
    async with hosting(configured(tmp_path)) as host, attached(host) as seat:
        path = await seat.put_file("../photo.jpg", pieces(data[:10], data[10:]))
        assert path == f"{tmp_path}/work/.corral/inbox/photo.jpg"
        assert Path(path).read_bytes() == data
        async with seat.get_file(path) as file:
            assert (file.name, file.size) == ("photo.jpg", len(data))
            assert b"".join([piece async for piece in file.pieces]) == data


async def test_a_refusal_comes_with_its_reason_also_while_more_is_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with hosting(configured(tmp_path)) as host, attached(host) as seat:
        for path, why in (("../x", "is not the path of a file"), ("nothing", "nothing does not exist")):
            with pytest.raises(FilesError, match=why):
                async with seat.get_file(path):
                    pass
        (tmp_path / "work" / "big").write_bytes(b"x" * 2000)
        with pytest.raises(FilesError, match="at most 1,000 are handed over"):
            async with seat.get_file("big", most=1000):
                pass
        monkeypatch.setattr(files, "MOST_OF_PERSON", 0)
        with pytest.raises(FilesError, match="0 files of yours are on their way"):
            await seat.put_file("a", pieces(*[b"x" * 1_000_000] * 40))


async def test_a_file_beyond_the_bound_is_refused(tmp_path: Path) -> None:
    async with hosting(configured(tmp_path)) as host, attached(host) as seat:
        with pytest.raises(FilesError, match="larger than 52,428,800 bytes"):
            await seat.put_file("a", pieces(*[b"x" * 1_000_000] * 60))
        assert inbox(tmp_path) == []
        assert not live_jobs(host.service.config.service.state_dir)


@pytest.mark.parametrize("how", ["source", "cancelled", "seat", "connection"])
async def test_one_that_is_cut_leaves_no_file_and_nothing_running(how: str, tmp_path: Path) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield b"x" * 1000
        await until((tmp_path / "work" / ".corral" / "inbox").exists, SOON, "it is being written")
        raise ValueError("the source is broken")

    async with hosting(configured(tmp_path)) as host, attached(host) as seat:
        putting = asyncio.create_task(seat.put_file("a", broken() if how == "source" else endless()))
        await until((tmp_path / "work" / ".corral" / "inbox").exists, SOON, "it is being written")
        if how == "source":
            with pytest.raises(ValueError, match="the source is broken"):
                await putting
        elif how == "cancelled":
            putting.cancel()
            await asyncio.wait([putting])
        else:
            if how == "seat":
                next(iter(host.service.seats)).close("that was all")
            else:
                seat.detach()
            with pytest.raises(FilesError, match="cut off"):
                await asyncio.wait_for(putting, SOON)
        state_dir = host.service.config.service.state_dir
        await until(lambda: not live_jobs(state_dir), SOON, "nothing runs")
        assert inbox(tmp_path) == []


async def test_a_reader_that_goes_away_ends_the_transfer(tmp_path: Path) -> None:
    async with hosting(configured(tmp_path)) as host, attached(host) as seat:
        (tmp_path / "work" / "big").write_bytes(b"x" * 30_000_000)
        async with seat.get_file("big") as file:
            await anext(file.pieces)
        await until(lambda: not live_jobs(host.service.config.service.state_dir), SOON, "nothing runs")


async def test_garbage_in_place_of_pieces_is_refused(tmp_path: Path) -> None:
    async with hosting(configured(tmp_path)) as host, attached(host) as seat:
        for garbage, answer in ((b"\xff" * 100, b"a piece has at most 65536 bytes"), (b"\0", b"")):
            reader, writer = await asyncio.open_unix_connection(host.service.config.socket_path)
            writer.write(wire.encode(wire.PutFile(seat._name, "a")) + garbage)
            writer.write_eof()
            assert answer in await asyncio.wait_for(reader.read(), SOON)
            writer.close()
        assert inbox(tmp_path) == []


@pytest.mark.cross_account
async def test_another_account_cannot_use_a_seat_whose_name_it_knows() -> None:
    with TemporaryDirectory(dir="/tmp") as name:
        folder = Path(name)
        folder.chmod(0o711)
        config = configured(folder, service={"socket": f"{folder}/corral.sock"})
        theirs = Person(name="ben", os_user="games", workspace=f"{folder}/work")
        config = config.model_copy(update={"people": (config.people[0], theirs)})
        async with hosting(config) as host:
            host.service.admit(Access.look_up(config))
            async with attached(host) as seat:
                for call in (wire.GetFile(seat._name, "a", 10), wire.PutFile(seat._name, "a")):
                    said = await asyncio.to_thread(_as_account, config.socket_path, wire.encode(call))
                    assert said == b'{"event":"closed","reason":"there is no such seat any more"}\n'
                assert not (folder / "work" / ".corral").exists()


def _as_account(path: Path, line: bytes) -> bytes:
    """What the service answers to a line that a process of the account `games` sends."""
    program = (
        "import socket, sys; s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]);"
        "s.sendall(sys.stdin.buffer.read()); sys.stdout.buffer.write(s.makefile('rb').readline())"
    )
    done = subprocess.run(
        [os.path.realpath(sys.executable), "-I", "-c", program, str(path)],
        input=line,
        capture_output=True,
        user=pwd.getpwnam("games").pw_uid,
        check=True,
        timeout=SOON,
        cwd="/",
    )
    return done.stdout
