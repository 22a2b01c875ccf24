"""The harness judged by itself: the judge sees what lives, and every hostile tree has the shape that it claims."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.conftest import Route
from tests.harness import truth
from tests.harness.service import Service
from tests.harness.stage import REPOSITORY, Account, Stage
from tests.harness.trees import TREES, Planted, Tree
from tests.harness.waiting import wait_until

Plant = Callable[[Tree], Planted]
PLAIN = [
    pytest.param(tree, id=tree.name, marks=[] if tree.quick else [pytest.mark.slow])
    for tree in TREES.values()
    if not tree.across
]
ACROSS = [tree for tree in TREES.values() if tree.across]


def grow(service: Service, planted: Planted, user: str | None = None) -> list[truth.Seen]:
    """Start the tree with no Corral around it, wait until it stands, and return what is alive of it."""
    argv = list(planted.argv) if user is None else ["sudo", "-n", "-u", user, "--", *planted.argv]
    service.start(argv, stdout=subprocess.PIPE)
    planted.wait_ready(service.judge.alive)
    return service.judge.alive()


def fields(pid: int) -> list[str]:
    return truth.stat(Path(f"/proc/{pid}/stat"))[1]


def shown_states(seen: list[truth.Seen]) -> str:
    return "".join(sorted(one.state for one in seen))


@pytest.mark.parametrize("tree", PLAIN)
@pytest.mark.slow
def test_a_tree_stands_and_the_judge_sees_all_of_it(
    tree: Tree, account: Route, service: Service, planted: Callable[[Tree], Planted]
) -> None:
    alive = grow(service, planted(tree), account.user)
    ours = [seen for seen in alive if not seen.command.startswith("sudo")]
    assert len(ours) >= tree.processes, truth.picture(alive)
    assert service.close()
    assert not service.judge.alive()


@pytest.mark.cross_account
@pytest.mark.parametrize("tree", ACROSS, ids=lambda tree: tree.name)
def test_a_tree_of_two_accounts_has_processes_of_both(
    tree: Tree, service: Service, person: Account, planted: Plant
) -> None:
    alive = grow(service, planted(tree))
    assert {service.account.uid, person.uid} <= {seen.uids[0] for seen in alive}, truth.picture(alive)


@pytest.mark.cross_account
@pytest.mark.parametrize(("use_pty", "layers"), [(True, 2), (False, 1)], ids=["use_pty", "no_pty"])
def test_use_pty_puts_a_monitor_below_sudo_on_a_terminal(
    use_pty: bool, layers: int, service: Service, planted: Plant, sudo_rules: Callable[..., object]
) -> None:
    sudo_rules(use_pty=use_pty)
    alive = grow(service, planted(TREES["sudo_on_a_terminal"]))
    assert len([seen for seen in alive if seen.name == "sudo"]) == layers, truth.picture(alive)


def test_the_judge_sees_a_living_leftover_and_the_finalizer_ends_it(service: Service, planted: Plant) -> None:
    plan = planted(TREES["closed_daemon"])
    program = service.start(plan.argv)
    plan.wait_ready(service.judge.alive)
    program.kill()
    program.wait(10)
    (daemon,) = service.judge.alive()
    assert daemon.pid in plan.pids("daemon")
    with pytest.raises(AssertionError, match=f"pid {daemon.pid} "):
        service.wait_empty(timeout=0.1)
    assert [seen.pid for seen in service.close()] == [daemon.pid]
    assert not service.judge.alive()


def test_the_judge_counts_no_zombie_as_living(service: Service) -> None:
    program = service.start(["/bin/true", service.folder.name])
    wait_until(lambda: fields(program.pid)[0] == "Z", what="the program was dead and not waited for")
    assert service.judge.alive() == []
    program.wait(10)


def test_the_judge_finds_by_marker_alone_what_another_account_would_not_show(service: Service, planted: Plant) -> None:
    grow(service, planted(TREES["environment_wiped"]))
    by_marker = replace(service.judge, uids=frozenset()).alive()
    assert {seen.pid for seen in by_marker} == {seen.pid for seen in service.judge.alive()}
    assert len(by_marker) >= 2


@pytest.mark.parametrize(
    ("parents", "foreign"),
    [({20: 1, 30: 20}, True), ({20: os.getpid(), 30: 20}, False)],
    ids=["below_init_and_not_below_pytest", "below_pytest"],
)
def test_the_judge_leaves_alone_what_is_somebody_elses(parents: dict[int, int], foreign: bool) -> None:
    assert truth.is_foreign(30, parents) is foreign


def test_the_judge_reads_a_line_of_parents_again_when_one_went_during_the_look(service: Service) -> None:
    ours = service.start(["/bin/cat", service.folder.name + "/status", "-"])
    gone = 2**22 + 1  # above the highest pid that Linux gives
    assert not truth.is_foreign(ours.pid, {ours.pid: gone})
    assert truth.is_foreign(os.getppid(), {os.getppid(): gone})


def test_the_judge_says_empty_never_while_successors_take_over(service: Service, planted: Plant) -> None:
    plan = planted(TREES["successor_every_30_ms"])
    grow(service, plan)
    for _ in range(50):
        assert service.judge.alive(but=plan.pids("command"))


def test_a_signal_to_a_process_that_is_not_the_one_seen_is_not_sent(service: Service, planted: Plant) -> None:
    alive = grow(service, planted(TREES["depth_1"]))
    newcomer = replace(alive[0], start_time=alive[0].start_time + 1)
    assert not truth.kill(newcomer)
    assert service.judge.alive() == alive


def test_depth_nests_each_process_in_the_one_before(service: Service, planted: Plant) -> None:
    plan = planted(TREES["depth_12"])
    grow(service, plan)
    chain = [plan.pids(f"level-{level}")[0] for level in range(1, 13)]
    assert [int(fields(pid)[1]) for pid in chain[1:]] == chain[:-1]


def ignores_term(pid: int) -> bool:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    mask = int(next(line for line in lines if line.startswith("SigIgn:")).split()[1], 16)
    return bool(mask & 1 << signal.SIGTERM - 1)


@pytest.mark.parametrize(
    ("name", "roles"),
    [
        ("ignores_term", ["command", "child"]),
        ("respawner", ["command", "child"]),
        ("flood_unread", ["full"]),
        ("subreaper_inside", ["subreaper", "daemon"]),
    ],
)
def test_a_deaf_process_ignores_term(name: str, roles: list[str], service: Service, planted: Plant) -> None:
    plan = planted(TREES[name])
    grow(service, plan)
    assert all(ignores_term(pid) for role in roles for pid in plan.pids(role))
    assert all(plan.pids(role) for role in roles)


def test_a_closed_daemon_has_no_descriptor_and_another_parent_and_session(service: Service, planted: Plant) -> None:
    plan = planted(TREES["closed_daemon"])
    grow(service, plan)
    (daemon,), (command,) = plan.pids("daemon"), plan.pids("command")
    wait_until(lambda: not list(Path(f"/proc/{daemon}/fd").iterdir()), what="the daemon had closed all descriptors")
    assert int(fields(daemon)[1]) != command
    assert fields(daemon)[3] != fields(command)[3]


def test_a_command_that_exits_leaves_its_daemon(service: Service, planted: Plant) -> None:
    plan = planted(TREES["left_behind"])
    program = service.start(plan.argv)
    assert program.wait(10) == 0
    assert [seen.pid for seen in service.judge.alive()] == plan.pids("daemon")


def test_a_worker_thread_owns_the_child(service: Service, planted: Plant) -> None:
    plan = planted(TREES["forks_from_a_thread"])
    grow(service, plan)
    (command,), (child,) = plan.pids("command"), plan.pids("child")
    assert Path(f"/proc/{command}/task/{command}/children").read_text().split() == []
    lists = [path.read_text().split() for path in Path(f"/proc/{command}/task").glob("*/children")]
    assert [str(child)] in lists


def test_a_dead_main_thread_looks_like_a_zombie_and_is_alive(service: Service, planted: Plant) -> None:
    plan = planted(TREES["dead_main_thread"])
    alive = {seen.pid: seen for seen in grow(service, plan)}
    (command,) = plan.pids("command")
    assert alive[command].state == "Z"
    assert Path(f"/proc/{command}/cmdline").read_bytes() == b""


def test_the_inner_subreaper_has_adopted_the_daemon(service: Service, planted: Plant) -> None:
    plan = planted(TREES["subreaper_inside"])
    grow(service, plan)
    assert int(fields(plan.pids("daemon")[0])[1]) == plan.pids("subreaper")[0]


def test_stopped_children_are_stopped(service: Service, planted: Plant) -> None:
    assert shown_states(grow(service, planted(TREES["stopped"]))).count("T") == 2


def test_the_respawner_replaces_a_killed_child(service: Service, planted: Plant) -> None:
    plan = planted(TREES["respawner"])
    alive = grow(service, plan)
    first = plan.pids("child")[0]
    assert truth.kill(next(seen for seen in alive if seen.pid == first))
    wait_until(lambda: len(plan.pids("child")) > 1, what="a new child had come")


def test_an_odd_name_holds_a_bracket_and_spaces(service: Service, planted: Plant) -> None:
    assert [seen.name for seen in grow(service, planted(TREES["odd_name"]))].count("a) Z 1 (b c") == 2


def test_a_parent_in_vfork_is_suspended(service: Service, planted: Plant) -> None:
    assert "D" in shown_states(grow(service, planted(TREES["suspended_in_vfork"])))


def test_zombies_stay_unreaped(service: Service, planted: Plant) -> None:
    plan = planted(TREES["unreaped_zombies"])
    grow(service, plan)
    (command,) = plan.pids("command")
    children = Path(f"/proc/{command}/task/{command}/children").read_text().split()
    assert [fields(int(pid))[0] for pid in children] == ["Z"] * 50


def test_a_successor_takes_over_again_and_again(service: Service, planted: Plant) -> None:
    plan = planted(TREES["successor_every_30_ms"])
    grow(service, plan)
    seen: set[int] = set()

    def five_came() -> bool:
        seen.update(one.pid for one in service.judge.alive() if one.pid not in plan.pids("command"))
        return len(seen) >= 5

    wait_until(five_came, what="five successors had been seen")


def test_the_wiped_daemon_has_no_environment(service: Service, planted: Plant) -> None:
    plan = planted(TREES["environment_wiped"])
    grow(service, plan)
    assert Path(f"/proc/{plan.pids('bare')[0]}/environ").read_bytes() == b""


def test_the_daemon_that_holds_stdin_keeps_the_pipes_open(service: Service, planted: Plant) -> None:
    plan = planted(TREES["stdin_held_open"])
    grow(service, plan)
    (daemon,), (command,) = plan.pids("daemon"), plan.pids("command")
    assert Path(f"/proc/{daemon}/fd/0").readlink() == Path(f"/proc/{command}/fd/0").readlink()


@pytest.mark.cross_account
def test_the_service_account_may_run_the_command_and_kill_as_the_person_and_nothing_else(
    service: Service, person: Account
) -> None:
    def sudo(*command: str) -> int:
        return service.run(["sudo", "-n", "-u", person.name, "--", *command]).returncode

    assert sudo(service.python, "-I", "-S", "-c", "pass") == 0
    assert sudo("/bin/kill", "-L") == 0
    assert sudo("/bin/true") == 1


@pytest.mark.cross_account
@pytest.mark.parametrize("tags", [None, "PASSWD:"], ids=["no_rule", "password_wanted"])
def test_the_kill_rule_can_be_taken_away_for_a_test(
    tags: str | None, service: Service, person: Account, sudo_rules: Callable[..., object]
) -> None:
    sudo_rules(kill_tags=tags)
    assert service.run(["sudo", "-n", "-u", person.name, "--", "/bin/kill", "-L"]).returncode == 1
    assert service.run(["sudo", "-n", "-u", person.name, "--", service.python, "-c", "pass"]).returncode == 0


@pytest.mark.cross_account
def test_the_service_account_can_import_corral_wherever_the_clone_lies(service: Service) -> None:
    done = service.run([service.python, "-c", "import corral, msgspec, os; print(os.getuid(), corral.__file__)"])
    assert done.stdout.split()[0] == str(service.account.uid), done.stderr
    assert done.stdout.split()[1].startswith(str(service.stage.root))


@pytest.mark.cross_account
def test_useradd_on_the_host_does_not_take_the_stage_away(stage: Stage) -> None:
    """The host is a mount namespace with an /etc of its own here; the stage is raised in another one below it."""
    done = subprocess.run(
        [sys.executable, "-c", HOST_THAT_CHANGES, str(REPOSITORY)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    before, after, status = done.stdout.split()
    assert before.startswith("/tmp/corral-stage-")
    assert (after, status) == (before, "0")


HOST_THAT_CHANGES = """
import os, pwd, shutil, subprocess, sys, tempfile
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from tests.harness import namespace, stage

