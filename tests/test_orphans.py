"""Agents that nobody owns: what is taken for an orphan and what never is, with an init of the tests' own above it all.

The world of each test is a PID namespace, whose process 1 collects orphans as a host's does.
"""

import json
import select
import signal
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.harness import truth
from tests.harness.service import Service
from tests.harness.stage import Account
from tests.harness.sudoers import Rules
from tests.harness.waiting import wait_until

# An agent with a helper of its session, a command in a session of its own, and what that command lost.
AGENT = """
import signal, subprocess, time
if STUBBORN: signal.signal(signal.SIGTERM, signal.SIG_IGN)
subprocess.Popen(["sleep", "1001.5"])
subprocess.Popen(["sh", "-c", "(sleep 1002.5 & exec sleep 0.01); exec sleep 1003.5"], start_new_session=True)
time.sleep(1000)
"""
OF_THE_AGENT = {"sleep 1001.5", "sleep 1002.5", "sleep 1003.5"}
# Whoever owns it, with another child in the same session; it goes, and leaves both behind.
OWNER = """
import subprocess, sys
subprocess.Popen(["sleep", "2001.5"])
subprocess.Popen([sys.argv[1], "-c", sys.argv[2]])
"""
IGNORE = "signal.signal(signal.SIGTERM, signal.SIG_IGN)"
OWNER_OF_TWO = """
import subprocess, sys, time
subprocess.Popen([sys.argv[1], "-c", sys.argv[2]])
subprocess.run(["sh", "-c", '"$0" -c "$1" &', sys.argv[1], sys.argv[3]])
time.sleep(1000)
"""
# A subreaper by the name of systemd, above what it is told to start.
SYSTEMD = """
import ctypes, subprocess, sys, time
ctypes.CDLL(None).prctl(36, 1)
open("/proc/self/comm", "w").write("systemd")
subprocess.run(sys.argv[1:])
time.sleep(1000)
"""
# Whoever keeps the pipe of what it started, alive or not.
HOLDS = "import subprocess, sys, time; held = subprocess.Popen(sys.argv[1:], stdin=subprocess.PIPE); time.sleep(1000)"
# A terminal of its own, and on it an agent that hangs on init: its parent went, and the terminal's owner stays.
ON_A_TERMINAL = """
import os, pty, sys, time
pid, master = pty.fork()
if pid:
    time.sleep(1000)
if not os.fork():
    if not os.fork():
        os.setpgid(0, 0)
        if not os.fork():
            os.execv(sys.argv[1], [sys.argv[1], "-c", "import time; time.sleep(1000)"])
    os._exit(0)
time.sleep(1000)
"""


DOCTOR = """
import sys
from corral.install.checks.processes import orphans
from corral.install.subjects import Subjects
from corral.config import Config
config = Config(service={"state_dir": sys.argv[1]}, people=[{"name": "person", "os_user": sys.argv[2]}])
for finding in orphans(Subjects(config, "games", None, {})):
    print(finding.status, finding.detail)
"""


@dataclass
class World:
    """A PID namespace with an init, and the service's and the person's accounts in it."""

    service: Service
    person: Account
    init: subprocess.Popen[bytes]
    codex: str

    def start(self, argv: list[str], *, account: Account | None = None, **more: Any) -> None:
        self._order(argv, account or self.person, more)

    def run(self, argv: list[str], account: Account) -> dict[str, Any]:
        return self._order(argv, account, {"wait": True})

    def orphan(self, *, stubborn: bool = False) -> None:
        """Start an agent below an owner, who goes."""
        agent = f"STUBBORN = {stubborn}\n{AGENT}"
        owner = [self.service.python, "-c", OWNER, self.codex, agent]
        self.start(owner, session=True)
        self.wait_for(*OF_THE_AGENT, "sleep 2001.5")
        wait_until(lambda: not self.commands("subprocess.Popen([sys.argv"), what="the owner had gone")

    def adopt(self, *options: str, account: Account | None = None) -> tuple[int, dict[str, Any]]:
        state = ("--state-dir", str(self.service.state_dir))
        argv = self.service.corral("sweep", "--user", self.person.name, "--adopt", "--json", *state, *options)
        done = self.run(argv, account or self.service.account)
        assert done["out"], done
        return done["status"], json.loads(done["out"])

    def commands(self, holding: str = "") -> set[str]:
        """What the living of the person run."""
        alive = self.service.judge.alive([self.init.pid])
        return {one.command for one in alive if self.person.uid in one.uids and holding in one.command}

    def wait_for(self, *commands: str) -> None:
        wait_until(lambda: {*commands} <= self.commands(), what=f"{commands} ran", picture=self.picture)

    def picture(self) -> str:
        return truth.picture(self.service.judge.alive())

    def _order(self, argv: list[str], account: Account, more: dict[str, Any]) -> dict[str, Any]:
        env = {**self.service.env, "HOME": str(account.home)}
        line = json.dumps({"argv": argv, "uid": account.uid, "gid": account.gid, "env": env, **more})
        assert self.init.stdin is not None
        assert self.init.stdout is not None
        self.init.stdin.write(line.encode() + b"\n")
        self.init.stdin.flush()
        assert select.select([self.init.stdout], [], [], 90)[0], self.picture()
        return dict(json.loads(self.init.stdout.readline()))


