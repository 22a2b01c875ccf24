"""A sudo that refused, a sudo that gave no answer, and a command that ran: which it was is never guessed wrong."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest

from tests.harness import truth
from tests.harness.driving import Driver
from tests.harness.service import Service
from tests.harness.stage import Account, Stage
from tests.harness.trees import TREES, Planted, Tree
from tests.harness.waiting import wait_until

SudoRules = Callable[..., object]
pytestmark = pytest.mark.cross_account

STARTS = """
import asyncio, sys
from corral.process import Job, StartError

async def one():
    try:
        async with await Job.start(["/bin/false"], user=sys.argv[2], state_dir=sys.argv[1]) as job:
            return str(await job.wait())
    except StartError as error:
        return f"{error.kind}: {error}"

async def main():
    seen = []
    for _ in range(10):
        seen += await asyncio.gather(*(one() for _ in range(5)))
    print(*sorted(set(seen)), len(seen), sep="|")

asyncio.run(main())
"""


BARE = ("!pam_session", "!pam_setcred")


@pytest.mark.parametrize(
    ("defaults", "use_pty"),
    [
        pytest.param(BARE, False, id="becomes_the_command"),
        pytest.param(BARE, True, id="bare_with_pty", marks=pytest.mark.slow),
        pytest.param((), False, id="without_pty", marks=pytest.mark.slow),
        pytest.param((), True, id="debian", marks=pytest.mark.slow),
        pytest.param(("listpw=always",), True, id="password_to_list", marks=pytest.mark.slow),
    ],
)
def test_a_command_that_fails_at_once_is_never_taken_for_a_refusal(
    defaults: tuple[str, ...], use_pty: bool, service: Service, person: Account, sudo_rules: SudoRules
) -> None:
    # Without the PAM session sudo does not stay: it becomes the command.
    sudo_rules(commands=("/bin/false",), use_pty=use_pty, defaults=defaults)
    done = service.run([service.python, "-c", STARTS, str(service.state_dir), person.name])
    assert done.stdout == "1|50\n", done.stderr


HELPER = "98765"


@pytest.fixture
def hung_pam(stage: Stage) -> Iterator[Callable[..., None]]:
    """Lets calls of sudo hang in PAM, in a program of root's, after the first `calls` of them: `where` in PAM.

    once: only one does, for this many seconds.
    """
    assert stage.sudoers_file is not None
    file = stage.sudoers_file.parent / "pam.d" / "sudo"
    whole = file.read_text()
    counter = stage.root / "calls-of-sudo"
    script = stage.root / "pam-helper"

    def hang(calls: int, where: str = "account", once: str = "") -> None:
        counter.write_text("\n" * calls)
        act = f"{{ seq 1000 >{counter}; exec /bin/sleep {once}; }}" if once else f"exec /bin/sleep {HELPER}"
        # The end of a session is no call.
        begins = '#!/bin/sh\n[ "$PAM_TYPE" = close_session ] && exit 0\n'
        script.write_text(f"{begins}[ -s {counter} ] || {act}\nsed -i 1d {counter}\n")
        script.chmod(0o755)
        file.write_text(f"{where} required pam_exec.so seteuid {script}\n{whole}")

    yield hang
    file.write_text(whole)
    for pid in helpers():
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def helpers() -> list[int]:
    """The programs of PAM that hang."""
    return [pid for pid in truth.pids() if (seen := truth.look(pid)) and seen.command == f"/bin/sleep {HELPER}"]


@pytest.mark.slow
@pytest.mark.parametrize("where", ["account", "session"])
def test_what_hangs_in_pam_for_the_reapers_own_calls_is_not_the_jobs(
    where: str, driver: Driver, person: Account, hung_pam: Callable[..., None]
) -> None:
    # In the session part sudo is root's altogether, and cannot be signalled either.
    hung_pam(1, where)  # The command's own sudo comes through, and the look for the rule does not.
    driver.start_job([driver.service.python, "-c", "import time; time.sleep(1000)"], person.name, kill=1)
    (notice,) = wait_until(lambda: driver.ask("notices"), 20, "the reaper had given up its look for the rule")
    assert "is not known" in notice
    assert "add to sudoers" not in notice

    report = driver.end()
    assert helpers(), "no call of sudo hangs"
    # TERM that sudo relays has ended the tree. Beside a program of PAM's the kernel's word cannot be had.
    assert (report["verdict"], report["proof"], report["survivors"]) == ("empty_by_scan", None, []), report
    assert any("started for calls of the reaper" in note for note in report["notes"]), report
    assert driver.service.judge.alive(but=[driver.pid]) == []


@pytest.fixture
def hung_close(stage: Stage) -> Iterator[Callable[[], None]]:
    """Lets the next call of sudo hang in closing its PAM session, when its program has run and it is all root's."""
    assert stage.sudoers_file is not None
    file = stage.sudoers_file.parent / "pam.d" / "sudo"
    whole = file.read_text()
    once = stage.root / "once"
    script = stage.root / "pam-helper"
    script.write_text(f'#!/bin/sh\n[ "$PAM_TYPE" = close_session ] && rm {once} && exec /bin/sleep {HELPER}\nexit 0\n')
    script.chmod(0o755)

    def hang() -> None:
        once.touch()
        file.write_text(f"session required pam_exec.so quiet seteuid {script}\n{whole}")

    yield hang
    file.write_text(whole)
    for pid in helpers():
        os.kill(pid, signal.SIGKILL)


