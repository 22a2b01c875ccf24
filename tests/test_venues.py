"""Where a chat is held: at a running service that serves this account, else in its own process."""

from pathlib import Path

import pytest

from corral.backends.base import BackendEnded, BackendStarted, Input
from corral.chat.attach import wire
from corral.chat.attach.client import RefusedError
from corral.chat.venues import Configured, Own, VenueError, first_of
from corral.service.config import load
from tests.harness.backends import scripted
from tests.harness.daemon import serving, write_config
from tests.harness.hosting import Watcher


def own(folder: Path, **more: object) -> Own:
    return Own(lambda name: scripted(name, "obey"), state_dir=folder / "own", cwd=folder, **more)  # type: ignore[arg-type]


async def test_a_running_service_is_the_first_choice(tmp_path: Path) -> None:
    with serving(tmp_path, write_config(tmp_path)) as daemon:
        front = Watcher()
        places = [tmp_path / "nothing.sock", daemon.socket]
        async with first_of(places, wire.Hello(person="anna"), own(tmp_path).venue())(front) as seat:
            seat.send(Input("talk"))
            await front.turns(1)
            seat.leave()
            await front.until(lambda: front.closed_with == "", "it is closed")
        assert len(daemon.logged("backend started")) == 1
        assert not (tmp_path / "own").exists()


async def test_whom_the_service_does_not_serve_has_an_agent_of_their_own(tmp_path: Path) -> None:
    with serving(tmp_path, write_config(tmp_path)) as daemon:
        front = Watcher()
        hello = wire.Hello(person="mallory")
        async with first_of([daemon.socket], hello, own(tmp_path, person="mallory").venue())(front) as seat:
            seat.send(Input("talk"))
            await front.turns(1)
        assert not daemon.logged("backend started")
        assert [one.report.verdict for one in front.of(BackendEnded)] == ["proven_empty"]


async def test_what_the_service_refuses_with_a_reason_is_told(tmp_path: Path) -> None:
    with (
        serving(tmp_path, write_config(tmp_path)) as daemon,
        pytest.raises(RefusedError, match="no earlier conversation"),
    ):
        async with first_of([daemon.socket], wire.Hello(resume="last"), own(tmp_path).venue())(Watcher()):
            raise AssertionError("there is no seat")


async def test_an_own_chat_starts_its_agent_at_once_and_goes_on_with_an_earlier_conversation(tmp_path: Path) -> None:
    front = Watcher()
    async with own(tmp_path).venue()(front) as seat:
        await front.backends(1)
        seat.send(Input("where"))
        await front.turns(1)
    thread = front.text.split()[0]
    again = Watcher()
    async with own(tmp_path, resume="last").venue()(again) as seat:
        seat.send(Input("where"))
        await again.turns(1)
    assert again.text.split()[0] == thread
    assert again.of(BackendStarted)[0].resumed


async def test_a_config_serves_without_a_service(tmp_path: Path) -> None:
    config = load(write_config(tmp_path, "anna", "ben"))
    front = Watcher()
    async with Configured(config, "ben").venue()(front) as seat:
        seat.send(Input("talk"))
        assert (await front.turns(1))[0].status == "completed"
    for person in (None, "mallory"):
        with pytest.raises(VenueError, match="--person NAME: anna, ben"):
            async with Configured(config, person).venue()(Watcher()):
                raise AssertionError("there is no seat")


async def test_a_state_folder_that_cannot_be_written_costs_the_memory_and_not_the_chat(tmp_path: Path) -> None:
    (tmp_path / "own").mkdir(mode=0o700)
    (tmp_path / "own" / "corral.db").write_text("this is no database, and long enough to be looked at as one" * 100)
    front = Watcher()
    async with own(tmp_path).venue()(front) as seat:
        await front.hears("this chat will not be remembered")
        seat.send(Input("talk"))
        assert (await front.turns(1))[0].status == "completed"
