"""`corral serve` as a process: its signals, its log, its death and the start after that."""

import asyncio
import json
import re
import signal
import socket
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from corral.backends.backend import Input
from corral.daemon import lock
from corral.process import live_jobs
from corral.service.store.records import endings
from tests.harness import namespace
from tests.harness.daemon import serving, start, write_config
from tests.harness.waiting import until, wait_until

pytestmark = pytest.mark.slow


def living(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def turns(folder: Path) -> list[tuple[str, str]]:
    """The turns in the store, as they stand there, with their reasons."""
    with closing(sqlite3.connect(folder / "state" / "corral.db")) as connection:
        return connection.execute("select state, reason from turns order by began").fetchall()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda one: one.name)
async def test_a_signal_ends_it_all_with_a_summary(number: signal.Signals, tmp_path: Path) -> None:
    with serving(tmp_path, write_config(tmp_path)) as daemon:
        async with daemon.attached() as anna:
            anna.seat.send(Input("stray"))
            await anna.until(lambda: anna.text, "it runs")
            daemon.signal(number)
            await anna.until(lambda: anna.closed_with is not None, "it is closed")
            assert anna.ends == ["turn_ended", "backend_ended"]
            assert anna.closed_with == "the service is stopping"
        assert daemon.wait() == 0
        summary = daemon.wait_logged("service stopped")
        assert (summary["ended"], summary["proven_empty"]) == (1, 1)
        assert turns(tmp_path) == [("interrupted", "the service was stopped")]
        assert not daemon.socket.exists()
        assert not live_jobs(tmp_path / "state")


async def test_a_signal_with_clients_that_do_nothing_logs_no_error(tmp_path: Path) -> None:
    with serving(tmp_path, write_config(tmp_path)) as daemon:
        async with daemon.attached() as anna, daemon.attached() as other:
            other.seat.send(Input("talk"))
            await other.turns(1)
            daemon.signal(signal.SIGTERM)
            await anna.until(lambda: anna.closed_with is not None, "it is closed")
        assert daemon.wait() == 0
        assert [line for line in daemon.log if line["level"] in ("error", "warning")] == []


async def test_a_second_signal_kills_without_waiting(tmp_path: Path) -> None:
    more = '[ladder]\ngoodbye = "25s"\ngrace = "60s"'
    config = write_config(tmp_path, more=more)
    config.write_text(
        config.read_text().replace('"obey"', '"stubborn"').replace("[service]", '[service]\nshutdown = "60s"')
    )
    with serving(tmp_path, config) as daemon:
        async with daemon.attached() as anna:
            anna.seat.send(Input("work"))
            await anna.until(lambda: anna.text, "it works")
            daemon.signal(signal.SIGINT)
            daemon.wait_logged("stopping")
            daemon.signal(signal.SIGINT)
            assert daemon.wait(20) == 0
        assert daemon.logged("second signal: killing without waiting")


async def test_one_line_for_each_start_turn_and_ending_and_no_words_of_people(tmp_path: Path) -> None:
    with serving(tmp_path, write_config(tmp_path)) as daemon:
        async with daemon.attached() as anna:
            anna.seat.send(Input("talk about a secret-word"))
            await anna.turns(1)
            anna.seat.leave()
            await anna.until(lambda: anna.closed_with == "", "it is closed")
        for event in ("backend started", "turn ended", "backend ended"):
            assert len(daemon.logged(event)) == 1, daemon.text()
        assert daemon.logged("turn ended")[0]["status"] == "completed"
        assert daemon.logged("backend ended")[0]["verdict"] == "proven_empty"
        assert "secret-word" not in daemon.text()