scratch = Path(tempfile.mkdtemp(prefix="corral-host-"))
namespace.enter_private()
namespace.tmpfs(scratch, "0755")
subprocess.run(["cp", "-a", "/etc", scratch], check=True)
namespace.bind(scratch / "etc", Path("/etc"), read_only=False)
raised, changed = os.pipe(), os.pipe()
if os.fork() == 0:
    own = stage.raise_stage()
    print(pwd.getpwnam(stage.PERSON).pw_dir, flush=True)
    os.write(raised[1], b".")
    os.read(changed[0], 1)
    print(pwd.getpwnam(stage.PERSON).pw_dir, flush=True)
    as_service = {"user": own.service.uid, "group": own.service.gid, "extra_groups": []}
    sudo = ["sudo", "-n", "-u", stage.PERSON, own.python, "-c", ""]
    print(subprocess.run(sudo, cwd="/", **as_service).returncode, flush=True)
    own.close()
    os._exit(0)
os.read(raised[0], 1)
for name in ("passwd", "sudoers"):
    shutil.copy2(f"/etc/{name}", f"/etc/{name}+")
    os.rename(f"/etc/{name}+", f"/etc/{name}")
os.write(changed[1], b".")
_, status = os.wait()
namespace.unmount(Path("/etc"))
namespace.unmount(scratch)
scratch.rmdir()
sys.exit(os.waitstatus_to_exitcode(status))
"""
