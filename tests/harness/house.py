"""A service under one account, a person's real engine under another, and the person's chat at its socket."""

import json
import os
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from corral.offline import OfflineModel, Run, Say, Script, Turn
from tests.harness import truth
from tests.harness.engines import Engine
from tests.harness.service import Service
from tests.harness.stage import Account
from tests.harness.waiting import until

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


@asynccontextmanager
async def furnished(
    service: Service, person: Account, engine: Engine, sudo_rules: Callable[..., Any]
) -> AsyncIterator[House]:
    """All that is needed, and a process of the person's own; the service is not started. Whatever it left is ended."""
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
        try:
            yield House(service, person, engine, config, other, other)
        finally:
            for one in service.started:
                one.kill()
                one.wait()
            service.wait_empty()
            engine.forget(person.home)


async def at_work(house: House) -> Chat:
    """A chat in whose turn a command ran; what it left behind runs."""
    chat = house.chat(house.person, "person")
    chat.say("work")
    end = await chat.has("turn_ended")
    assert end["status"] == "completed", end
    await until(lambda: house.left_running() >= LEFT, TIMEOUT, "it left work running", house.picture)
    return chat
