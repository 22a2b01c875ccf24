"""The fault report that the project began with: stopping a person's Codex left its native binary running.

`sudo → node → codex`: the bot looked one level below sudo, killed node, and the native binary fell to init. The names
of the tests are the report's.
"""

import asyncio
import json
import os
import signal
import stat
import subprocess
import textwrap
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from corral.backends.codex.offline import codex_arguments
from corral.offline import OfflineModel, Run, Say, Script, Turn
from tests.harness.driving import Driver
from tests.harness.service import Service
from tests.harness.stage import Account, Stage
from tests.harness.trees import TREES, Planted, Tree
from tests.harness.truth import Seen
from tests.harness.waiting import until, wait_until

pytestmark = pytest.mark.cross_account

Plant = Callable[[Tree], Planted]


@dataclass(frozen=True)
class SudoLog:
    """A sudo in front of the real one, which writes down each call."""

    folder: Path
    file: Path

    def kills(self) -> list[list[str]]:
        """The calls of /bin/kill that send a signal, as their arguments behind it."""
        calls = [json.loads(line) for line in self.file.read_text().splitlines()]
        after = [call[call.index("/bin/kill") + 1 :] for call in calls if "/bin/kill" in call]
        return [call for call in after if call[0] != "-0"]


@pytest.fixture
def sudo_log(service: Service) -> SudoLog:
    folder, file = service.folder / "bin", service.folder / "sudo-calls"
    folder.mkdir()
    file.touch()
    file.chmod(0o666)
    program = folder / "sudo"
    program.write_text(
        textwrap.dedent(f"""\
            #!{service.python}
            import json, os, sys
            with open({str(file)!r}, "a") as log:
                log.write(json.dumps(sys.argv[1:]) + "\\n")
            os.execv("/usr/bin/sudo", ["sudo", *sys.argv[1:]])
            """)
    )
    program.chmod(program.stat().st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)
    return SudoLog(folder, file)


@pytest.fixture
def logged_driver(service: Service, sudo_log: SudoLog) -> Driver:
    path = f"{sudo_log.folder}:{service.env['PATH']}"
    with (service.folder / "driver.err").open("wb") as log:
        argv = [service.python, str(service.stage.harness / "driver.py")]
        return Driver(service, service.start(argv, env={"PATH": path}, stderr=log))


class TestCodexGrandchildEscalation:
    """What the report asked for: the grandchild is signalled, not only the wrapper above it."""

    def test_the_native_binary_is_signalled_before_its_wrapper_in_one_call(
        self, logged_driver: Driver, planted: Plant, sudo_log: SudoLog
    ) -> None:
        native_first = self._end(logged_driver, planted(TREES["depth_2"]), processes=2)
        assert sudo_log.kills() == [["-KILL", *map(str, native_first)]]

    def test_without_the_wrapper_the_single_binary_is_signalled(
        self, logged_driver: Driver, planted: Plant, sudo_log: SudoLog
    ) -> None:
        only = self._end(logged_driver, planted(TREES["depth_1"]), processes=1)
        assert sudo_log.kills() == [["-KILL", str(only[0])]]

    def test_below_sudos_monitor_the_same_and_neither_sudo_nor_monitor_is_signalled(
        self, logged_driver: Driver, planted: Plant, sudo_log: SudoLog, person: Account
    ) -> None:
        plan = planted(TREES["sudo_on_a_terminal"])
        logged_driver.start_job(plan.argv)
        plan.wait_ready(logged_driver.service.judge.alive)
        tree = logged_driver.ask("tree")
        sudos = [one["pid"] for one in tree if Path(f"/proc/{one['pid']}/comm").read_text() == "sudo\n"]
        theirs = [one["pid"] for one in sorted(tree, key=lambda one: -one["depth"]) if one["uid"] == person.uid]
        assert len(sudos) == 2, "this sudo has no monitor, so the test would show nothing"
        assert theirs
        report = logged_driver.end(grace=0)
        assert report["verdict"] == "proven_empty"
        assert sudo_log.kills() == [["-KILL", *map(str, theirs)]]

    def test_term_too_reaches_both_in_one_call_and_sudo_is_left_to_follow_them(
        self, logged_driver: Driver, planted: Plant, sudo_log: SudoLog
    ) -> None:
        native_first = self._end(logged_driver, planted(TREES["depth_2"]), processes=2, grace=10)
        assert sudo_log.kills() == [["-TERM", *map(str, native_first)]]

    def _end(self, driver: Driver, plan: Planted, *, processes: int, grace: float = 0) -> list[int]:
        """End the tree; the person's pids, innermost first."""
        driver.start_job(list(plan.argv), driver.service.stage.person.name)
        plan.wait_ready(driver.service.judge.alive)
        below_sudo = [one for one in driver.ask("tree") if one["depth"] > 1]
        assert len(below_sudo) == processes
        report = driver.end(grace=grace)
        assert report["verdict"] == "proven_empty", report
        assert driver.service.judge.alive(but=[driver.pid]) == []
        return [one["pid"] for one in sorted(below_sudo, key=lambda one: -one["depth"])]


