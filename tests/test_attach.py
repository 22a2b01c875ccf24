"""A terminal at a running service: the kernel's word of who is there decides, and what is shown is the same."""

import asyncio
import json
import os
import pwd
import re
import socket
import stat
import threading
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from corral.backends.backend import Answer, Input
from corral.backends.events import BackendEnded, BackendStarted, Limit, Notice, Text, ToolEnded, TurnEnded
from corral.config import Person
from corral.remote import server, wire
from corral.remote.client import LET_GO, AttachedSeat, RefusedError, end_person
from corral.remote.server import MOST_CONNECTIONS, MOST_OF_ACCOUNT, SocketServer
from corral.service import conversation
from corral.service.commands import NOT_A_NAME
from corral.service.front_end import FrontEndError
from corral.service.identity import Access
from tests.harness.hosting import Host, Watcher, configured, hosting
from tests.harness.waiting import until


class Attached(Watcher):
    seat: AttachedSeat


@asynccontextmanager
async def listening(host: Host) -> AsyncIterator[Path]:
    path = host.service.config.socket_path
    server = SocketServer(host.service, path)
    await server.start()
    try:
        yield path
    finally:
        await server.close()
    assert not path.exists()


@asynccontextmanager
async def attached(path: Path, hello: wire.Hello | None = None) -> AsyncIterator[Attached]:
    front = Attached()
    front.seat = await AttachedSeat.open(path, hello or wire.Hello(person="anna"))
    reading = asyncio.create_task(front.seat.read(front))
    try:
        yield front
    finally:
        front.seat.detach()
        await asyncio.wait_for(asyncio.wait([reading]), 5)