@pytest.mark.slow
def test_a_sudo_of_the_reapers_own_that_hangs_and_is_roots_is_not_the_jobs(
    driver: Driver, person: Account, hung_close: Callable[[], None]
) -> None:
    hung_close()
    driver.start_job([driver.service.python, "-c", "import time; time.sleep(1000)"], person.name, kill=1)
    (notice,) = wait_until(lambda: driver.ask("notices"), 20, "the reaper had given up its look for the rule")
    assert "is not known" in notice
    report = driver.end()
    assert helpers(), "no call of sudo hangs"
    assert (report["verdict"], report["proof"], report["survivors"]) == ("empty_by_scan", None, []), report
    assert any("started for calls of the reaper" in note for note in report["notes"]), report


def test_an_end_that_comes_during_the_look_for_the_rule_is_proven(
    driver: Driver, person: Account, hung_pam: Callable[..., None]
) -> None:
    """The look is given up then, and what it had started is gone in a moment."""
    hung_pam(1, once="0.4")
    driver.start_job([driver.service.python, "-c", "import time; time.sleep(1000)"], person.name, kill=5)
    report = driver.end()
    assert (report["verdict"], report["proof"]) == ("proven_empty", "no_children"), report


@pytest.mark.slow
@pytest.mark.parametrize(
    ("calls", "tree", "tracker"),
    # The command's own sudo comes through, and the look for the rule or not.
    [(2, "stopped", "auto"), (1, "ignores_term", "auto"), (2, "ignores_term", "portable")],
    ids=["no_call_for_cont_after_the_grace", "no_look_for_the_rule_while_ending", "no_call_for_stop_before_the_kill"],
)
def test_the_reaper_reports_in_time_where_sudo_hangs(
    calls: int,
    tree: str,
    tracker: str,
    driver: Driver,
    person: Account,
    hung_pam: Callable[[int], None],
    planted: Callable[[Tree], Planted],
) -> None:
    """TERM and KILL wait for one call of sudo each, and nothing else does."""
    hung_pam(calls)
    plan = planted(TREES[tree])
    driver.start_job(list(plan.argv), person.name, grace=0.2, kill=1, tracker=tracker)
    plan.wait_ready(driver.service.judge.alive)
    report = driver.end(timeout=60)
    assert (report["verdict"], report["ended_by"]) == ("survivors", "reaper"), report
    assert report["seconds"] < 0.2 + 1 + 2 * 5


@pytest.mark.slow
def test_no_rule_for_root_is_advised_where_the_start_itself_hangs_in_pam(
    service: Service, person: Account, hung_pam: Callable[[int], None]
) -> None:
    hung_pam(0)
    options = ("--state-dir", str(service.state_dir), "--user", person.name, "--grace", "0.1", "--kill", "0.1")
    started = service.start(service.corral("run", *options, "--", service.python, "-c", ""))
    (helper,) = wait_until(helpers, 20, "sudo hung in PAM")
    started.terminate()
    assert service.wait_exit(started, 25) == 125
    assert started.stderr is not None
    os.kill(helper, signal.SIGKILL)
    said = started.stderr.read().decode()
    assert f"pid {helper} (root" in said
    assert "end it as root" in said
    assert "sudoers" not in said