async def test_after_a_kill_nothing_lives_and_the_next_start_tells_what_was_cut(tmp_path: Path) -> None:
    config = write_config(tmp_path)
    with serving(tmp_path, config) as daemon:
        async with daemon.attached() as anna:
            anna.seat.send(Input("where"))
            await anna.turns(1)
            thread = anna.text.split()[0]
            anna.seat.send(Input("stray"))
            await anna.until(lambda: "started" in anna.text, "it runs")
            (job,) = live_jobs(tmp_path / "state")
            tree = [process.pid for process in job.tree]
            assert len(tree) == 2
            daemon.signal(signal.SIGKILL)
            daemon.wait()
            await anna.until(lambda: anna.closed_with, "it is closed")
            assert anna.closed_with == "the service is gone: what it ran is ended by its reapers"
        await until(lambda: not any(map(living, tree)), 20, "its reaper has ended the tree")
    with serving(tmp_path, config) as daemon:
        assert [state for state, _ in turns(tmp_path)] == ["completed", "cut"], "before anybody attaches"
        async with daemon.attached() as anna:
            told = await anna.hears("was cut")
            assert "It was not sent again" in told
            name = re.search(r"/resume (\S+)", told)
            assert name is not None
            anna.seat.command(f"/resume {name[1]}")
            await anna.hears("you are back in")
            anna.seat.send(Input("where"))
            await anna.turns(1)
            assert anna.text.split()[0] == thread, "the conversation is there"
        async with daemon.attached() as anna:
            anna.seat.send(Input("talk"))
            await anna.turns(1)
            assert not [one for one in anna.told if "was cut" in one], "it is told once"
    ended = [line for line in daemon.logged("backend ended") if line["why"] == "the service died"]
    assert [line["verdict"] for line in ended] == ["proven_empty"], "the reaper's report was taken in"


async def test_a_backend_that_was_killed_with_the_service_while_it_started_is_in_the_reports(tmp_path: Path) -> None:
    config = write_config(tmp_path)
    text = config.read_text()
    config.write_text(text.replace('"obey"', '"half"'))
    with serving(tmp_path, config) as daemon:
        async with daemon.attached() as anna:
            anna.seat.send(Input("talk"))
            await until(lambda: live_jobs(tmp_path / "state"), 20, "its agent is being started")
            daemon.signal(signal.SIGKILL)
            daemon.wait()
    await until(lambda: not live_jobs(tmp_path / "state"), 20, "its reaper has ended the tree")
    config.write_text(text)
    with serving(tmp_path, config):
        (row,) = endings(tmp_path / "state", "anna").reports
        assert (row.verdict, row.why, row.engine) == ("proven_empty", "the service died", "codex")
        assert not list((tmp_path / "state" / "reports").iterdir())


async def test_hup_reads_the_config_again_and_a_bad_one_is_refused_whole(tmp_path: Path) -> None:
    config = write_config(tmp_path, "anna")
    with serving(tmp_path, config) as daemon:
        async with daemon.attached() as anna:
            anna.seat.send(Input("work"))
            await anna.until(lambda: anna.text, "it works")
            write_config(tmp_path, "ben", more="[pool]\nper_persn = 1")
            daemon.signal(signal.SIGHUP)
            refused = daemon.wait_logged("the configuration was refused, and the old one stays")
            assert any("per_persn" in fault for fault in refused["faults"])
            write_config(tmp_path, "anna", "ben")
            daemon.signal(signal.SIGHUP)
            assert daemon.wait_logged("reloaded")["people"] == 2
            async with daemon.attached(person="ben") as ben:
                ben.seat.send(Input("talk"))
                assert (await ben.turns(1))[0].status == "completed"
            assert not anna.ends, "a running turn goes on"
            anna.seat.interrupt()
            await anna.turns(1)


def serve(config: Path) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "corral", "serve", "--config", str(config)]
    return subprocess.run(argv, capture_output=True, text=True, timeout=60)


def test_a_state_folder_that_others_may_use_is_refused_as_by_the_doctor(tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir(0o755)
    done = serve(write_config(tmp_path))
    assert done.returncode == 1
    (said,) = done.stderr.splitlines()
    assert said.startswith(f"corral: {state} has mode 0755: others could")
    assert said.endswith(f": chmod 0700 {state}")
    assert not list(state.iterdir())


def test_a_state_folder_that_cannot_be_made_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "state").touch()
    done = serve(write_config(tmp_path))
    assert done.returncode == 1
    expected = f"{tmp_path}/state cannot be the state folder, since {tmp_path}/state is a file: name another place"
    assert done.stderr == f"corral: {expected}\n"


@pytest.mark.cross_account
def test_a_full_disk_is_a_sentence(tmp_path: Path) -> None:
    state = tmp_path / "state"
    config = write_config(tmp_path)
    state.mkdir()
    namespace.tmpfs(state, "0700", "64k,nr_inodes=1")
    try:
        done = serve(config)
    finally:
        namespace.unmount(state)
    assert (done.returncode, done.stderr) == (1, f"corral: the disk of {state} is full: make room\n")