async def test_a_link_that_replaces_the_new_socket_does_not_open_its_target(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    private, listen = tmp_path / "private", asyncio.start_unix_server
    private.touch(0o600)

    async def replaced(*arguments: Any, **options: Any) -> asyncio.Server:
        server = await listen(*arguments, **options)
        arguments[1].unlink()
        arguments[1].symlink_to(private)
        return server

    async with hosting(configured(tmp_path)) as host:
        monkeypatch.setattr(asyncio, "start_unix_server", replaced)
        with pytest.raises(FrontEndError, match="in the place of the socket"):
            await SocketServer(host.service, host.service.config.socket_path).start()
    assert stat.S_IMODE(private.stat().st_mode) == 0o600


async def test_a_turn_over_the_socket_is_the_same_as_without(tmp_path: Path) -> None:
    async with hosting(configured(tmp_path)) as host, listening(host) as path, attached(path) as anna:
        assert anna.seat.welcome.person == "anna"
        assert "/stop" in [one.name for one in anna.seat.welcome.commands]
        anna.seat.send(Input("ask"))
        approval = await anna.asked()
        anna.seat.answer(approval.approval_id, Answer("accept"))
        (end,) = await anna.turns(1)
        assert (end.status, anna.text) == ("completed", "accept")
        anna.seat.command("/status")
        await anna.hears("agent up for")
        await anna.until(lambda: anna.idles, "it is idle")
        anna.seat.leave()
        await anna.until(lambda: anna.closed_with == "", "it is closed")
        (ended,) = anna.of(BackendEnded)
        assert (ended.report.verdict, ended.report.proof) == ("proven_empty", "no_children")
        assert host.service.pool.count == 0


async def test_calls_over_the_socket_take_effect_in_order(tmp_path: Path) -> None:
    async with hosting(configured(tmp_path)) as host, listening(host) as path, attached(path) as anna:
        anna.seat.send(Input("work"))
        await anna.until(lambda: anna.text, "it works")
        anna.seat.command("/steer more")
        anna.seat.interrupt()
        anna.seat.send(Input("talk"))
        anna.seat.finish()
        await anna.until(lambda: anna.closed_with == "", "it is closed")
        assert [end.status for end in anna.of(TurnEnded)] == ["interrupted", "completed"]


async def test_a_connection_that_breaks_leaves_the_turn_running(tmp_path: Path) -> None:
    async with hosting(configured(tmp_path)) as host, listening(host) as path:
        async with attached(path) as anna:
            anna.seat.send(Input("work"))
            await anna.until(lambda: anna.text, "it works")
        (conversation,) = host.service.live
        assert conversation.began
        async with attached(path, wire.Hello(person="anna", resume="last")) as back:
            await back.hears("a turn is running")
            assert back.of(BackendStarted)
            await back.until(lambda: back.of(Limit), "it is told of the limit that comes next")
            limit = back.of(Limit)[0]
            assert limit.timer == "silence"
            assert 0 < limit.seconds_left <= limit.limit
            back.seat.interrupt()
            assert (await back.turns(1))[0].status == "interrupted"


async def test_a_client_that_does_not_read_delays_no_other_person(tmp_path: Path) -> None:
    async with hosting(configured(tmp_path)) as host, listening(host) as path:
        deaf = await AttachedSeat.open(path, wire.Hello(person="anna"))
        deaf.send(Input("flood"))
        async with attached(path, wire.Hello(person="ben")) as ben:
            ben.seat.send(Input("talk"))
            assert (await ben.turns(1))[0].status == "completed"
        deaf.detach()


async def test_garbage_ends_the_connection_and_nothing_else(tmp_path: Path) -> None:
    async with hosting(configured(tmp_path)) as host, listening(host) as path:
        for line in (
            b"\n",
            b"[]\n",
            b'{"call": "hello", "version": "x"}\n',
            b"\xff\xfe\n",
            b'{"call": "sudo"}\n',
            b"x" * 70_000,
        ):
            reader, writer = await asyncio.open_unix_connection(path)
            writer.write(line)
            writer.write_eof()
            assert await asyncio.wait_for(reader.read(), 10) == b""
            writer.close()
        async with attached(path) as anna:
            anna.seat._writer.write(b'{"call": "do", "name": "__class__"}\n')
            await anna.until(lambda: anna.closed_with is not None, "it is closed")
        async with attached(path) as anna:
            anna.seat.send(Input("talk"))
            await anna.turns(1)


async def test_an_account_of_several_people_is_asked_which_one_it_acts_for(tmp_path: Path) -> None:
    async with hosting(configured(tmp_path)) as host, listening(host) as path:
        with pytest.raises(RefusedError, match="say who you act for, with --person NAME: anna, ben"):
            await AttachedSeat.open(path, wire.Hello())
        with pytest.raises(RefusedError, match="it does not serve this account"):
            await AttachedSeat.open(path, wire.Hello(person="mallory"))
        with pytest.raises(RefusedError, match="unknown engine 'gemini'"):
            await AttachedSeat.open(path, wire.Hello(person="anna", engine="gemini"))
        with pytest.raises(RefusedError, match="no earlier conversation"):
            await AttachedSeat.open(path, wire.Hello(person="anna", resume="last"))


async def test_ending_a_person(tmp_path: Path) -> None:
    async with hosting(configured(tmp_path)) as host, listening(host) as path, attached(path) as anna:
        anna.seat.send(Input("stray"))
        await anna.until(lambda: anna.text, "it runs")
        ended = await end_person(path, "anna")
        assert [one["report"]["verdict"] for one in ended] == ["proven_empty"]
        await anna.turns(1)
        assert await end_person(path, "ben") == []
        with pytest.raises(RefusedError, match="nobody called 'mallory' whose agents this account may end"):
            await end_person(path, "mallory")


async def test_the_socket_of_a_dead_service_is_replaced_and_that_of_a_living_one_is_not(tmp_path: Path) -> None:
    async with hosting(configured(tmp_path)) as host:
        path = host.service.config.socket_path
        dead = socket.socket(socket.AF_UNIX)
        dead.bind(str(path))
        dead.close()
        async with listening(host):
            assert stat.S_IMODE(path.stat().st_mode) == 0o666
            with pytest.raises(FrontEndError, match="another service listens there"):
                await SocketServer(host.service, path).start()
        path.write_text("not a socket")
        with pytest.raises(FrontEndError, match="a file that is not a socket is there"):
            await SocketServer(host.service, path).start()
        path.unlink()


async def test_the_welcome_comes_first(tmp_path: Path) -> None:
    async with hosting(configured(tmp_path)) as host, listening(host) as path:
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(wire.encode(wire.Hello(person="anna")))
        first = json.loads(await asyncio.wait_for(reader.readline(), 5))
        assert (first["event"], first["engine"]) == ("welcome", "codex")
        writer.close()


async def test_a_flood_of_calls_does_not_block_the_event_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with hosting(configured(tmp_path)) as host, listening(host) as path, attached(path) as anna:
        calls: list[str] = []
        (seat,) = host.service.seats
        monkeypatch.setattr(seat, "command", calls.append)
        flood = 2000
        for _ in range(flood):
            anna.seat.command("/help")
        most = 0
        async with asyncio.timeout(20):
            while len(calls) < flood:
                before = len(calls)
                await asyncio.sleep(0)
                most = max(most, len(calls) - before)
        assert most == 1, "calls that are taken between two turns of the loop"


async def test_a_message_that_is_too_long_is_not_taken_and_the_rest_is(tmp_path: Path) -> None:
    async with hosting(configured(tmp_path)) as host, listening(host) as path, attached(path) as anna:
        for size in (wire.MOST_CALL_BYTES, 5 * wire.MOST_CALL_BYTES):
            anna.seat.send(Input("x" * size))
        anna.seat.send(Input("talk"))
        assert (await anna.turns(1))[0].status == "completed"
        assert anna.told == ["not taken: a message may have at most 4 MB"] * 2


@pytest.mark.slow
async def test_a_piece_of_text_of_any_length_arrives_whole(tmp_path: Path) -> None:
    async with hosting(configured(tmp_path)) as host, listening(host) as path, attached(path) as anna:
        said = "".join(f"\x01{number}ü" for number in range(4_000_000))
        (conversation,) = host.service.live
        conversation.audience.show(Text(said, "m"))
        anna.seat.command("/engine")
        await anna.hears("engine: codex")
        assert anna.text == said
        assert {event.message_id for event in anna.of(Text)} == {"m"}


async def test_an_event_that_is_too_long_is_cut_and_the_chat_goes_on(tmp_path: Path) -> None:
    async with hosting(configured(tmp_path)) as host, listening(host) as path, attached(path) as anna:
        (conversation,) = host.service.live
        conversation.audience.show(ToolEnded("t", "command", "ls", "completed", 0, "x" * (wire.MOST_BYTES + 1)))
        conversation.audience.show(Notice("half a letter: \ud83d"))
        anna.seat.send(Input("talk"))
        assert (await anna.turns(1))[0].status == "completed"
        assert anna.of(ToolEnded)[0].output.endswith("characters cut]")
        assert "half a letter: \ufffd" in anna.told


async def test_one_client_that_does_not_read_delays_no_other_at_its_conversation(tmp_path: Path) -> None:
    async with hosting(configured(tmp_path)) as host, listening(host) as path, attached(path) as anna:
        anna.seat.send(Input("talk"))
        await anna.turns(1)
        (conversation,) = host.service.live
        reader, writer = await asyncio.open_unix_connection(path, limit=1000)
        writer.write(wire.encode(wire.Hello(person="anna", resume=conversation.ref.id)))
        await until(lambda: len(conversation.audience) == 2, 10, "both follow it")
        for _ in range(30):
            conversation.audience.show(Text("x" * 1_000_000, "m"))
        anna.seat.send(Input("talk"))
        await anna.turns(2)
        anna.seat.command("/stop")
        await anna.until(lambda: anna.of(BackendEnded), "the agent is ended")
        assert anna.ends == ["turn_ended", "turn_ended", "backend_ended"]
        writer.transport.abort()
        del reader


@pytest.mark.parametrize("how", ["dismissed", "garbage"])
@pytest.mark.slow
async def test_a_client_that_does_not_read_keeps_no_connection_when_it_is_over(how: str, tmp_path: Path) -> None:
    unread = 8_000_000
    async with hosting(configured(tmp_path)) as host, listening(host) as path:
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(wire.encode(wire.Hello(person="anna")) + wire.encode(wire.Command("/engine")))
        await told(reader, "notice")
        (seat,) = host.service.seats
        seat.conversation.audience.show(Text("x" * unread, "m"))
        if how == "garbage":
            writer.write(b"garbage\n")
        else:
            seat.close("that was all")
        await until(lambda: not served(), 10, "the service has let go of it", lambda: str(served()))
        assert len(await asyncio.wait_for(read_out(reader), 10)) < unread, "what nobody read is not kept"
        writer.close()


async def test_a_dropped_connection_is_told_apart_from_a_dead_service(tmp_path: Path) -> None:
    async with hosting(configured(tmp_path)) as host, listening(host) as path, attached(path) as anna:
        anna.seat._writer.write(b"garbage\n")
        await anna.until(lambda: anna.closed_with, "it is closed")
        assert anna.closed_with == LET_GO


async def test_too_many_chats_are_refused_with_the_reason(tmp_path: Path) -> None:
    async with hosting(configured(tmp_path)) as host, listening(host) as path, AsyncExitStack() as stack:
        for _ in range(MOST_OF_ACCOUNT):
            await stack.enter_async_context(attached(path))
        with pytest.raises(RefusedError, match="too many chats are open"):
            await AttachedSeat.open(path, wire.Hello(person="anna"))


@pytest.mark.cross_account
async def test_strangers_take_no_place_and_no_thread_from_those_who_may_connect(tmp_path: Path) -> None:
    """The default executor is taken up by what hangs, and 300 connections of a stranger are open."""
    with TemporaryDirectory(dir="/tmp") as folder:
        Path(folder).chmod(0o711)
        config = configured(tmp_path, service={"socket": f"{folder}/corral.sock"})
        async with hosting(config) as host, listening(host) as path:
            strangers = [await connected_as(pwd.getpwnam("games").pw_uid, path) for _ in range(MOST_CONNECTIONS + 44)]
            hung = threading.Event()
            loop = asyncio.get_running_loop()
            looks = [loop.run_in_executor(None, hung.wait, 20) for _ in range(64)]
            try:
                async with asyncio.timeout(5), attached(path) as anna:
                    assert anna.seat.welcome.person == "anna"
                    for reader, _ in strangers:
                        with suppress(ConnectionResetError):
                            assert await reader.read() == b""
            finally:
                hung.set()
                await asyncio.gather(*looks)
                for _, writer in strangers:
                    writer.close()


async def test_a_backlog_that_is_full_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "full.sock"
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen(0)
    first = socket.socket(socket.AF_UNIX)
    first.connect(str(path))
    asking = asyncio.create_task(AttachedSeat.open(path, wire.Hello(person="anna")))
    await asyncio.wait([asking], timeout=0.1)
    for _ in range(2):
        accepted, _ = await asyncio.to_thread(listener.accept)
        accepted.close()
    with pytest.raises(RefusedError, match="without a word"):
        await asking
    first.close()
    listener.close()


@pytest.mark.slow
async def test_a_conversation_that_is_just_being_ended_is_waited_for(tmp_path: Path) -> None:
    config = configured(tmp_path, ladder={"goodbye": 3.0, "grace": 3.0})
    async with hosting(config, "stubborn") as host, listening(host) as path, attached(path) as anna:
        anna.seat.send(Input("work"))
        await anna.until(lambda: anna.text, "it works")
        anna.seat.leave()
        async with attached(path, wire.Hello(person="anna", resume="last")) as back:
            assert anna.of(BackendEnded), "the one before is over"
            assert back.seat.welcome.person == "anna"


@pytest.mark.slow
async def test_a_conversation_is_not_taken_up_before_its_agent_has_ended_when_its_client_hung_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "FLUSH_TIMEOUT", 0.1)
    monkeypatch.setattr(conversation, "WORKER_TIMEOUT", 0.1)
    config = configured(tmp_path, ladder={"goodbye": 1.0, "grace": 1.0})
    async with hosting(config, "stubborn") as host, listening(host) as path:
        async with attached(path) as anna:
            anna.seat.send(Input("work"))
            await anna.until(lambda: anna.text, "it works")
            anna.seat.leave()
        await until(lambda: not host.service.seats, 20, "nobody is there")
        async with attached(path, wire.Hello(person="anna", resume="last")):
            assert host.service.pool.count == 0, "the agent that held it has ended"


