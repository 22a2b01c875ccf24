"""`corral demo`: it proves what it shows, says so when it cannot, and leaves nothing."""

import asyncio
import os
import pwd
import re
import signal
import subprocess
from pathlib import Path

import pytest
from rich.console import Console

from corral.demo.acts import Stage
from corral.demo.place import DemoFailed, Place
from corral.demo.server import Server
from corral.process import Report
from corral.terminal.printing import TextPrinter
from tests.harness import namespace
from tests.harness.chatting import on_path
from tests.harness.screens import on_screen
from tests.harness.service import Service
from tests.harness.stage import Account
from tests.harness.waiting import wait_until

ROOT = Account("root", 0, 0, Path("/root"))
DEMO_TIMEOUT = 100.0  # seconds


def demo(
    service: Service, env: dict[str, str], account: Account | None = None, timeout: float = DEMO_TIMEOUT
) -> tuple[int, str, str]:
    """Play the demo without a terminal; status, output, errors."""
    program = service.start([service.python, "-m", "corral", "demo"], env=env, account=account)
    out, err = program.communicate(b"", timeout)
    return program.returncode, out.decode(), err.decode()


def left(service: Service) -> list[str]:
    return [path.name for path in service.folder.glob("corral-*")]


@pytest.mark.codex
@pytest.mark.slow
@pytest.mark.cross_account
def test_as_root_it_plays_across_accounts_and_proves_it_twice(service: Service, codex_command: list[str]) -> None:
    status, out, err = demo(service, on_path(service, codex_command), ROOT)
    assert status == 0, out + err
    assert out.count("proven_empty") == 2, out
    assert re.search("Codex as (games|news|uucp|nobody), another account, through sudo", out), out
    assert out.count("finds 0 processes of this demo, and the port is silent") == 2
    assert "http.server" in out
    assert "kill -KILL" in out
    assert "\x1b" not in out
    assert err == ""
    assert left(service) == []
    service.wait_empty()


@pytest.mark.codex
@pytest.mark.slow
def test_under_one_account_it_says_why_and_proves_it_all_the_same(service: Service, codex_command: list[str]) -> None:
    status, out, err = demo(service, on_path(service, codex_command))
    assert status == 0, out + err
    assert out.count("proven_empty") == 2, out
    if not service.stage.lacking:
        assert "Codex runs under this account and not under another: that needs root" in out
    assert left(service) == []
    service.wait_empty()


@pytest.mark.codex
@pytest.mark.slow
@pytest.mark.cross_account
def test_a_codex_in_a_closed_folder_is_lent_to_the_other_account(service: Service) -> None:
    # The wheel's, which is one file; npm's is a script with its binary elsewhere.
    wheel = pytest.importorskip("codex_cli_bin")
    program = Path(wheel.__file__).with_name("bin") / "codex"
    closed = service.folder / "closed"
    closed.mkdir(mode=0o700)
    (closed / "codex").touch()
    namespace.bind(program, closed / "codex")
    try:
        (service.folder / "codex_cli_bin.py").write_text("raise ImportError")
        path = os.pathsep.join([str(service.folder), service.env["PYTHONPATH"]])
        env = {"PATH": f"{closed}:{service.env['PATH']}", "PYTHONPATH": path, "TMPDIR": "/var/tmp"}
        status, out, err = demo(service, env, ROOT)
    finally:
        namespace.unmount(closed / "codex")
    assert status == 0, out + err
    assert "may not enter the folder of" in out
    assert "another account, through sudo" in out
    assert list(Path("/var/tmp").glob("corral-demo-*")) == []


@pytest.mark.codex
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
@pytest.mark.slow
def test_a_signal_in_the_middle_leaves_nothing_running(
    service: Service, codex_command: list[str], number: signal.Signals
) -> None:
    program = service.start(
        [service.python, "-m", "corral", "demo"], env=on_path(service, codex_command), stderr=subprocess.DEVNULL
    )
    wait_until(lambda: [one for one in service.judge.alive() if "http.server" in one.command], 60, "the server runs")
    program.send_signal(number)
    assert service.wait_exit(program, 40) == (-9 if number == signal.SIGKILL else 128 + number)
    service.wait_empty()
    if number != signal.SIGKILL:
        assert left(service) == []


