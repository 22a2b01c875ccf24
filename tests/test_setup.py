"""`corral setup` on a machine of its own: /etc is a copy, and /usr/local/bin has the engine."""

import fcntl
import json
import os
import pwd
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.harness import namespace, truth
from tests.harness.backends import PEER
from tests.harness.nested_systemd import NoSystemdError, booted, why_not
from tests.harness.service import Service
from tests.harness.stage import Account
from tests.harness.waiting import wait_until

pytestmark = pytest.mark.cross_account

ENGINE = """#!/bin/sh
case "$1" in
--version) echo "codex-cli 0.169.0" ;;
login) echo "Logged in using ChatGPT" ;;
*) exec {python} {peer} codex obey ;;
esac
"""
ETC, LOCAL, KEPT = Path("/etc"), Path("/usr/local/bin"), Path("/var/lib")
RECEIPT = Path("/etc/corral/setup.json")
SUDOERS = Path("/etc/sudoers")


@pytest.fixture
def machine(service: Service) -> Iterator[Service]:
    """The stage with an engine on sudo's path and rules that read sudoers.d; /etc is afterwards as it was."""
    peer = service.folder / "peer.py"
    peer.write_text(PEER.read_text())
    peer.chmod(0o644)
    programs = service.folder / "local"
    programs.mkdir(mode=0o755)
    codex = programs / "codex"
    codex.write_text(ENGINE.format(python=service.python, peer=peer))
    codex.chmod(0o755)
    namespace.bind(service.stage.root / "etc", ETC, read_only=False)
    before = SUDOERS.read_text()
    SUDOERS.write_text("root ALL=(ALL:ALL) NOPASSWD: ALL\n@includedir /etc/sudoers.d\n")
    namespace.bind(programs, LOCAL)
    # People's folders for temporary files are made there, and must be this worker's own.
    kept = service.folder / "kept"
    kept.mkdir(mode=0o755)
    namespace.bind(kept, KEPT, read_only=False)
    try:
        yield service
    finally:
        namespace.unmount(KEPT)
        namespace.unmount(LOCAL)
        SUDOERS.write_text(before)
        namespace.unmount(ETC)


@pytest.fixture
def setup(machine: Service) -> Callable[..., tuple[int, dict[str, dict[str, str]]]]:
    """Runs `corral setup` as root: its status, and each step by its name."""
    state = machine.folder / "service"

    def run(*arguments: str) -> tuple[int, dict[str, dict[str, str]]]:
        where = [] if "--remove" in arguments else ["--state-dir", str(state), "--socket", str(state / "corral.sock")]
        who = [] if "--remove" in arguments else ["--service-user", machine.account.name]
        argv = machine.corral("setup", "--json", *who, *where, *arguments)
        done = subprocess.run(argv, env=machine.env, cwd="/", capture_output=True, text=True, timeout=100, check=False)
        assert "Traceback" not in done.stderr, done.stderr
        if not done.stdout:
            return done.returncode, {"said": {"detail": done.stderr}}
        said = json.loads(done.stdout)
        assert said["ok"] == (done.returncode == 0)
        return done.returncode, {step["step"]: step for step in said["steps"]}

    return run


Setup = Callable[..., tuple[int, dict[str, dict[str, str]]]]


def etc() -> dict[str, bytes]:
    """Every file of /etc that a setup could write, with what is in it."""
    places = [Path("/etc/corral"), Path("/etc/sudoers.d"), Path("/etc/systemd/system"), Path("/etc/tmpfiles.d")]
    files = [file for place in places if place.exists() for file in place.rglob("*") if file.is_file()]
    return {str(file): file.read_bytes() for file in [*files, Path("/etc/passwd"), Path("/etc/group")]}


def states(steps: dict[str, dict[str, str]]) -> dict[str, str]:
    return {name: step["state"] for name, step in steps.items()}


@pytest.mark.slow
def test_a_dry_run_changes_nothing_and_a_second_setup_neither(setup: Setup, person: Account) -> None:
    before = etc()
    status, steps = setup("--no-unit", "--person", f"daniel:{person.name}")
    assert status == 0, steps
    assert etc() == before
    assert states(steps)["file /etc/corral/corral.toml"] == "todo"
    try:
        status, steps = setup("--no-unit", "--person", f"daniel:{person.name}", "--apply")
        assert status == 0, steps
        assert set(states(steps).values()) == {"done"}
        made = etc()
        assert RECEIPT.stat().st_mode & 0o777 == 0o600
        status, steps = setup("--no-unit", "--person", f"daniel:{person.name}")
        assert status == 0
        assert {name for name, state in states(steps).items() if state != "done"} == {"doctor"}
        assert setup("--no-unit", "--person", f"daniel:{person.name}", "--apply")[0] == 0
        assert etc() == made
    finally:
        status, steps = setup("--remove", "--apply", "--state")
    assert status == 0, steps
    assert etc() == before


