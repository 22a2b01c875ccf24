"""A new configuration while something runs: the newest file wins, also over a backend that starts meanwhile."""

import asyncio
import errno
import os
import socket
import threading
from pathlib import Path

import pytest

from corral.backends.events import ApprovalRequested, BackendEnded, TurnEnded
from corral.config import Config, load
from corral.daemon import serving
from corral.daemon.notify import notify
from corral.daemon.serving import Serving
from corral.process import live_jobs
from corral.service.conversation_ref import ConversationRef
from corral.service.current_backend import Announce, Begun
from corral.service.identity import Access, own_account
from corral.service.store.store import Store
from tests.harness.daemon import write_config
from tests.harness.hosting import Host, Watcher, configured, hosting, kinds
from tests.harness.waiting import until

SOON = 20.0  # seconds


def without(config: Config, name: str) -> Config:
    return config.model_copy(update={"people": tuple(one for one in config.people if one.name != name)})


def changed(config: Config, **settings: object) -> Config:
    people = tuple(one.model_copy(update=settings) for one in config.people)
    return config.model_copy(update={"people": people})


def reload_while_it_starts(host: Host, config: Config) -> None:
    """Give the service another configuration while its next backend starts, with the old one."""
    start = host.service._start_backend
    reloads: list[asyncio.Task[None]] = []

    async def starting(ref: ConversationRef, thread: str | None, announce: Announce) -> Begun:
        if not reloads:
            reloads.append(asyncio.create_task(host.service.reload(config)))
        return await start(ref, thread, announce)

    host.service._start_backend = starting


def listen(host: Host, person: str) -> Watcher:
    """Somebody who hears on what the person's front ends are told no more."""
    (conversation,) = [one for one in host.service.live if one.ref.person == person]
    front = Watcher()
    conversation.audience.join(front)
    return front


async def test_of_two_hups_close_together_the_newer_file_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write_config(tmp_path, "anna")
    config = load(file)
    first_read, newer_applied = threading.Event(), threading.Event()

    def slow_at_first(path: Path | None) -> Config:
        read = load(path)
        if not first_read.is_set():
            first_read.set()
            newer_applied.wait(0.5)  # nothing is applied in that time if readings wait for each other
        return read

    monkeypatch.setattr(serving, "load", slow_at_first)
    store = await Store.open(config.service.state_dir)
    served = Serving(config, store, kinds("obey"))
    running = asyncio.create_task(served.run())
    try:
        await until(lambda: served._serves, SOON, "it serves")
        write_config(tmp_path, "anna", "ben")
        served._reload()
        await until(first_read.is_set, SOON, "the first reading has begun")
        write_config(tmp_path, "anna", "ben", "carla")
        served._reload()
        await until(lambda: len(served._service.config.people) == 3, SOON, "the newer file is read")
        newer_applied.set()
        await until(lambda: all(task.done() for task in served._tasks._tasks), SOON, "both are over")
        assert [one.name for one in served._service.config.people] == ["anna", "ben", "carla"]
    finally:
        served._end(15)
        await asyncio.wait_for(running, SOON)
        await store.aclose()


async def test_a_hup_during_the_start_is_followed_when_the_start_is_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write_config(tmp_path, "anna")
    looked_up, reloaded = threading.Event(), threading.Event()

    look_up = Access.look_up

    def slow(config: Config) -> Access:
        found = look_up(config)
        looked_up.set()
        reloaded.wait(0.5)  # nothing is reloaded in that time if reloads wait for the start
        return found

    monkeypatch.setattr(Access, "look_up", slow)
    config = load(file)
    store = await Store.open(config.service.state_dir)
    served = Serving(config, store, kinds("obey"))
    running = asyncio.create_task(served.run())
    try:
        await until(looked_up.is_set, SOON, "the accounts are looked up")
        write_config(tmp_path, "anna", "ben")
        served._reload()
        await until(lambda: len(served._service.config.people) == 2, SOON, "the newer file is read")
        reloaded.set()
        await until(lambda: served._serves, SOON, "it serves")
        assert served._service.access.people(own_account()) == ("anna", "ben"), "the table of the newer file"
    finally:
        served._end(15)
        await asyncio.wait_for(running, SOON)
        await store.aclose()