@pytest.fixture
def codex(service: Service) -> str:
    """A program named codex that does what it is told."""
    path = service.folder / "codex"
    path.symlink_to(service.python)
    return str(path)


@pytest.fixture
def enter(service: Service, person: Account, codex: str) -> Iterator[Callable[..., World]]:
    """Makes a world whose process 1 has a name; at the end it takes everything along."""
    worlds: list[World] = []

    def make(name: str = "init", hidepid: str = "") -> World:
        mount = f"mount -o remount,hidepid={hidepid} /proc && " if hidepid else ""
        program = service.stage.harness / "small_init.py"
        script = f"{mount}exec {service.python} {program} {name}"
        argv = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", script]
        init = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        worlds.append(World(service, person, init, codex))
        return worlds[-1]

    yield make
    for world in worlds:
        world.init.communicate(timeout=20)


@pytest.fixture
def world(enter: Callable[..., World]) -> World:
    return enter()


def tree_of(found: dict[str, Any]) -> set[str]:
    return {one["command"] for orphan in found["orphans"] for one in orphan["tree"]}


pytestmark = [pytest.mark.cross_account, pytest.mark.slow]


@pytest.mark.parametrize("stubborn", [False, True], ids=["obeys", "ignores_term"])
@pytest.mark.parametrize("by_root", [False, True], ids=["service", "root"])
def test_an_orphan_and_what_it_started_are_shown_then_ended_and_nobody_else_is_touched(
    world: World, service: Service, stubborn: bool, by_root: bool
) -> None:
    account = Account("root", 0, 0, service.folder) if by_root else service.account
    # What the person runs besides: a daemon, an agent in a shell, and one whose owner lives.
    world.start(["setsid", "sleep", "3001.5"])
    world.start(["sh", "-c", f"{world.codex} -c 'import time; time.sleep(3002.5)'; true"], session=True)
    world.wait_for("sleep 3001.5")
    world.wait_for(f"{world.codex} -c import time; time.sleep(3002.5)")
    others = world.commands()
    world.orphan(stubborn=stubborn)
    before = world.commands()

    status, found = world.adopt(account=account)
    assert status == 1, "something is left"
    assert (found["clean"], found["blind"], found["report"]) == (False, False, None)
    [orphan] = found["orphans"]
    assert orphan["tree"][0]["command"].startswith(world.codex)
    assert tree_of(found) == OF_THE_AGENT | {orphan["tree"][0]["command"]}
    assert world.commands() == before, "showing ends nobody"

    status, found = world.adopt("--end", account=account)
    assert (status, found["clean"], found["report"]["verdict"]) == (0, True, "empty_by_scan"), found
    assert tree_of(found) >= OF_THE_AGENT, "it says whom it ended"
    assert ("KILL" in {sent["signal"] for sent in found["report"]["signals"]}) == stubborn
    assert world.commands() == others | {"sleep 2001.5"}, "what shared the orphan's session and is no agent stays"
    assert world.adopt(account=account)[0] == 0


def test_of_two_agents_of_one_owner_the_lost_one_is_ended_and_the_other_stays(world: World) -> None:
    kept, lost = (f"import time, signal; {IGNORE}; time.sleep({number})" for number in (4001, 4002))
    world.start([world.service.python, "-c", OWNER_OF_TWO, world.codex, kept, lost], session=True)
    wait_until(lambda: len(world.commands(world.codex)) == 3, what="both ran", picture=world.picture)
    status, found = world.adopt("--end")
    assert (status, found["report"]["verdict"]) == (0, "empty_by_scan"), found
    assert tree_of(found) == {f"{world.codex} -c {lost}"}
    [left] = found["left_alone"]
    assert "is above it, and may want it" in left["reason"]
    assert world.commands(f"{world.codex} -c") == {f"{world.codex} -c {kept}"}, "they share session and process group"


def test_a_group_that_others_may_be_in_is_not_signalled(service: Service, person: Account) -> None:
    group = [service.start(["sleep", "1000.5"], account=person) for _ in range(2)]
    program = (
        "import signal, sys; from corral.process.bare import procfs; from corral.process.bare.signals import Signaller;"
        "one = procfs.read(int(sys.argv[1]));"
        "Signaller(procfs, person=one.uid, groups=False).send(signal.SIGKILL, [one], with_groups=True)"
    )
    done = service.run([service.python, "-c", program, str(group[0].pid)])
    assert done.returncode == 0, done.stderr
    assert service.wait_exit(group[0]) == -signal.SIGKILL
    assert group[1].poll() is None