@pytest.mark.slow
def test_what_was_changed_since_is_left_and_named(setup: Setup, machine: Service, person: Account) -> None:
    before = etc()
    assert setup("--no-unit", "--person", f"daniel:{person.name}", "--apply")[0] == 0
    rules, config = Path("/etc/sudoers.d/corral"), Path("/etc/corral/corral.toml")
    rules.chmod(0o640)
    rules.write_text(rules.read_text() + "# ours\n")
    # A setup again does not write over it, and begins nothing that rests on it.
    status, steps = setup("--no-unit", "--person", f"daniel:{person.name}", "--apply")
    assert (status, states(steps)["file /etc/sudoers.d/corral"]) == (1, "refused")
    assert "doctor" not in steps
    status, steps = setup("--remove", "--apply")
    assert states(steps)["file /etc/sudoers.d/corral"] == "left"
    assert rules.exists()
    assert not config.exists()
    kept = machine.folder / "service"
    assert kept.is_dir() == (states(steps)[f"folder {kept}"] == "left")
    rules.unlink()
    RECEIPT.unlink(missing_ok=True)
    RECEIPT.parent.rmdir()
    assert etc() == before


@pytest.mark.slow
def test_a_person_who_is_added_later_is_added_to_the_rules_when_the_config_names_them(
    setup: Setup, person: Account, stage: Any
) -> None:
    second = stage.second_person.name
    assert setup("--no-unit", "--person", f"daniel:{person.name}", "--apply")[0] == 0
    try:
        both = ["--person", f"daniel:{person.name}", "--person", f"ada:{second}"]
        status, steps = setup("--no-unit", *both, "--apply")
        assert status == 1
        assert f'name = "ada" os_user = "{second}"' in steps["file /etc/corral/corral.toml"]["remedy"]
        config = Path("/etc/corral/corral.toml")
        config.write_text(f'{config.read_text()}\n[[people]]\nname = "ada"\nos_user = "{second}"\n')
        status, steps = setup("--no-unit", *both, "--apply")
        assert status == 0, steps
        assert f"({second})" in Path("/etc/sudoers.d/corral").read_text()
    finally:
        Path("/etc/corral/corral.toml").unlink(missing_ok=True)
        assert setup("--remove", "--apply", "--state")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "nobody is named"),
        (["--person", "daniel:root"], "is root"),
        (["--person", "daniel:no such"], "is not a name for an account"),
        (["--person", "-x"], "is not a name for an account"),
        (["--person", "daniel:nobody-here"], "--create-accounts"),
        (["--person", "d:games"], "is the service's account"),
    ],
)
@pytest.mark.slow
def test_what_can_be_no_installation_is_refused_in_a_sentence(
    setup: Setup, arguments: list[str], sentence: str
) -> None:
    before = etc()
    status, steps = setup("--no-unit", "--apply", *arguments)
    assert status == 1
    assert sentence in json.dumps(steps)
    assert {key: text for key, text in etc().items() if "setup.json" not in key} == before
    RECEIPT.unlink(missing_ok=True)
    with suppress(OSError):
        RECEIPT.parent.rmdir()


@pytest.mark.slow
def test_accounts_are_made_when_that_was_said_and_go_when_that_was_said(setup: Setup) -> None:
    before = etc()
    arguments = ["--no-unit", "--person", "corral-test-daniel", "--create-accounts"]
    try:
        status, steps = setup(*arguments)
        assert status == 0, steps
        assert "useradd" in steps["account corral-test-daniel"]["detail"]
        status, steps = setup(*arguments, "--apply")
        assert status == 0, steps
        home = Path(pwd.getpwnam("corral-test-daniel").pw_dir)
    finally:
        status, steps = setup("--remove", "--apply", "--state", "--accounts")
    assert status == 0, steps
    with pytest.raises(KeyError):
        pwd.getpwnam("corral-test-daniel")
    subprocess.run(["rm", "-rf", str(home)], check=True)
    assert {key: text for key, text in etc().items() if "passwd" not in key and "group" not in key} == {
        key: text for key, text in before.items() if "passwd" not in key and "group" not in key
    }