@pytest.mark.codex
@pytest.mark.slow
def test_a_reader_that_goes_away_does_not_cut_it_short(service: Service, codex_command: list[str]) -> None:
    program = service.start([service.python, "-m", "corral", "demo"], env=on_path(service, codex_command))
    assert program.stdout is not None
    assert program.stderr is not None
    program.stdout.readline()
    program.stdout.close()
    assert service.wait_exit(program, 40) == 0
    assert program.stderr.read() == b""
    assert left(service) == []
    service.wait_empty()


@pytest.mark.codex
@pytest.mark.slow
async def test_on_a_terminal_it_offers_a_chat(service: Service, codex_command: list[str]) -> None:
    with on_screen(service, service.corral("demo"), on_path(service, codex_command)) as screen:
        await screen.shows("Your turn")
        await screen.prompts()
        screen.enter("run echo $((400000 + 2)); exit 3")
        await screen.shows("  400002")  # no pid in the trees above
        await screen.prompts()
        screen.enter("/quit")
        assert await screen.exited() == 0
        assert screen.screen.count("proven_empty") == 3
    assert left(service) == []
    service.wait_empty()


def test_a_codex_that_does_not_start_is_said(service: Service) -> None:
    folder = service.folder / "bin"
    folder.mkdir()
    (folder / "codex").write_text("#!/bin/sh\nexit 3\n")
    (folder / "codex").chmod(0o755)
    status, out, err = demo(service, {"PATH": f"{folder}:{service.env['PATH']}"})
    assert status == 1
    assert "The demo failed: " in out
    assert "does not start" in out
    assert "Traceback" not in out + err
    assert left(service) == []


class TestTheProof:
    """The demo's own judgement: each of these must make it fail."""

    @pytest.fixture
    def stage(self, tmp_path: Path) -> Stage:
        (tmp_path / "state").mkdir(mode=0o700)
        place = Place(None, ["codex"], "python3", tmp_path)
        return Stage(place, TextPrinter(Console(quiet=True), prompts=False))

    @pytest.fixture
    def silent(self) -> Server:
        return Server.on_free_port("python3")

    async def test_nothing_left_passes(self, stage: Stage, silent: Server) -> None:
        await stage.show_empty(Report("proven_empty", "no_children", 0.1), silent)

    @pytest.mark.parametrize("verdict", ["survivors", "empty_by_scan"])
    async def test_another_verdict_fails(self, stage: Stage, silent: Server, verdict: str) -> None:
        with pytest.raises(DemoFailed, match=f"the verdict is {verdict}"):
            await stage.show_empty(Report(verdict, None, 0.1), silent)

    async def test_a_process_with_the_mark_fails(self, stage: Stage, silent: Server) -> None:
        env = {"CODEX_HOME": str(stage.place.home)}
        sleeper = await asyncio.create_subprocess_exec("sleep", "60", env=env)
        try:
            with pytest.raises(DemoFailed, match=f"pid {sleeper.pid} sleep 60"):
                await stage.show_empty(Report("proven_empty", "no_children", 0.1), silent)
        finally:
            sleeper.kill()
            await sleeper.wait()

    async def test_a_server_that_the_look_does_not_find_fails(self, stage: Stage) -> None:
        async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"HTTP/1.0 200 OK\r\n\r\n")
            writer.close()

        foreign = await asyncio.start_server(answer, "127.0.0.1", 0)
        async with foreign:
            server = Server("python3", foreign.sockets[0].getsockname()[1])
            with pytest.raises(DemoFailed, match="does not find the server"):
                await stage.show_alive(server)
            with pytest.raises(DemoFailed, match="still answers"):
                await stage.show_empty(Report("proven_empty", "no_children", 0.1), server)


def test_the_own_account_has_a_name(tmp_path: Path) -> None:
    assert Place(None, [], "", tmp_path).account == pwd.getpwuid(os.geteuid()).pw_name