async def test_a_hup_while_the_service_ends_is_not_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notified: list[str] = []
    monkeypatch.setattr(serving, "notify", lambda *lines: notified.append(lines[0]))
    config = load(write_config(tmp_path, "anna"))
    store = await Store.open(config.service.state_dir)
    served = Serving(config, store, kinds("obey"))
    running = asyncio.create_task(served.run())
    try:
        await until(lambda: "READY=1" in notified, SOON, "it serves")
        write_config(tmp_path, "anna", "ben")
    finally:
        served._end(15)
        served._reload()
        await asyncio.wait_for(running, SOON)
        await store.aclose()
    assert notified == ["READY=1", "STOPPING=1"]
    assert len(served._service.config.people) == 1


def test_a_service_manager_that_cannot_be_told_is_not_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> socket.socket:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setenv("NOTIFY_SOCKET", "/run/systemd/notify")
    monkeypatch.setattr(socket, "socket", refused)
    notify("STOPPING=1")


async def test_what_changed_while_a_backend_started_holds_for_its_first_turn(tmp_path: Path) -> None:
    config = configured(tmp_path)
    async with hosting(config) as host:
        reload_while_it_starts(host, changed(config, env={"NEW": "1"}))
        anna = await host.seat("anna")
        anna.say("talk")
        assert (await anna.front.turns(1))[0].status == "completed"
        assert len(await anna.front.backends(2)) == 2
        assert anna.front.ends == ["backend_ended", "turn_ended"], "the one that started with the old settings is ended"


async def test_a_person_removed_while_a_backend_starts_gets_no_turn_and_keeps_no_agent(tmp_path: Path) -> None:
    config = configured(tmp_path)
    async with hosting(config) as host:
        reload_while_it_starts(host, without(config, "ben"))
        ben = await host.seat("ben")
        heard = listen(host, "ben")
        for _ in range(3):
            ben.say("talk")
        await until(lambda: not host.service.live, SOON, "the conversation is ended")
        assert "completed" not in [one.status for one in heard.of(TurnEnded)]
        assert host.service.pool.count == 0
        assert not live_jobs(config.service.state_dir)


async def test_a_person_removed_during_a_turn_gets_no_further_turn(tmp_path: Path) -> None:
    config = configured(tmp_path)
    async with hosting(config) as host:
        ben = await host.seat("ben")
        ben.say("work")
        await ben.front.until(lambda: ben.front.text, "it works")
        for _ in range(2):
            ben.say("talk")
        heard = listen(host, "ben")
        (conversation,) = host.service.live
        await host.service.reload(without(config, "ben"))
        assert conversation.began, "the turn that runs goes on"
        assert not conversation.waiting
        await conversation.interrupt()
        await until(lambda: not host.service.live, SOON, "the conversation is ended, with its turn and at once")
        assert len(heard.of(TurnEnded)) == 1
        assert host.service.pool.count == 0


async def test_a_person_who_is_put_back_during_the_turn_keeps_the_conversation(tmp_path: Path) -> None:
    config = configured(tmp_path)
    async with hosting(config) as host:
        ben = await host.seat("ben")
        ben.say("work")
        await ben.front.until(lambda: ben.front.text, "it works")
        heard = listen(host, "ben")
        (conversation,) = host.service.live
        await host.service.reload(without(config, "ben"))
        await host.service.reload(config)
        await conversation.interrupt()
        await heard.turns(1)
        assert host.service.live == {conversation}
        assert not conversation.over


@pytest.mark.parametrize("way", ["at_once", "taken_out_between"])
async def test_a_new_account_does_not_see_the_turn_of_the_old_one(way: str, tmp_path: Path) -> None:
    config = configured(tmp_path)
    async with hosting(config) as host:
        anna = await host.seat("anna")
        anna.say("ask")
        await anna.front.asked()
        heard = listen(host, "anna")
        if way == "taken_out_between":
            await host.service.reload(without(config, "anna"))
        await host.service.reload(changed(config, os_user="games"))
        after = await host.seat("anna", resume="last")
        assert not after.front.of(ApprovalRequested)
        assert "a turn is running" not in after.front.told
        assert [one.status for one in heard.of(TurnEnded)] == ["interrupted"]
        assert [one.report.verdict for one in heard.of(BackendEnded)] == ["proven_empty"]
        assert anna.front.closed_with, "it has to attach again"
