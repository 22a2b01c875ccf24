"""What every process table must answer, asked of both on real processes; then psutil's against procfs, row by row.

psutil's table is for hosts without Linux's /proc. Here it reads the same kernel, which is the nearest that Linux has.
"""

import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import psutil
import pytest

from corral.process import Ladder
from corral.process.bare import procfs, psutil_table
from corral.process.bare.ending import Ending
from corral.process.bare.signals import Signaller
from corral.process.bare.table import Process, ProcessTable, find_living
from corral.process.bare.trackers import Portable
from tests.conftest import Route
from tests.harness import truth
from tests.harness.service import Service
from tests.harness.trees import TREES, Planted, Tree
from tests.harness.waiting import wait_until

Plant = Callable[[Tree], Planted]
TICK = 1_000_000 // os.sysconf("SC_CLK_TCK")  # in microseconds, the unit of psutil's table


@pytest.fixture(params=[procfs, psutil_table], ids=["procfs", "psutil"])
def table(request: pytest.FixtureRequest) -> ProcessTable:
    return request.param


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    found = subprocess.Popen(["/bin/sleep", "1000.25"], start_new_session=True)
    yield found
    found.kill()
    found.wait()


def grow(service: Service, planted: Planted, user: str | None = None) -> list[truth.Seen]:
    """Start the tree with no Corral around it, in a session of its own. Return what is alive of it."""
    argv = list(planted.argv) if user is None else ["sudo", "-n", "-u", user, "--", *planted.argv]
    service.start(["setsid", *argv])
    planted.wait_ready(service.judge.alive)
    return service.judge.alive()