@dataclass
class Codex:
    """A real `codex app-server` of the person's, under `corral run` of the service account, in the middle of a turn."""

    service: Service
    supervisor: subprocess.Popen[bytes]
    report_file: Path
    person: Account

    @property
    def report(self) -> dict[str, Any]:
        def read() -> dict[str, Any] | None:
            return dict(json.loads(self.report_file.read_text())) if self.report_file.exists() else None

        return wait_until(read, 30, "the report was written")

    def theirs(self) -> list[Seen]:
        return [one for one in self.service.judge.alive() if self.person.uid in one.uids]

    def named(self, name: str) -> list[Seen]:
        return [one for one in self.theirs() if name in one.name or f"/{name}" in one.command.split(" ")[0]]

    @property
    def reaper_pid(self) -> int:
        return next(one.pid for one in self.service.judge.alive() if one.name == "corral-reaper")

    def send(self, identifier: int, method: str, **params: Any) -> None:
        assert self.supervisor.stdin is not None
        message = {"id": identifier, "method": method, "params": params}
        self.supervisor.stdin.write(json.dumps(message).encode() + b"\n")
        self.supervisor.stdin.flush()

    async def result(self, identifier: int) -> dict[str, Any]:
        assert self.supervisor.stdout is not None
        async with asyncio.timeout(30):
            while True:
                line = await asyncio.to_thread(self.supervisor.stdout.readline)
                assert line, "codex ended"
                message = json.loads(line)
                if message.get("id") == identifier and "method" not in message:
                    return dict(message["result"])


@asynccontextmanager
async def codex_at_work(service: Service, command: list[str], person: Account) -> AsyncIterator[Codex]:
    """Codex in a turn whose command has left a server of its own session behind and goes on running."""
    busy = Run("setsid sleep 3000 </dev/null >/dev/null 2>&1 & sleep 3001", wait=30)
    async with OfflineModel(Script([Turn(Say("I start it."), busy, Say("Done."))])) as model:
        report_file = service.state_dir / "report.json"
        arguments = ["--user", person.name, "--grace", "0.3", "--kill", "20", "--state-dir", str(service.state_dir)]
        argv = [*command, *codex_arguments(model.base_url), "app-server"]
        supervisor = service.start(
            service.corral("run", *arguments, "--report", str(report_file), "--", *argv), stderr=subprocess.DEVNULL
        )
        codex = Codex(service, supervisor, report_file, person)
        codex.send(1, "initialize", clientInfo={"name": "corral-test", "version": "1"})
        await codex.result(1)
        thread = {"cwd": str(person.home), "approvalPolicy": "never", "sandbox": "danger-full-access"}
        codex.send(2, "thread/start", **thread)
        started = await codex.result(2)
        codex.send(3, "turn/start", threadId=started["thread"]["id"], input=[{"type": "text", "text": "go"}])
        await until(lambda: len(codex.named("sleep")) == 2, 30, "the agent's command and its server run")
        yield codex


WAYS = (
    "end_of_input",
    "term",
    "hangup",
    "kill_supervisor",
    "kill_reaper",
    "kill_node",
    "kill_sudo",
    "kill_both_and_sweep",
)


@pytest.mark.slow
class TestRealCodexUnderSudo:
    """The acceptance of the report: afterwards no process of that account named codex or node is alive."""

    @pytest.mark.codex
    @pytest.mark.parametrize("way", WAYS)
    async def test_after_each_way_of_ending_nothing_of_the_persons_is_alive(
        self, way: str, service: Service, codex_command: list[str], person: Account
    ) -> None:
        async with codex_at_work(service, codex_command, person) as codex:
            assert codex.named("codex"), "the native binary runs"
            node_script = Path(codex_command[0]).read_bytes().startswith(b"#!")
            assert bool([one for one in codex.theirs() if "node" in one.command.split(" ")[0]]) == node_script
            await asyncio.to_thread(self._end, way, codex)
            await until(lambda: not codex.theirs(), 30, "nothing of the person's is alive")
            assert codex.named("codex") == codex.named("node") == codex.named("sleep") == []
            service.wait_empty(10)

    def _end(self, way: str, codex: Codex) -> None:
        supervisor = codex.supervisor
        match way:
            case "end_of_input":
                assert supervisor.stdin is not None
                supervisor.stdin.close()
            case "term" | "hangup":
                supervisor.send_signal(signal.SIGTERM if way == "term" else signal.SIGHUP)
            case "kill_supervisor":
                supervisor.kill()
            case "kill_reaper":
                os.kill(codex.reaper_pid, signal.SIGKILL)
            case "kill_node":
                os.kill(next(one.pid for one in codex.theirs() if "codex" in one.command), signal.SIGKILL)
            case "kill_sudo":
                sudo = next(one for one in codex.service.judge.alive() if one.name == "sudo")
                os.kill(sudo.pid, signal.SIGKILL)
            case "kill_both_and_sweep":
                self._kill_both(codex)
                return
        supervisor.wait(60)
        assert codex.report["verdict"] in {"proven_empty", "empty_by_scan"}
        if way != "kill_reaper":
            assert codex.report["proof"] == "no_children"

    def _kill_both(self, codex: Codex) -> None:
        both = (codex.supervisor.pid, codex.reaper_pid)
        for number in (signal.SIGSTOP, signal.SIGKILL):
            for pid in both:
                os.kill(pid, number)
        codex.supervisor.wait(10)
        assert codex.named("sleep"), "the tree ended without the sweep, so this would show nothing"
        status, swept, said = codex.service.sweep()
        assert status == 0, (swept, said)


@pytest.fixture(autouse=True)
def _stage_stays(stage: Stage) -> Iterator[None]:
    yield
    assert stage.lacking is None
