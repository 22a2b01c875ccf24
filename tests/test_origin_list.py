"""The origin's list, for each engine under sudo: timeout, stop, new, recycle, restart, kill, shutdown, crash.

After each, nothing that the backend started is alive under the account, by /proc and by `pgrep -u`, whatever shape it
has: an MCP server (and its child) that ignores the end of input and TERM, a command with children in sessions of their
own, a daemon in the background. The account's other processes are untouched.
"""

import json
import os
import signal
import subprocess
import threading
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from corral.offline import OfflineModel, Pause, Run, Say, Script, Turn
from tests.harness import truth
from tests.harness.engines import Engine
from tests.harness.service import Service
from tests.harness.stage import Account
from tests.harness.waiting import until

pytestmark = [pytest.mark.cross_account, pytest.mark.slow]

Event = dict[str, Any]
TIMEOUT = 60.0  # seconds


@dataclass
class Small:
    """backend_driver.py, and what it said."""

    service: Service
    program: "subprocess.Popen[bytes]"
    events: list[Event] = field(default_factory=list)

    @classmethod
    def start(cls, service: Service, engine: Engine, person: Account) -> "Small":
        argv = [service.python, str(service.stage.harness / "backend_driver.py")]
        argv += [engine.name, engine.program, person.name, str(service.state_dir)]
        with (service.folder / "driver.err").open("wb") as log:
            small = cls(service, service.start(argv, stderr=log))
        threading.Thread(target=small._read, daemon=True).start()
        return small

    def _read(self) -> None:
        assert self.program.stdout is not None
        for line in self.program.stdout:
            self.events.append(json.loads(line))

    def order(self, what: str, **more: Any) -> None:
        assert self.program.stdin is not None
        self.program.stdin.write(json.dumps({"do": what, **more}).encode() + b"\n")
        self.program.stdin.flush()

    def named(self, name: str) -> list[Event]:
        return [event for event in self.events if event["event"] == name]

    async def count(self, name: str, number: int = 1) -> Event:
        """Wait for so many events of a kind; the last of them."""
        await until(lambda: len(self.named(name)) >= number, TIMEOUT, f"there were {number} of {name}", self.picture)
        return self.named(name)[number - 1]

    def picture(self) -> str:
        events = "\n".join(map(str, self.events))
        said = (self.service.folder / "driver.err").read_text()
        return f"{events}\n{said}\nalive:\n{truth.picture(self.service.judge.alive())}"


@dataclass
class House:
    """An engine under the person's account that has all kinds of processes below it."""

    service: Service
    person: Account
    engine: Engine
    small: Small
    other: "subprocess.Popen[bytes]"
    """A process of the person's own, which is none of Corral's business."""

    async def at_work(self, conversation: str | None = None, **limits: float) -> None:
        """Start the engine and a turn, and wait until everything that it starts is there."""
        number = len(self.small.named("ready")) + 1
        self.small.order("start", conversation=conversation)
        await self.small.count("ready", number)
        self.small.order("send", text="work", limits=limits)
        await until(lambda: self.here(10), TIMEOUT, "everything was there", self.small.picture)

    def alive(self) -> list[truth.Seen]:
        """What lives of the account by /proc, but for the person's own process."""
        everybody = self.service.judge.alive([self.small.program.pid, self.other.pid])
        return [seen for seen in everybody if self.person.uid in seen.uids]

    def here(self, number: int) -> bool:
        """Whether the turn's processes are there: a server with its child, and the command's four."""
        lines = [seen.command for seen in self.alive()]
        servers = sum("stubborn_mcp" in line for line in lines)
        return servers >= 2 and sum("time.sleep" in line and "-c import" in line for line in lines) >= 4 and number > 0

    def others(self) -> list[int]:
        """What `pgrep -u` finds of the account, but for the person's own process and the dead."""
        done = subprocess.run(["pgrep", "-u", self.person.name], capture_output=True, text=True, check=False)
        pids = [int(pid) for pid in done.stdout.split() if int(pid) != self.other.pid]
        return [pid for pid in pids if truth.look(pid) is not None]

    async def nothing_is_left(self) -> None:
        await until(lambda: not self.alive() and not self.others(), TIMEOUT, "nothing was left", self.small.picture)
        assert self.other.poll() is None, "the person's other process is untouched"


COMMAND = """
setsid /usr/bin/python3 -c 'import time; time.sleep(301)' &
(trap "" TERM HUP; /usr/bin/python3 -c 'import time, signal; signal.signal(15, signal.SIG_IGN); time.sleep(302)') &
/usr/bin/python3 -c 'import os, time; os.setsid(); os.fork() and os._exit(0); time.sleep(303)'
/usr/bin/python3 -c 'import time; time.sleep(304)'
"""