def test_probable_mistakes_in_the_configuration_are_logged(tmp_path: Path) -> None:
    more = f"""[timeouts]
silence = "2h"
[[people]]
name = "ben"
workspace = "{tmp_path}/nowhere"
env = {{ MODEL_API_KEY = "a-secret", MODEL_HOST = "h" }}
[[people]]
name = "carl"
os_user = "root"
"""
    config = write_config(tmp_path, more=more)
    text = config.read_text().replace("[engines.codex]", 'shutdown = "5s"\n[engines.codex]')
    config.write_text(text)
    with serving(tmp_path, config) as daemon:
        doubts = {line["key"]: line["doubt"] for line in daemon.logged("a doubt about the configuration")}
        assert set(doubts) >= {
            "timeouts.silence",
            "service.shutdown",
            "people.ben.env",
            "people.ben.workspace",
            "people.carl.os_user",
        }
        assert doubts["people.ben.workspace"].startswith(f"{tmp_path}/nowhere is not there")
        assert "MODEL_API_KEY" in doubts["people.ben.env"]
        assert "a-secret" not in daemon.text()
        assert any("share the account of the service" in doubt for doubt in doubts.values())


def test_one_service_to_a_state_folder(tmp_path: Path) -> None:
    config = write_config(tmp_path)
    with serving(tmp_path, config) as daemon:
        second = subprocess.run(
            [sys.executable, "-m", "corral", "serve", "--config", str(config)],
            capture_output=True,
            text=True,
            timeout=30,
        )
        assert second.returncode == 1
        assert f"{tmp_path}/state is in use by another service (pid {daemon.process.pid})" in second.stderr
        assert daemon.process.poll() is None


def test_a_link_that_replaces_the_lock_does_not_empty_its_target(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("precious")
    (tmp_path / lock.FILE).symlink_to(precious)
    with pytest.raises(OSError, match="symbolic links"):
        lock.take(tmp_path)
    assert precious.read_text() == "precious"


def test_a_bad_config_is_refused_with_all_its_faults(tmp_path: Path) -> None:
    config = write_config(tmp_path, more='[timeouts]\nturn = "soon"\n[recycel]\nidle = 1')
    done = subprocess.run(
        [sys.executable, "-m", "corral", "serve", "--config", str(config)], capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 1
    assert "timeouts.turn" in done.stderr
    assert "recycel" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_service_manager_is_told(tmp_path: Path) -> None:
    manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    manager.bind(str(tmp_path / "notify"))
    manager.settimeout(20)
    with serving(tmp_path, write_config(tmp_path), {"NOTIFY_SOCKET": str(tmp_path / "notify")}) as daemon:
        assert manager.recv(1000).splitlines()[0] == b"READY=1"
        daemon.signal(signal.SIGHUP)
        assert [manager.recv(1000).splitlines()[0] for _ in range(2)] == [b"RELOADING=1", b"READY=1"]
        daemon.signal(signal.SIGTERM)
        assert manager.recv(1000) == b"STOPPING=1"
        assert daemon.wait() == 0
    manager.close()


def test_a_signal_during_the_start_ends_it(tmp_path: Path) -> None:
    config = write_config(tmp_path)
    for number in (signal.SIGTERM, signal.SIGINT):
        daemon = start(tmp_path, config)
        wait_until(lambda: (tmp_path / "state" / "serve.lock").exists(), 20, "it begins")
        daemon.signal(number)
        assert daemon.wait(20) in (0, -number, 128 + number)


async def test_corral_end(tmp_path: Path) -> None:
    config = write_config(tmp_path)
    with serving(tmp_path, config) as daemon:
        async with daemon.attached() as anna:
            anna.seat.send(Input("stray"))
            await anna.until(lambda: anna.text, "it runs")
            command = [sys.executable, "-m", "corral", "end", "anna", "--config", str(config), "--json"]
            done = await asyncio.to_thread(subprocess.run, command, capture_output=True, timeout=30)
            assert done.returncode == 0, done.stderr
            (ended,) = json.loads(done.stdout)["ended"]
            assert ended["report"]["verdict"] == "proven_empty"
            await anna.turns(1)