class TestContract:
    """Holds for each table by itself."""

    def test_this_process_is_read_as_the_kernel_has_it(self, table: ProcessTable) -> None:
        me = table.read(os.getpid())
        assert me is not None
        assert (me.pid, me.ppid, me.pgid, me.sid) == (os.getpid(), os.getppid(), os.getpgid(0), os.getsid(0))
        assert (me.uid, me.euid, me.saved_uid) == os.getresuid()
        assert me.living
        assert me.readable
        assert not me.stopped
        assert me.rss > 1_000_000

    def test_the_start_time_alone_is_the_one_of_the_row_and_stays(
        self, table: ProcessTable, sleeper: subprocess.Popen[bytes]
    ) -> None:
        row = table.read(sleeper.pid)
        assert row is not None
        assert table.start_time(sleeper.pid) == row.start_time
        os.kill(sleeper.pid, signal.SIGSTOP)
        wait_until(lambda: table.read(sleeper.pid).stopped, what="it was shown as stopped")
        assert find_living(table, row.identity) is not None
        assert table.start_time(sleeper.pid) == row.start_time

    def test_a_later_process_has_a_later_start_time(
        self, table: ProcessTable, sleeper: subprocess.Popen[bytes]
    ) -> None:
        mine = table.start_time(os.getpid())
        assert mine is not None
        assert mine < table.start_time(sleeper.pid)

    def test_another_start_time_is_another_process(self, table: ProcessTable, sleeper: subprocess.Popen[bytes]) -> None:
        began = table.start_time(sleeper.pid)
        assert began is not None
        assert find_living(table, (sleeper.pid, began)) is not None
        assert find_living(table, (sleeper.pid, began + 1)) is None

    def test_another_process_says_the_same_of_it(self, table: ProcessTable, sleeper: subprocess.Popen[bytes]) -> None:
        """An identity in a record is compared by a later program, which finds out about the boot for itself."""
        program = (
            "import sys; from importlib import import_module; table = import_module(sys.argv[1]);"
            "print(table.boot_id(), table.start_time(int(sys.argv[2])))"
        )
        asked = subprocess.run(
            [sys.executable, "-c", program, table.__name__, str(sleeper.pid)],
            capture_output=True,
            text=True,
            check=True,
            timeout=20,
        )
        assert asked.stdout.split() == [table.boot_id(), str(table.start_time(sleeper.pid))]

    def test_the_dead_who_are_not_waited_for_are_there_and_not_living(self, table: ProcessTable) -> None:
        dead = subprocess.Popen(["/bin/true"])
        os.waitid(os.P_PID, dead.pid, os.WEXITED | os.WNOWAIT)
        row = table.read(dead.pid)
        assert row is not None
        assert (row.state, row.living) == ("Z", False)
        assert row in list(table.scan())
        assert find_living(table, row.identity) is None
        dead.wait()

    def test_of_a_pid_that_nobody_has_nothing_is_told_and_nothing_raised(self, table: ProcessTable) -> None:
        gone = subprocess.Popen(["/bin/true"])
        gone.wait()
        assert (table.read(gone.pid), table.start_time(gone.pid), table.command(gone.pid)) == (None, None, "")

    def test_the_command_line_is_told_with_its_arguments(
        self, table: ProcessTable, sleeper: subprocess.Popen[bytes]
    ) -> None:
        wait_until(lambda: table.command(sleeper.pid) == "/bin/sleep 1000.25", what="the command line was told")

    def test_the_arguments_are_told_one_by_one(self, table: ProcessTable) -> None:
        argv = [sys.executable, "-c", "import sys; sys.stdin.read()", "two words", ""]
        with subprocess.Popen(argv, stdin=subprocess.PIPE) as asked:
            wait_until(lambda: table.arguments(asked.pid) == argv, what="it was told")
        assert table.arguments(asked.pid) == []

    def test_who_has_a_terminal_is_told_from_who_has_none(
        self, table: ProcessTable, sleeper: subprocess.Popen[bytes]
    ) -> None:
        pid, master = pty.fork()
        if pid == 0:
            os.execv("/bin/sleep", ["sleep", "1000.25"])
        try:
            wait_until(lambda: "sleep" in table.command(pid), what="it had its terminal, and its program")
            # By a later program: psutil looks only once which terminals there are.
            program = (
                "import sys; from importlib import import_module; table = import_module(sys.argv[1]);"
                "print(*[table.terminal(int(pid)) for pid in sys.argv[2:]])"
            )
            argv = [sys.executable, "-c", program, table.__name__, str(pid), str(sleeper.pid), "4194400"]
            asked = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=20)
        finally:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            os.close(master)
        assert asked.stdout.split() == ["True", "False", "False"]

    def test_a_scan_shows_everybody_once_and_the_newest_pids_first(
        self, table: ProcessTable, sleeper: subprocess.Popen[bytes]
    ) -> None:
        everybody = {pid for pid, _ in truth.everybody()}
        pids = [row.pid for row in table.scan()]
        assert {os.getpid(), os.getppid(), sleeper.pid, 1} <= set(pids)
        assert pids == sorted(set(pids), reverse=True)
        assert {pid for pid in everybody - set(pids) if truth.look(pid)} == set(), "these live and were not shown"

    def test_a_fork_is_a_birth_where_births_are_counted(self, table: ProcessTable) -> None:
        before = table.births()
        subprocess.run(["/bin/true"], check=True)
        after = table.births()
        assert (before is None) == (after is None)
        if before is not None:
            assert after is not None
            assert not after.none_since(before)
            assert not after.none_here_since(before)

    def test_nobody_is_hidden_whom_the_table_says_it_shows(self, table: ProcessTable) -> None:
        assert table.hides_others() is (table.read(1) is None)

    @pytest.mark.slow
    @pytest.mark.parametrize("name", ["depth_3", "ignores_term", "stopped", "respawner", "dead_main_thread"])
    def test_a_tree_is_ended_over_it(self, name: str, table: ProcessTable, service: Service, planted: Plant) -> None:
        plan = planted(TREES[name])
        grow(service, plan)
        (command,) = plan.pids("command")
        command_row = table.read(command)
        assert command_row is not None
        tracker = Portable(table, [command_row.identity])
        ending = Ending(tracker, Signaller(table, person=os.getuid()), table, time.sleep)
        report = ending.run(Ladder(0.3, 20), cause="request", ended_by="reaper")
        assert service.judge.alive() == [], report
        assert (report.verdict, report.proof, report.survivors) == ("empty_by_scan", None, ())