@pytest.mark.slow
def test_a_setup_of_another_service_does_not_hide_the_first_from_a_removal(setup: Setup, person: Account) -> None:
    arguments = ["--no-unit", "--person", f"daniel:{person.name}"]
    assert setup(*arguments, "--apply")[0] == 0
    try:
        before, receipt = etc(), RECEIPT.read_bytes()
        for other in (["--state-dir", "/var/lib/corral-other"], ["--service-user", "corral-test-other"]):
            status, steps = setup(*arguments, *other, "--apply")
            assert (status, "undo it first" in json.dumps(steps)) == (1, True), steps
            assert etc() == before
        assert RECEIPT.read_bytes() == receipt
    finally:
        assert setup("--remove", "--apply", "--state")[0] == 0


@pytest.mark.slow
def test_an_account_that_was_made_anew_since_is_not_removed(setup: Setup) -> None:
    name = "corral-test-anew"
    try:
        assert setup("--no-unit", "--person", name, "--create-accounts", "--apply")[0] == 0
        subprocess.run(["usermod", "--uid", "59871", name], check=True)
        status, steps = setup("--remove", "--apply", "--state", "--accounts")
        assert status == 0, steps
        assert states(steps)[f"account {name}"] == "left"
        assert pwd.getpwnam(name).pw_uid == 59871
    finally:
        subprocess.run(["userdel", name], check=False)
        subprocess.run(["rm", "-rf", f"/home/{name}", "/etc/corral"], check=True)


@pytest.mark.slow
def test_a_file_with_the_right_text_and_another_owner_is_written_anew(setup: Setup, person: Account) -> None:
    arguments = ["--no-unit", "--person", f"daniel:{person.name}", "--apply"]
    assert setup(*arguments)[0] == 0
    try:
        rules = Path("/etc/sudoers.d/corral")
        os.chown(rules, person.uid, -1)
        status, steps = setup(*arguments)
        assert status == 0, steps
        assert rules.stat().st_uid == 0
    finally:
        assert setup("--remove", "--apply", "--state")[0] == 0


RECEIPT_TEXT = '{"version": 1, "state_dir": "/x", "service_user": "games", "made_folder": true, "made": [%s]}'


@pytest.mark.parametrize(
    ("text", "uid", "mode"),
    [
        pytest.param(RECEIPT_TEXT % '{"kind": "file", "name": "/etc/passwd", "digest": ""}', 5, 0o600, id="of another"),
        pytest.param(RECEIPT_TEXT % '{"kind": "file", "name": "/etc/passwd", "digest": ""}', 0, 0o666, id="open"),
        pytest.param(RECEIPT_TEXT[:40], 0, 0o600, id="cut off"),
        pytest.param(RECEIPT_TEXT % '{"kind": "file", "name": "passwd"}', 0, 0o600, id="relative"),
        pytest.param(RECEIPT_TEXT % '{"kind": "disk", "name": "/etc"}', 0, 0o600, id="unknown kind"),
        pytest.param(RECEIPT_TEXT.replace('"games"', '""') % '{"kind": "file", "name": "/x"}', 0, 0o600, id="nobody's"),
        pytest.param(RECEIPT_TEXT.replace('"/x"', "7") % '{"kind": "file", "name": "/x"}', 0, 0o600, id="a number"),
    ],
)
def test_a_receipt_that_no_setup_wrote_undoes_nothing(setup: Setup, text: str, uid: int, mode: int) -> None:
    RECEIPT.parent.mkdir()
    RECEIPT.write_text(text)
    os.chown(RECEIPT, uid, -1)
    RECEIPT.chmod(mode)
    try:
        before = etc()
        status, steps = setup("--remove", "--apply", "--state", "--accounts")
        assert (status, "remove by hand" in json.dumps(steps)) == (1, True), steps
        assert etc() == before
    finally:
        RECEIPT.unlink()
        RECEIPT.parent.rmdir()