async def test_an_invalid_call_is_not_logged_as_a_fault_of_the_service(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logged: list[str] = []
    monkeypatch.setattr(server.log, "error", lambda event, **_: logged.append(event))
    monkeypatch.setattr(server.log, "warning", lambda event, **more: logged.append(f"{event}: {more['error']}"))
    deep = b'{"call": "hello", "more": ' + b"[" * 100_000 + b"]" * 100_000 + b"}\n"
    async with hosting(configured(tmp_path)) as host, listening(host) as path:
        for line, told in (b"", []), (deep, ["a connection was ended: it is nested too deeply"]):
            reader, writer = await asyncio.open_unix_connection(path)
            writer.write(line)
            writer.write_eof()
            assert await asyncio.wait_for(reader.read(), 10) == b""
            writer.close()
            assert logged == told


@pytest.mark.parametrize("model", ["a\0b", "x" * 100_000], ids=["NUL", "long"])
async def test_a_model_that_no_command_line_can_hold_is_refused_as_by_the_command(model: str, tmp_path: Path) -> None:
    async with hosting(configured(tmp_path)) as host, listening(host) as path:
        with pytest.raises(RefusedError, match=re.escape(NOT_A_NAME)):
            await AttachedSeat.open(path, wire.Hello(person="anna", engine="claude", model=model))


async def test_closing_a_connection_with_much_unread_logs_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "FLUSH_TIMEOUT", 0.2)
    failed: list[str] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: failed.append(str(context)))
    async with hosting(configured(tmp_path)) as host, listening(host) as path:
        with pytest.raises(RefusedError, match="there is no conversation"):
            await AttachedSeat.open(path, wire.Hello(person="anna", resume="x" * 3_000_000))
        async with attached(path) as anna:
            (seat,) = host.service.seats
            seat.show(Notice("x" * 3_000_000))
            seat.close("it is over")
            await anna.until(lambda: anna.closed_with, "it is closed")
        fired = loop.create_future()
        loop.call_later(0.3, fired.set_result, None)  # later than what would end the connection
        await fired
    assert failed == []


