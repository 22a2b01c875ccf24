"""Where a chat is held: at the service that is here; without one in its own process; and it says which."""

import asyncio
import getpass
from pathlib import Path

import pytest

from corral.backends.backend import Input
from corral.backends.engine import EngineKind
from corral.backends.events import BackendStarted
from corral.config import Config, ConfigError, Person, load
from corral.remote import addresses, wire
from corral.remote.client import RefusedError
from corral.service.conversation_ref import ConversationRef
from corral.terminal.connectors import Configured, Connector, ConnectorError, InProcess, chosen, first_of
from tests.harness.backends import scripted
from tests.harness.daemon import serving, write_config
from tests.harness.hosting import Watcher


def own(folder: Path, **more: object) -> InProcess:
    def kinds(_config: Config, _person: Person, ref: ConversationRef) -> EngineKind:
        return scripted(ref.engine, "obey")

    return InProcess(kinds=kinds, state_dir=folder / "own", cwd=folder, **more)  # type: ignore[arg-type]


@pytest.mark.slow
async def test_a_running_service_is_the_first_choice(tmp_path: Path) -> None:
    with serving(tmp_path, write_config(tmp_path)) as daemon:
        front = Watcher()
        places = [tmp_path / "nothing.sock", daemon.socket]
        async with first_of(places, wire.Hello(person="anna"), own(tmp_path).connector())(front) as seat:
            seat.send(Input("talk"))
            await front.turns(1)
            seat.leave()
            await front.until(lambda: front.closed_with == "", "it is closed")
        assert len(daemon.logged("backend started")) == 1
        assert not (tmp_path / "own").exists()


async def refused(connector: Connector) -> str:
    """Why there is no seat to be had. No agent was started for it."""
    front = Watcher()
    with pytest.raises(ConnectorError) as error:
        async with connector(front):
            raise AssertionError("there is no seat")
    assert not front.of(BackendStarted)
    return str(error.value)


async def test_an_account_that_is_not_served_is_told_so_and_gets_no_agent_outside_of_the_service(
    tmp_path: Path,
) -> None:
    with serving(tmp_path, write_config(tmp_path)) as daemon:
        hello = wire.Hello(person="mallory")
        why = await refused(first_of([daemon.socket], hello, own(tmp_path).connector()))
        assert "it does not serve this account, or not for that person" in why
        assert "corral chat --user NAME" in why
        assert not daemon.logged("backend started")
    assert not (tmp_path / "own").exists()


async def test_a_service_that_resets_the_connection_or_is_down_is_not_bypassed(tmp_path: Path) -> None:
    path = tmp_path / "corral.sock"
    server = await asyncio.start_unix_server(lambda _, writer: writer.transport.abort(), path)
    connector = first_of([path], wire.Hello(), own(tmp_path).connector())
    assert "without a word" in await refused(connector)
    server.close()
    assert f"no service listens at {path}" in await refused(connector)
    assert not (tmp_path / "own").exists()


async def test_a_chat_says_where_it_is_held(tmp_path: Path) -> None:
    with serving(tmp_path, write_config(tmp_path)) as daemon:
        front = Watcher()
        async with first_of([daemon.socket], wire.Hello(), own(tmp_path).connector())(front):
            assert front.told == [f"held by the service at {daemon.socket}, for anna: codex in {tmp_path}/work"]
    front = Watcher()
    async with own(tmp_path, told="no service is configured here").connector()(front):
        me = getpass.getuser()
        assert front.told[0] == f"no service is configured here: held in this terminal, for {me}: codex in {tmp_path}"


async def test_what_is_configured_is_used_or_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CORRAL_CONFIG", str(write_config(tmp_path, "anna", "ben")))
    monkeypatch.setattr(addresses, "SYSTEM_SOCKET", tmp_path / "none.sock")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "none"))
    here = own(tmp_path)
    assert "corral.toml has nobody called 'mallory'" in await refused(chosen(None, wire.Hello(person="mallory"), here))
    assert "--person NAME: anna, ben" in await refused(chosen(None, wire.Hello(), here))
    front = Watcher()
    async with chosen(None, wire.Hello(person="ben"), here)(front):
        assert front.told[0].startswith(
            f"no service listens at {tmp_path}/state/corral.sock, and {tmp_path}/corral.toml"
        )
        assert front.told[0].endswith(f"held in this terminal, for ben: codex in {tmp_path}/work")
    monkeypatch.setenv("CORRAL_SOCKET", str(tmp_path / "named.sock"))
    assert f"no service listens at {tmp_path}/named.sock" in await refused(chosen(None, wire.Hello(person="ben"), here))
    monkeypatch.delenv("CORRAL_SOCKET")
    (tmp_path / "corral.toml").write_text("[servise]\n")
    with pytest.raises(ConfigError):
        chosen(None, wire.Hello(), here)


async def test_a_person_that_nothing_here_knows_is_refused(tmp_path: Path) -> None:
    why = await refused(own(tmp_path, person="mallory").connector())
    assert why.startswith("--person mallory: people have names in a config")
    async with own(tmp_path, person=getpass.getuser()).connector()(Watcher()):
        pass


async def test_what_the_service_refuses_with_a_reason_is_told(tmp_path: Path) -> None:
    with (
        serving(tmp_path, write_config(tmp_path)) as daemon,
        pytest.raises(RefusedError, match="no earlier conversation"),
    ):
        async with first_of([daemon.socket], wire.Hello(resume="last"), own(tmp_path).connector())(Watcher()):
            raise AssertionError("there is no seat")


async def test_an_own_chat_starts_its_agent_at_once_and_goes_on_with_an_earlier_conversation(tmp_path: Path) -> None:
    front = Watcher()
    async with own(tmp_path).connector()(front) as seat:
        await front.backends(1)
        seat.send(Input("where"))
        await front.turns(1)
    thread = front.text.split()[0]
    again = Watcher()
    async with own(tmp_path, resume="last").connector()(again) as seat:
        seat.send(Input("where"))
        await again.turns(1)
    assert again.text.split()[0] == thread
    assert again.of(BackendStarted)[0].resumed


async def test_a_config_serves_without_a_service(tmp_path: Path) -> None:
    config = load(write_config(tmp_path, "anna", "ben"))
    front = Watcher()
    async with Configured(config, "ben").connector()(front) as seat:
        seat.send(Input("talk"))
        assert (await front.turns(1))[0].status == "completed"
    for person in (None, "mallory"):
        with pytest.raises(ConnectorError, match="--person NAME: anna, ben"):
            async with Configured(config, person).connector()(Watcher()):
                raise AssertionError("there is no seat")


async def test_a_chat_without_a_writable_state_folder_works_and_is_not_remembered(tmp_path: Path) -> None:
    (tmp_path / "own").mkdir(mode=0o700)
    (tmp_path / "own" / "corral.db").write_text("this is no database, and long enough to be looked at as one" * 100)
    front = Watcher()
    async with own(tmp_path).connector()(front) as seat:
        await front.hears("this chat will not be remembered")
        seat.send(Input("talk"))
        assert (await front.turns(1))[0].status == "completed"
