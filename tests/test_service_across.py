"""The origin, whole: a service under one account, a person's engine under another, and the service dies or stops.

The person talks from their own account over the socket. After each way of ending nothing of the account is alive that
the service started, by /proc and by `pgrep -u`, and the person's other processes are untouched.
"""

import os
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from tests.harness.engines import Engine
from tests.harness.house import LEFT, TIMEOUT, House, at_work, furnished
from tests.harness.service import Service
from tests.harness.stage import Account
from tests.harness.waiting import until

pytestmark = [pytest.mark.cross_account, pytest.mark.slow]


@pytest.fixture
async def house(
    service: Service, person: Account, installed_engine: Engine, sudo_rules: Callable[..., Any]
) -> AsyncIterator[House]:
    async with furnished(service, person, installed_engine, sudo_rules) as house:
        house.serve()
        await house.ready()
        yield house


async def test_stop_and_status_by_the_person_over_the_socket(house: House) -> None:
    chat = await at_work(house)
    chat.say("/status")
    await until(lambda: any(one.get("about") == "status" for one in chat.named("notice")), TIMEOUT, "it has told")
    (status,) = [one for one in chat.named("notice") if one.get("about") == "status"]
    assert status["data"]["backend"]["account"] == house.person.name
    assert len(status["data"]["background"]) >= LEFT
    chat.say("/stop")
    ended = await chat.has("backend_ended")
    assert (ended["report"]["verdict"], ended["report"]["proof"]) == ("proven_empty", "no_children")
    await house.nothing_is_left()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=lambda one: one.name)
async def test_the_end_of_the_service(number: signal.Signals, house: House) -> None:
    chat = await at_work(house)
    house.served.send_signal(number)
    status = house.service.wait_exit(house.served, 40)
    assert status == (0 if number == signal.SIGTERM else -number)
    await house.nothing_is_left()
    assert house.service.wait_exit(chat.program) == 1, "the chat says that the service is gone"
    house.serve()
    await house.ready(2)
    again = house.chat(house.person, "again", "--resume", "last")
    again.say("hello again")
    assert (await again.has("turn_ended"))["status"] == "completed"
    assert (await again.has("backend_started"))["resumed"], "the conversation is there"


async def test_the_person_goes_away_and_the_operator_ends_it(house: House) -> None:
    chat = await at_work(house)
    chat.program.kill()
    house.service.wait_exit(chat.program)
    assert house.left_running() >= LEFT, "a lost connection ends nothing"
    done = house.service.run(house.service.corral("end", "daniel", "--config", str(house.config)), timeout=60)
    assert done.returncode == 0, done.stderr
    assert "proven_empty" in done.stdout
    await house.nothing_is_left()


async def test_a_link_gives_the_person_no_folder_that_only_the_service_may_enter(house: House) -> None:
    folder = house.service.folder / "closed"
    for made, mode in ((folder, 0o700), (folder / "open", 0o755)):
        made.mkdir()
        os.chown(made, house.service.account.uid, house.service.account.gid)
        made.chmod(mode)
    house.person.home.chmod(0o711)  # so that the service gets to the link
    (house.person.home / "evil").symlink_to(folder / "open")
    try:
        chat = house.chat(house.person, "person")
        chat.say("/workspace evil")
        await until(lambda: "begins a conversation in" in chat.out.read_text(), TIMEOUT, "it has moved", house.picture)
        chat.say("hello")
        await chat.has("turn_ended")
        entered = {str(Path(f"/proc/{one.pid}/cwd").readlink()) for one in house.alive()}
        assert not [place for place in entered if place.startswith(str(folder))]
        chat.say("/quit")
        await house.nothing_is_left()
    finally:
        (house.person.home / "evil").unlink()
        house.person.home.chmod(0o700)


async def test_a_stranger_gets_nothing_and_learns_nothing(house: House) -> None:
    stranger = house.service.stage.accounts["uucp"]
    program = (
        "import socket, sys\n"
        "s = socket.socket(socket.AF_UNIX); s.settimeout(10); s.connect(sys.argv[1])\n"
        "try:\n"
        '    s.sendall(b\'{"call": "hello", "person": "daniel"}\\n\'); sys.stdout.write(repr(s.recv(100)))\n'
        "except (BrokenPipeError, ConnectionResetError):\n"
        "    sys.stdout.write(repr(b''))\n"
    )
    asked = house.service.start(
        [house.service.python, "-c", program, str(house.service.folder / "corral.sock")], account=stranger
    )
    out, err = asked.communicate(timeout=20)
    assert (out, err) == (b"b''", b"")
    await until(lambda: "a connection was refused" in house.log(), TIMEOUT, "it is in the log", house.log)
    await house.nothing_is_left()
