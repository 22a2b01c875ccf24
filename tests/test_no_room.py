"""At the limit of processes and threads: a sentence at the start, and an end that is in order."""

import json
import os
import signal
from pathlib import Path

import pytest

from tests.harness.backends import PEER
from tests.harness.service import Service
from tests.harness.waiting import wait_until

pytestmark = [
    pytest.mark.slow,
    # Root is not counted.
    pytest.mark.skipif(os.geteuid() != 0, reason="needs an account of its own, whose processes can be counted"),
    pytest.mark.cross_account,
]


ENOUGH = 5
"""The chat, its two threads, the reaper and the agent. A chat needs one thread more for a moment, now and then."""


def config(service: Service) -> Path:
    peer = service.folder / "peer.py"
    peer.write_text(PEER.read_text())
    peer.chmod(0o644)
    command = json.dumps([service.python, str(peer), "codex", "obey"])
    file = service.folder / "corral.toml"
    file.write_text(
        f'[service]\nstate_dir = "{service.state_dir}"\n[engines.codex]\ncommand = {command}\n'
        f'[[people]]\nname = "me"\nworkspace = "{service.folder}"\n'
    )
    file.chmod(0o644)
    return file


@pytest.mark.parametrize("most", [1, 2, 3, 4, 5, 6])
def test_a_chat_that_finds_no_room_says_so_in_a_sentence(service: Service, most: int) -> None:
    chat = service.corral("chat", "--json", "--person", "me", "--config", str(config(service)))
    done = service.run(["prlimit", f"--nproc={most}", *chat], text=b"talk\n")
    assert "Traceback" not in done.stderr
    assert "fault in corral" not in done.stderr
    if most >= ENOUGH and done.returncode == 0:
        assert '"proven_empty"' in done.stdout
        return
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith("corral: ")
    assert "raise the limit" in last, done.stderr
    service.wait_empty()


def close_the_room(service: Service, pid: int) -> None:
    done = service.run(["prlimit", f"--pid={pid}", "--nproc=1:1"])
    assert done.returncode == 0, done.stderr


def test_a_chat_that_ends_without_room_ends_in_order(service: Service) -> None:
    chat = service.start(service.corral("chat", "--json", "--person", "me", "--config", str(config(service))))
    assert chat.stdin is not None
    assert chat.stdout is not None
    chat.stdin.write(b"talk\n")
    chat.stdin.flush()
    events = []
    while not events or events[-1]["event"] != "turn_ended":
        events.append(json.loads(chat.stdout.readline()))
    close_the_room(service, chat.pid)
    out, err = chat.communicate(timeout=30)
    assert (chat.returncode, err) == (0, b"")
    (ended,) = [event for event in map(json.loads, out.splitlines()) if event["event"] == "backend_ended"]
    assert ended["report"]["verdict"] == "proven_empty"


def test_a_service_that_ends_without_room_ends_in_order(service: Service) -> None:
    log = service.folder / "log"
    with log.open("wb") as file:
        served = service.start(service.corral("serve", "--config", str(config(service))), stdout=file, stderr=file)
    wait_until(lambda: '"serving"' in log.read_text(), 30, "it serves", log.read_text)
    close_the_room(service, served.pid)
    served.send_signal(signal.SIGTERM)
    assert service.wait_exit(served) == 0
    assert "Traceback" not in log.read_text()
    assert all(json.loads(line)["level"] == "info" for line in log.read_text().splitlines())