def shown_alike(pid: int) -> tuple[Process, Process] | None:
    """The rows of both tables, once they agree in all but the start time, whose units differ, and in having memory.

    How much of it they read in two files, one of which the kernel keeps less exactly than the other.
    """
    mine, theirs = procfs.read(pid), psutil_table.read(pid)
    if mine is None or theirs is None or bool(mine.rss) != bool(theirs.rss):
        return None
    return (mine, theirs) if mine._replace(start_time=0, rss=0) == theirs._replace(start_time=0, rss=0) else None


AT_REST = (
    "depth_5",
    "stopped",
    "odd_name",
    "forks_from_a_thread",
    "dead_main_thread",
    "suspended_in_vfork",
    "environment_wiped",
    "unreaped_zombies",
)


@pytest.mark.slow
class TestAgainstProcfs:
    """What psutil says on Linux is what /proc says."""

    @pytest.mark.parametrize("name", AT_REST)
    def test_every_process_of_a_tree_at_rest_is_shown_alike(
        self, name: str, account: Route, service: Service, planted: Plant
    ) -> None:
        plan = planted(TREES[name])
        seen = grow(service, plan, account.user)
        dead = [row.pid for row in procfs.descendants(plan.pids("command")[0]) if not row.living]
        booted = round(psutil.boot_time() * 1_000_000)
        for pid in [*(one.pid for one in seen), *dead]:

            def picture(pid: int = pid) -> str:
                return f"procfs: {procfs.read(pid)}\npsutil: {psutil_table.read(pid)}"

            mine, theirs = wait_until(lambda pid=pid: shown_alike(pid), 5, "both tables agreed", picture)
            assert theirs.start_time == booted + mine.start_time * TICK
            assert procfs.command(pid) == psutil_table.command(pid)
        assert name != "unreaped_zombies" or len(dead) == 50

    def test_both_scan_the_same_host(self, sleeper: subprocess.Popen[bytes]) -> None:
        """Compared over those that were there before both and lived on after both."""
        before = truth.everybody()
        theirs, mine = list(psutil_table.scan()), list(procfs.scan())
        stayed = {pid for pid, _ in before & truth.everybody()}
        assert sleeper.pid in stayed
        assert {row.pid for row in mine} & stayed == {row.pid for row in theirs} & stayed == stayed

    @pytest.mark.cross_account
    def test_another_accounts_processes_are_shown_to_the_service_account(
        self, service: Service, planted: Plant
    ) -> None:
        plan = planted(TREES["depth_1"])
        (sudo,) = [one for one in grow(service, plan, service.stage.person.name) if one.name == "sudo"]
        program = (
            "import sys; from corral.process.bare import psutil_table as table\n"
            "for row in map(table.read, map(int, sys.argv[1:])):\n"
            "    print(row.pid, row.ppid, row.sid, row.uid, row.euid, row.saved_uid, row.living)"
        )
        pids = [sudo.pid, *plan.pids("command")]
        asked = service.run([service.python, "-c", program, *map(str, pids)])
        rows = [procfs.read(pid) for pid in pids]
        assert asked.stdout.splitlines() == [
            f"{row.pid} {row.ppid} {row.sid} {row.uid} {row.euid} {row.saved_uid} True" for row in rows
        ], asked.stderr
        assert [(row.uid, row.euid) for row in rows] == [
            (service.account.uid, 0),
            (service.stage.person.uid, service.stage.person.uid),
        ]


def test_the_psutil_table_is_never_loaded_on_linux(service: Service) -> None:
    """It costs what the heart must not: psutil is no dependency there."""
    program = "import sys, corral.cli; from corral.process.bare.host import host_table; print(host_table().__name__)"
    asked = service.run([service.python, "-c", f"{program}; print('psutil' in sys.modules)"])
    assert asked.stdout.split() == ["corral.process.bare.procfs", "False"], asked.stderr
