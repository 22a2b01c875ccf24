"""The origin, whole: a service under one account, a person's engine under another, and the service dies or stops.

The person talks from their own account over the socket. After each way of ending nothing of the account is alive that
the service started, by /proc and by `pgrep -u`, and the person's other processes are untouched.
"""

import json
import os
import signal
import subprocess
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from corral.offline import OfflineModel, Run, Say, Script, Turn
from tests.harness import truth
from tests.harness.engines import Engine
from tests.harness.service import Service
from tests.harness.stage import Account
from tests.harness.waiting import until

pytestmark = [pytest.mark.cross_account, pytest.mark.slow]

TIMEOUT = 60.0  # seconds
COMMAND = """
setsid /usr/bin/python3 -c 'import time; time.sleep(301)' &
(trap "" TERM HUP; /usr/bin/python3 -c 'import time, signal; signal.signal(15, signal.SIG_IGN); time.sleep(302)') &
/usr/bin/python3 -c 'import os, time; os.setsid(); os.fork() and os._exit(0); time.sleep(303)'
true
"""
LEFT = 2  # at least: codex ends the process group of a command that is over


@dataclass
class Chat:
    """`corral chat --json` under some account."""

    program: "subprocess.Popen[bytes]"
    out: Any
    events: list[dict[str, Any]] = field(default_factory=list)

    def say(self, line: str) -> None:
        assert self.program.stdin is not None
        self.program.stdin.write(line.encode() + b"\n")
        self.program.stdin.flush()

    def named(self, name: str) -> list[dict[str, Any]]:
        lines = self.out.read_text().splitlines()
        return [event for event in map(json.loads, lines) if event["event"] == name]

    async def has(self, name: str, count: int = 1) -> dict[str, Any]:
        await until(lambda: len(self.named(name)) >= count, TIMEOUT, f"it has {count} of {name}", self.out.read_text)
        return self.named(name)[count - 1]


@dataclass
class House:
    """A running service, a person's own process, and a person's chat."""

    service: Service
    person: Account
    engine: Engine
    config: Any
    other: "subprocess.Popen[bytes]"
    served: "subprocess.Popen[bytes]"

    def serve(self) -> None:
        log = (self.service.folder / "serve.log").open("ab")
        self.served = self.service.start(
            self.service.corral("serve", "--config", str(self.config)), stdout=log, stderr=log
        )
        log.close()

    async def ready(self, count: int = 1) -> None:
        await until(lambda: self.log().count('"serving"') >= count, TIMEOUT, "it serves", self.log)

    def log(self) -> str:
        return (self.service.folder / "serve.log").read_text()

    def chat(self, account: Account, name: str, *options: str) -> Chat:
        out = self.service.folder / f"{name}.out"
        env = {"HOME": str(account.home), "XDG_STATE_HOME": str(account.home / "state"), "USER": account.name}
        with out.open("wb") as file:
            program = self.service.start(
                self.service.corral("chat", "--json", *options),
                account=account,
                stdout=file,
                env={**env, "CORRAL_SOCKET": str(self.service.folder / "corral.sock")},
            )
        return Chat(program, out)

    def alive(self) -> list[truth.Seen]:
        but = [one.pid for one in self.service.started]
        return [seen for seen in self.service.judge.alive(but) if self.person.uid in seen.uids]

    def others(self) -> list[int]:
        done = subprocess.run(["pgrep", "-u", self.person.name], capture_output=True, text=True, check=False)
        but = {one.pid for one in self.service.started}
        return [pid for pid in map(int, done.stdout.split()) if pid not in but and truth.look(pid) is not None]

    def picture(self) -> str:
        return f"{self.log()}\n{truth.picture(self.service.judge.alive())}"

    def left_running(self) -> int:
        return sum("time.sleep(30" in seen.command and "-c import" in seen.command for seen in self.alive())

    async def nothing_is_left(self) -> None:
        await until(
            lambda: not self.alive() and not self.others(),
            TIMEOUT,
            "nothing was left",
            self.picture,
        )
        assert self.other.poll() is None, "the person's other process is untouched"


@pytest.fixture
async def house(
    service: Service, person: Account, installed_engine: Engine, sudo_rules: Callable[..., Any]
) -> AsyncIterator[House]:
    engine = installed_engine
    sudo_rules(**({"command_tags": "CWD=* NOPASSWD:"} if engine.kind().starts_in_workspace else {}))
    other = service.start(["/bin/sleep", "1000"], account=person)
    turns = {"work": Turn(Say("I work."), Run(COMMAND), Say("It runs."))}
    config = service.folder / "corral.toml"
    config.write_text(
        f'[service]\nstate_dir = "{service.state_dir}"\nsocket = "{service.folder}/corral.sock"\n'
        f'engine = "{engine.name}"\n'
        f'[engines.{engine.name}]\ncommand = [{json.dumps(engine.program)}]\napproval = "never"\n'
        + ('sandbox = "danger-full-access"\n' if engine.name == "codex" else "")
        + f'[[people]]\nname = "daniel"\nos_user = "{person.name}"\nworkspace = "{person.home}"\n'
    )
    config.chmod(0o600)
    os.chown(config, service.account.uid, service.account.gid)
    async with OfflineModel(Script(then=lambda message: turns.get(message, Turn(Say("hello"))))) as model:
        engine.point(person.home, model.base_url, person.uid)
        house = House(service, person, engine, config, other, other)
        house.serve()
        try:
            await house.ready()
            yield house
        finally:
            for one in service.started:
                one.kill()
                one.wait()
            service.wait_empty()
            engine.forget(person.home)


async def at_work(house: House) -> Chat:
    chat = house.chat(house.person, "person")
    chat.say("work")
    end = await chat.has("turn_ended")
    assert end["status"] == "completed", end
    await until(lambda: house.left_running() >= LEFT, TIMEOUT, "it left work running", house.picture)
    return chat


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