@pytest.fixture
async def house(
    service: Service, person: Account, installed_engine: Engine, sudo_rules: Callable[..., Any]
) -> AsyncIterator[House]:
    engine = installed_engine
    if not engine.kind().starts_in_workspace:
        sudo_rules()
    else:
        # The person's home is closed to the service, and the engine is started in it.
        sudo_rules(command_tags="CWD=* NOPASSWD:")
    other = service.start(["/bin/sleep", "1000"], account=person)
    turns = {"work": Turn(Say("I work."), Run(COMMAND), Say("never")), "hello": Turn(Say("hello"))}
    script = Script(then=lambda message: turns.get(message, Turn(Say("hm"), Pause(0.01))))
    async with OfflineModel(script) as model:
        engine.point(person.home, model.base_url, person.uid)
        engine.add_server(person.home, [service.python, str(service.stage.harness / "stubborn_mcp.py")], person.uid)
        small = Small.start(service, engine, person)
        try:
            yield House(service, person, engine, small, other)
        finally:
            small.program.kill()
            other.kill()
            other.wait()
            service.wait_empty()
            engine.forget(person.home)


async def test_timeout(house: House) -> None:
    await house.at_work(turn=8.0)
    end = await house.small.count("turn_ended")
    assert end["status"] == "timed_out"
    assert "the turn's limit" in end["reason"]
    await until(lambda: not _commands(house), TIMEOUT, "the command was gone", house.small.picture)
    assert any("stubborn_mcp" in seen.command for seen in house.alive()), "what the engine keeps stays with it"
    house.small.order("send", text="hello")
    assert (await house.small.count("turn_ended", 2))["status"] == "completed"
    house.small.order("end")
    assert (await house.small.count("backend_ended"))["report"]["verdict"] == "proven_empty"
    await house.nothing_is_left()


async def test_interrupt(house: House) -> None:
    await house.at_work()
    house.small.order("interrupt")
    assert (await house.small.count("interrupted"))["ran"]
    assert not _commands(house), "they are gone when interrupt returns, one in a session of its own included"
    assert (await house.small.count("turn_ended"))["status"] == "interrupted"
    house.small.order("end")
    await house.small.count("backend_ended")
    await house.nothing_is_left()


async def test_stop(house: House) -> None:
    await house.at_work()
    house.small.order("end")
    ended = await house.small.count("backend_ended")
    assert ended["report"]["verdict"] == "proven_empty"
    assert house.small.named("turn_ended")[-1]["status"] == "interrupted"
    await house.nothing_is_left()


@pytest.mark.parametrize("goes_on", [True, False], ids=["recycle_and_restart", "new"])
async def test_new_and_recycle_and_restart(house: House, goes_on: bool) -> None:
    await house.at_work()
    house.small.order("end")
    await house.small.count("turn_over")
    conversation = house.small.named("turn_over")[0]["conversation"]
    await house.small.count("backend_ended")
    await house.nothing_is_left()
    house.small.order("start", conversation=conversation if goes_on else None)
    started = await house.small.count("backend_started", 2)
    assert started["resumed"] == goes_on
    house.small.order("send", text="hello")
    assert (await house.small.count("turn_ended", 2))["status"] == "completed"
    assert ((await house.small.count("turn_over", 2))["conversation"] == conversation) == goes_on
    house.small.order("end")
    await house.small.count("backend_ended", 2)
    await house.nothing_is_left()


@pytest.mark.parametrize("who", ["wrapper", "native", "command", "reaper"])
async def test_kill(house: House, who: str) -> None:
    """Somebody kills a process of the tree by hand, as the origin's /kill did: the rest follows."""
    await house.at_work()
    engine = sorted(_engine(house), key=lambda seen: seen.pid)
    victims: dict[str, Callable[[], int]] = {
        "wrapper": lambda: engine[0].pid,
        "native": lambda: engine[-1].pid,
        "command": lambda: _commands(house)[0].parent,
        "reaper": lambda: int(house.small.named("ready")[-1]["reaper"]),
    }
    os.kill(victims[who](), signal.SIGKILL)
    if who == "command":
        house.small.order("end")
    ended = await house.small.count("turn_ended")
    assert ended["status"] in ("failed", "interrupted")
    house.small.order("end")
    await house.small.count("backend_ended")
    await house.nothing_is_left()


async def test_shutdown(house: House) -> None:
    await house.at_work()
    house.small.program.terminate()
    assert house.service.wait_exit(house.small.program, 30) == 0
    await house.nothing_is_left()


async def test_crash_of_the_service(house: House) -> None:
    await house.at_work()
    house.small.program.kill()
    house.service.wait_exit(house.small.program)
    await house.nothing_is_left()


async def test_crash_of_the_service_and_of_the_reaper(house: House) -> None:
    await house.at_work()
    reaper = int(house.small.named("ready")[-1]["reaper"])
    os.kill(house.small.program.pid, signal.SIGSTOP)
    os.kill(reaper, signal.SIGKILL)
    house.small.program.kill()
    house.service.wait_exit(house.small.program)
    status, swept, err = house.service.sweep()
    assert status == 0, (swept, err)
    await house.nothing_is_left()


def _commands(house: House) -> list[truth.Seen]:
    return [seen for seen in house.alive() if "time.sleep(30" in seen.command and seen.name.startswith("python")]


def _engine(house: House) -> list[truth.Seen]:
    """The engine's own: node and the native binary, or the latter alone."""
    speaking = [seen for seen in house.alive() if "app-server" in seen.command or "--print" in seen.command]
    return [seen for seen in speaking if seen.name != "sudo"]