def test_a_persons_own_systemd_collects_orphans_too(enter: Callable[..., World]) -> None:
    world = enter("a-bot")
    agent = f"STUBBORN = False\n{AGENT}"
    owner = [world.service.python, "-c", OWNER, world.codex, agent]
    world.start([world.service.python, "-c", SYSTEMD, *owner], session=True)
    world.wait_for(*OF_THE_AGENT)
    # Its own line holds the owner's words as well.
    wait_until(lambda: len(world.commands("subprocess.Popen([sys.argv")) == 1, what="the owner had gone")
    status, found = world.adopt("--end")
    assert (status, len(found["orphans"])) == (0, 1), found
    assert world.commands("sleep 2001.5")


def test_an_agent_on_a_terminal_is_the_persons_although_init_is_its_parent(world: World) -> None:
    world.start([world.service.python, "-c", ON_A_TERMINAL, world.codex], session=True)
    wait_until(lambda: world.commands(f"{world.codex} -c"), what="the agent ran", picture=world.picture)

    def found() -> dict[str, Any] | None:
        # Its parents go a moment later.
        seen = world.adopt("--end")[1]
        return seen if seen["left_alone"] and "above it" not in seen["left_alone"][0]["reason"] else None

    seen = wait_until(found, 30, "it hung on init", world.picture)
    assert (seen["orphans"], [one["reason"] for one in seen["left_alone"]]) == ([], ["it is on a terminal"])
    assert world.commands(f"{world.codex} -c")


def test_what_init_itself_started_is_a_service_and_no_orphan(world: World) -> None:
    world.start([world.codex, "-c", "import time; time.sleep(1000)"], session=True)
    status, found = world.adopt("--end")
    assert (status, found["orphans"]) == (0, [])
    assert "as what its init itself starts does" in found["left_alone"][0]["reason"]
    assert world.commands(world.codex)


def test_a_job_of_corrals_has_its_reaper_above_it(world: World, service: Service, sudo_rules: Any) -> None:
    service.stage.allow(world.codex)
    sudo_rules()
    options = ("--user", world.person.name, "--state-dir", str(service.state_dir))
    sleeps = [world.codex, "-c", "import time; time.sleep(1000)"]
    world.start(service.corral("run", *options, "--", *sleeps), account=service.account)
    wait_until(lambda: world.commands(f"{world.codex} -c"), what="the job ran", picture=world.picture)
    status, found = world.adopt("--end")
    assert (status, found["orphans"]) == (0, [])
    [reason] = [one["reason"] for one in found["left_alone"]]
    assert "job" in reason
    assert "`corral ps` shows it" in reason
    assert world.commands(f"{world.codex} -c")


def test_an_agent_whose_sudo_fell_to_init_is_an_orphan_with_its_sudo(
    world: World, service: Service, sudo_rules: Any
) -> None:
    service.stage.allow(world.codex)
    sudo_rules()
    owner = "import subprocess, sys; subprocess.Popen(sys.argv[1:])"
    agent = [world.codex, "-c", "import time; time.sleep(1000)"]
    through = ["sudo", "-n", "-u", world.person.name, *agent]
    world.start([service.python, "-c", owner, *through], account=service.account, session=True)
    wait_until(lambda: world.commands(f"{world.codex} -c"), what="the agent ran", picture=world.picture)
    _, found = world.adopt()
    [orphan] = found["orphans"]
    assert orphan["tree"][0]["command"] == " ".join(through)
    assert " ".join(agent) in tree_of(found)
    status, found = world.adopt("--end")
    assert (status, found["report"]["verdict"]) == (0, "empty_by_scan"), found
    assert not world.commands(world.codex)


def test_a_process_1_that_is_no_known_init_may_own_what_hangs_on_it(enter: Callable[..., World]) -> None:
    world = enter("a-bot")
    world.orphan()
    status, found = world.adopt("--end")
    # Status 1: nobody can say that there is no orphan.
    assert (status, found["clean"], found["orphans"], found["report"]) == (1, False, [], None)
    [left] = found["left_alone"]
    assert left["owner_known"] is False
    assert "process 1, a-bot of root, which is not a known init" in left["reason"]
    state = ("--state-dir", str(world.service.state_dir))
    said = world.run(
        world.service.corral("sweep", "--user", world.person.name, "--adopt", *state), world.service.account
    )
    assert f"1 agent of {world.person.name} may or may not have an owner" in said["out"]
    assert "no agent that nobody owns" not in said["out"]
    doctor = world.run(
        [world.service.python, "-c", DOCTOR, str(world.service.state_dir), world.person.name], world.service.account
    )
    assert doctor["out"].startswith("warn pid "), doctor
    assert "which is not a known init" in doctor["out"]
    assert world.commands("1001.5")