def test_a_setup_waits_for_no_other_and_says_so(setup: Setup, person: Account) -> None:
    descriptor = os.open(ETC, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        status, steps = setup("--no-unit", "--person", f"daniel:{person.name}", "--apply")
        assert (status, "another `corral setup` is at work" in json.dumps(steps)) == (1, True), steps
        assert setup("--no-unit", "--person", f"daniel:{person.name}")[0] == 0  # a look needs no turn
    finally:
        os.close(descriptor)


def test_sudoers_in_another_encoding_are_read(setup: Setup, person: Account) -> None:
    SUDOERS.write_bytes(SUDOERS.read_bytes() + b"# f\xfcr uns\n")
    status, steps = setup("--no-unit", "--person", f"daniel:{person.name}")
    assert (status, states(steps)["sudo"]) == (0, "done"), steps


def test_only_root_may(machine: Service) -> None:
    done = machine.run(machine.corral("setup", "--person", "x"))
    assert done.returncode == 1
    assert "run it with sudo" in done.stderr


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_from_names_to_a_turn_and_back_under_a_real_systemd(machine: Service, person: Account) -> None:
    if lacking := machine.stage.lacking or why_not():
        pytest.skip(lacking)
    log = machine.folder / "serve.log"
    clone = f'[Service]\nEnvironment="PYTHONPATH={machine.env["PYTHONPATH"]}"\nStandardError=append:{log}\n'
    setup = machine.corral("setup", "--service-user", machine.account.name, "--person", f"daniel:{person.name}")
    setup += ["--state-dir", str(machine.folder / "service")]
    before = etc()
    try:
        with booted(machine.folder, {"corral.service.d/clone.conf": clone}, own_etc=True) as systemd:
            done = systemd.run([*setup, "--apply"], machine.env)
            assert done.returncode == 0, done.stdout + done.stderr
            assert systemd.show("corral", "ActiveState") == "active"
            again = systemd.run([*setup, "--apply"], machine.env)
            assert again.returncode == 0, again.stdout
            chat = ["setpriv", f"--reuid={person.uid}", f"--regid={person.gid}", "--clear-groups"]
            chat += machine.corral("chat", "--json")
            env = {**machine.env, "HOME": str(person.home), "CORRAL_SOCKET": "/run/corral/corral.sock"}
            held = systemd.run(chat, env, text="talk\n")
            events = [json.loads(line) for line in held.stdout.splitlines()]
            assert [one["status"] for one in events if one["event"] == "turn_ended"] == ["completed"], held.stderr
            removed = systemd.run(machine.corral("setup", "--remove", "--state", "--apply"), machine.env)
            assert removed.returncode == 0, removed.stdout + removed.stderr
            assert systemd.show("corral", "ActiveState") == "inactive"

            def still_there() -> list[truth.Seen]:
                people = {person.uid, machine.account.uid}
                return [one for one in machine.judge.alive() if one.uids[0] in people]

            wait_until(lambda: not still_there(), what="nothing was left", picture=lambda: truth.picture(still_there()))
            inside = systemd.run(
                ["ls", "/etc/corral", "/etc/sudoers.d/corral", "/etc/systemd/system/corral.service"], machine.env
            )
            assert inside.stdout == ""
    except NoSystemdError as error:
        pytest.skip(str(error))
    assert etc() == before


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_unit_whose_file_is_gone_does_not_keep_a_removal_from_its_end(machine: Service, person: Account) -> None:
    if lacking := machine.stage.lacking or why_not():
        pytest.skip(lacking)
    setup = machine.corral("setup", "--service-user", machine.account.name, "--person", f"daniel:{person.name}")
    setup += ["--state-dir", str(machine.folder / "service")]
    clone = f'[Service]\nEnvironment="PYTHONPATH={machine.env["PYTHONPATH"]}"\n'
    try:
        with booted(machine.folder, {"corral.service.d/clone.conf": clone}, own_etc=True) as systemd:
            done = systemd.run([*setup, "--apply"], machine.env)
            assert done.returncode == 0, done.stdout + done.stderr
            by_hand = (
                "systemctl disable --now corral && rm /etc/systemd/system/corral.service && systemctl daemon-reload"
            )
            done = systemd.run(["sh", "-c", by_hand], machine.env)
            assert done.returncode == 0, done.stdout + done.stderr
            removed = systemd.run(machine.corral("setup", "--remove", "--state", "--apply"), machine.env)
            assert removed.returncode == 0, removed.stdout + removed.stderr
            assert systemd.show("corral", "ActiveState") == "inactive"
            assert systemd.run(["ls", "/etc/corral", "/etc/sudoers.d/corral"], machine.env).stdout == ""
    except NoSystemdError as error:
        pytest.skip(str(error))


@pytest.mark.slow
def test_a_read_only_etc_is_said_and_nothing_is_made(setup: Setup, machine: Service, person: Account) -> None:
    before = etc()
    namespace.bind(ETC, ETC)
    try:
        status, steps = setup("--no-unit", "--person", f"daniel:{person.name}", "--apply")
        assert (status, "Read-only file system" in json.dumps(steps)) == (1, True), steps
        assert not (machine.folder / "service").exists()
    finally:
        namespace.unmount(ETC)
    assert etc() == before