@pytest.mark.cross_account
async def test_an_account_that_may_no_longer_act_for_its_person_loses_its_seat(tmp_path: Path) -> None:
    with TemporaryDirectory(dir="/tmp") as folder:
        Path(folder).chmod(0o711)
        mine = Person(name="anna", os_user="games", workspace=str(tmp_path))
        config = configured(tmp_path, service={"socket": f"{folder}/corral.sock"}).model_copy(
            update={"people": (mine,)}
        )
        async with hosting(config) as host:
            host.service.admit(Access.look_up(config))
            front_end = await server.start(host.service)
            reader, writer = await connected_as(pwd.getpwnam("games").pw_uid, config.socket_path)
            writer.write(wire.encode(wire.Hello()))
            await told(reader, "welcome")
            await host.service.reload(config, Access.look_up(config))
            front_end.reloaded()
            writer.write(wire.encode(wire.Command("/engine")))
            assert (await told(reader, "notice"))["about"] == "engine", "nothing has changed for it"

            given_away = mine.model_copy(update={"os_user": "uucp"})
            changed = config.model_copy(update={"people": (given_away,)})
            await host.service.reload(changed, Access.look_up(changed))
            assert (await told(reader, "closed"))["reason"] == "you may not act for anna any more"
            assert await asyncio.wait_for(reader.read(), 5) == b""
            assert not host.service.seats
            writer.close()
            await front_end.close()


async def connected_as(uid: int, path: Path) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection of which the kernel says that this account made it."""
    connection = socket.socket(socket.AF_UNIX)
    before = os.geteuid()
    os.seteuid(uid)
    try:
        connection.connect(str(path))
    finally:
        os.seteuid(before)
    return await asyncio.open_unix_connection(sock=connection)


async def told(reader: asyncio.StreamReader, event: str) -> dict[str, Any]:
    """The next event of this name."""
    async with asyncio.timeout(10):
        while line := await reader.readline():
            data: dict[str, Any] = json.loads(line)
            if data["event"] == event:
                return data
    raise AssertionError(f"the connection ended without {event}")


async def read_out(reader: asyncio.StreamReader) -> bytes:
    """All that still comes."""
    data = b""
    with suppress(ConnectionError):
        while piece := await reader.read(2**20):
            data += piece
    return data


def served() -> list[asyncio.Task[Any]]:
    """What the server does for its connections now."""
    return [one for one in asyncio.all_tasks() if "SocketServer._serve" in repr(one.get_coro())]