def test_a_process_1_that_is_no_known_init_owns_what_has_a_terminal(enter: Callable[..., World]) -> None:
    world = enter("a-bot")
    world.start([world.service.python, "-c", ON_A_TERMINAL, world.codex], session=True)
    wait_until(lambda: world.commands(f"{world.codex} -c"), what="the agent ran", picture=world.picture)

    def on_init() -> dict[str, Any] | None:
        seen = world.adopt("--end")[1]
        return seen if seen["left_alone"] and "above it" not in seen["left_alone"][0]["reason"] else None

    seen = wait_until(on_init, 30, "it hung on process 1", world.picture)
    assert seen["clean"]
    assert [(one["reason"], one["owner_known"]) for one in seen["left_alone"]] == [("it is on a terminal", True)]


def test_what_was_entered_from_outside_the_namespace_has_an_owner_there(world: World) -> None:
    """As by `docker exec`: its parent is not shown, and lives."""
    inside = wait_until(lambda: truth_of(world.init.pid), 20, "process 1 was there")[0].pid
    who = world.person
    drop = ["setpriv", f"--reuid={who.uid}", f"--regid={who.gid}", "--clear-groups"]
    enter = ["nsenter", "--target", str(inside), "--pid", "--mount"]
    argv = [*enter, *drop, world.codex, "-c", "import time; time.sleep(1000)"]
    world.service.start(argv, account=Account("root", 0, 0, world.service.folder))
    wait_until(lambda: world.commands(f"{world.codex} -c"), what="the agent ran", picture=world.picture)
    status, found = world.adopt("--end")
    assert (status, found["clean"], found["orphans"]) == (0, True, [])
    assert [one["reason"] for one in found["left_alone"]] == ["its parent lives outside this PID namespace"]


def truth_of(unshare: int) -> list[truth.Seen]:
    """The children of a process: of `unshare --fork`, process 1 of the namespace."""
    return [one for pid in truth.pids() if (one := truth.look(pid)) and one.parent == unshare]


def test_without_a_rule_for_kill_they_survive_and_the_line_is_named(
    world: World, sudo_rules: Callable[..., Rules]
) -> None:
    sudo_rules(kill_tags=None)
    world.orphan()
    status, found = world.adopt("--end")
    assert (status, found["clean"], found["report"]["verdict"]) == (1, False, "survivors")
    reasons = {one["reason"] for one in found["report"]["survivors"]}
    assert all(f"({world.person.name}) NOPASSWD: /bin/kill" in reason for reason in reasons)


def test_without_the_ledger_nothing_is_ended_for_it_may_be_a_jobs(world: World) -> None:
    world.orphan()
    jobs = world.service.state_dir / "jobs"
    jobs.write_text("no folder")
    status, found = world.adopt("--end")
    assert (status, found["report"], len(found["orphans"])) == (1, None, 1)
    assert world.commands() >= OF_THE_AGENT
    jobs.unlink()
    assert world.adopt("--end")[0] == 0


def test_what_is_hidden_is_not_said_to_be_gone(enter: Callable[..., World]) -> None:
    world = enter(hidepid="2")
    world.orphan()
    status, found = world.adopt("--end")
    assert (status, found["clean"], found["blind"]) == (1, False, True)


@pytest.mark.codex
def test_the_orphan_of_the_origin_a_codex_whose_node_was_killed(
    world: World, service: Service, codex_command: list[str]
) -> None:
    if Path(codex_command[0]).resolve().suffix != ".js":
        pytest.skip("codex from npm is the one that runs below node (npm install -g @openai/codex)")
    # Its owner lives on, and holds the pipe: so codex does not end by itself.
    world.start([service.python, "-c", HOLDS, *codex_command, "app-server"], session=True)

    def nodes() -> list[truth.Seen]:
        alive = service.judge.alive()
        rust = {one.parent for one in alive if one.name == "codex" and world.person.uid in one.uids}
        return [one for one in alive if one.pid in rust and one.name != "codex"]

    [node] = wait_until(nodes, 30, "codex ran below node", world.picture)
    truth.kill(node)
    wait_until(lambda: truth.look(node.pid) is None, what="node had gone", picture=world.picture)
    status, found = world.adopt("--end")
    assert [orphan["tree"][0]["command"].endswith("app-server") for orphan in found["orphans"]] == [True], found
    assert (status, found["report"]["verdict"]) == (0, "empty_by_scan")
    assert world.commands(HOLDS), "who owned it is not an agent, and stays"
    assert not [one for one in service.judge.alive() if one.name == "codex"]
