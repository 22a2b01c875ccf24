"""The environment of an agent: what is allowed and nothing else, as the real child has it, on both ways to it."""

import json
import os
import pwd
import stat
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from corral.backends import environment
from corral.backends.environment import agent_environment
from corral.backends.errors import BackendError, SecretError
from corral.backends.launch import Launch
from corral.process import StartError
from corral.process.bare import sudo
from tests.harness import truth
from tests.harness.driving import Driver
from tests.harness.service import Service
from tests.harness.stage import Account, Stage
from tests.harness.sudoers import Rules
from tests.harness.waiting import wait_until

SECRET = "sk-0123456789-do-not-show"
SERVICE = {
    "PATH": "/opt/engines/bin:node_modules/.bin::/usr/bin",
    "LANG": "de_DE.UTF-8",
    "LC_TIME": "C.UTF-8",
    "TZ": "Europe/Berlin",
    "HTTPS_PROXY": "http://proxy:3128",
    "NO_PROXY": "localhost",
    "CORRAL_KEY": SECRET,
    "TELEGRAM_TOKEN": SECRET,
    "WEATHER_BOT_TOKEN": SECRET,
    "DATABASE_URL": SECRET,
    "HOME": "/var/lib/corral",
    "USER": "service",
    "PYTHONPATH": "/srv/corral",
    "LD_PRELOAD": "/srv/hook.so",
}


@pytest.fixture
def secret_file(tmp_path: Path) -> Path:
    path = tmp_path / "key"
    path.write_text(SECRET + "\n")
    path.chmod(0o600)
    return path


def of_process(pid: int) -> dict[str, str]:
    text = Path(f"/proc/{pid}/environ").read_bytes().decode()
    return dict(word.split("=", 1) for word in text.split("\0") if word)


def argument_lists() -> str:
    """Everybody's, as everybody may read them."""
    lines = (Path(f"/proc/{pid}/cmdline") for pid in truth.pids() if pid != os.getpid())
    return "\n".join(line.read_bytes().decode(errors="replace") for line in lines if line.exists())


class TestAllowed:
    def test_of_the_services_environment_only_language_time_and_path_are_handed_on(self, tmp_path: Path) -> None:
        found = agent_environment(None, state_dir=tmp_path, base=SERVICE).variables
        me = pwd.getpwuid(os.getuid())
        assert found == {
            "HOME": me.pw_dir,
            "USER": me.pw_name,
            "LOGNAME": me.pw_name,
            "SHELL": me.pw_shell,
            "PATH": "/opt/engines/bin:/usr/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/sbin:/bin",
            "LANG": "de_DE.UTF-8",
            "LC_TIME": "C.UTF-8",
            "TZ": "Europe/Berlin",
            "TMPDIR": str(tmp_path / "tmp"),
        }

    def test_what_is_named_is_handed_on_but_never_a_secret_of_the_services(self, tmp_path: Path) -> None:
        keep = ["HTTPS_PROXY", "CORRAL_KEY", "TELEGRAM_TOKEN", "WEATHER_BOT_TOKEN", "NOT_SET"]
        found = agent_environment(None, state_dir=tmp_path, base=SERVICE, keep=keep).variables
        assert found["HTTPS_PROXY"] == "http://proxy:3128"
        assert "NO_PROXY" not in found
        assert SECRET not in found.values()

    def test_a_persons_own_variables_lie_on_top_and_secrets_above_them(self, tmp_path: Path, secret_file: Path) -> None:
        found = agent_environment(
            None,
            state_dir=tmp_path,
            base=SERVICE,
            env={"LANG": "C.UTF-8", "HOME": "/srv/h", "API_KEY": "another"},
            secrets={"API_KEY": secret_file},
        ).variables
        assert (found["LANG"], found["HOME"], found["API_KEY"]) == ("C.UTF-8", "/srv/h", SECRET)

    @pytest.mark.cross_account
    def test_a_shell_that_runs_nothing_is_not_handed_on(self, stage: Stage, person: Account) -> None:
        assert Path(pwd.getpwnam(person.name).pw_shell).name == "nologin", "the stage's accounts have none"
        found = agent_environment(person.name, base=SERVICE).variables
        assert (found["SHELL"], found["HOME"]) == ("/bin/sh", str(person.home))


class TestTemporaryFolder:
    def test_the_own_accounts_is_made_and_closed_to_everybody_else(self, tmp_path: Path) -> None:
        (tmp_path / "tmp").mkdir(mode=0o755)
        folder = Path(agent_environment(None, state_dir=tmp_path, base={}).variables["TMPDIR"])
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700

    def test_a_link_in_its_place_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "tmp").symlink_to("/var/tmp")
        with pytest.raises(BackendError, match=r"tmp cannot hold temporary files \(it is not a folder\)"):
            agent_environment(None, state_dir=tmp_path, base={})

    @pytest.mark.cross_account
    def test_a_folder_that_is_another_accounts_is_refused(self, tmp_path: Path, person: Account) -> None:
        (tmp_path / "tmp").mkdir()
        os.chown(tmp_path / "tmp", person.uid, person.gid)
        with pytest.raises(BackendError, match=f"it belongs to {person.name}"):
            agent_environment(None, state_dir=tmp_path, base={})

    @pytest.mark.cross_account
    @pytest.mark.parametrize(
        ("mode", "owned", "linked", "fault"),
        [
            (0o700, True, False, ""),
            (0o755, True, False, "its mode is 0755"),
            (0o1777, True, False, "its mode is 1777"),
            (0o700, False, False, "it belongs to root"),
            (0o700, True, True, "it is not a folder"),
            (None, False, False, "there is none"),
        ],
        ids=["right", "open_to_all", "sticky", "of_another", "link", "none"],
    )
    def test_another_accounts_must_be_its_own_and_closed(
        self,
        monkeypatch: pytest.MonkeyPatch,
        tmp_path: Path,
        person: Account,
        mode: int | None,
        owned: bool,
        linked: bool,
        fault: str,
    ) -> None:
        monkeypatch.setattr(environment, "ACCOUNT_TMP", str(tmp_path))
        folder = tmp_path / person.name
        real = tmp_path / "elsewhere" if linked else folder
        if mode is not None:
            real.mkdir()
            real.chmod(mode)
            os.chown(real, person.uid if owned else 0, -1)
        if linked:
            folder.symlink_to(real)
        found = agent_environment(person.name, base={})
        assert found.variables.get("TMPDIR") == (None if fault else str(folder))
        assert [fault in notice for notice in found.notices] == ([True] if fault else [])
        assert all(f"install -d -m 0700 -o {person.name} {folder}" in notice for notice in found.notices)


class TestSecretFiles:
    def read(self, path: Path) -> str:
        return agent_environment(None, state_dir=path.parent, base={}, secrets={"KEY": path}).variables["KEY"]

    @pytest.mark.parametrize("end", ["", "\n", "\r\n"])
    def test_the_newline_at_the_end_is_no_part_of_it(self, secret_file: Path, end: str) -> None:
        secret_file.write_bytes(f" two words{end}".encode())
        assert self.read(secret_file) == " two words"

    @pytest.mark.parametrize("mode", [0o600, 0o400])
    def test_its_owner_alone_may_read_it(self, secret_file: Path, mode: int) -> None:
        secret_file.chmod(mode)
        assert self.read(secret_file) == SECRET

    @pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o601])
    def test_a_file_that_others_may_use_is_refused(self, secret_file: Path, mode: int) -> None:
        secret_file.chmod(mode)
        self.refused(secret_file, f"others than its owner may use .* {mode:04o}.*chmod 0600")

    @pytest.mark.skipif(os.getuid() != 0, reason="makes a file of root's")
    def test_a_credential_that_systemd_gives_to_the_service_is_read(self, secret_file: Path) -> None:
        secret_file.chmod(0o400)
        entries = [(1, 4, -1), (2, 4, os.getuid() + 1), (4, 0, -1), (16, 4, -1), (32, 0, -1)]
        acl = struct.pack("<I", 2) + b"".join(struct.pack("<HHi", *entry) for entry in entries)
        os.setxattr(secret_file, "system.posix_acl_access", acl)
        assert stat.S_IMODE(secret_file.stat().st_mode) == 0o440, "the list's mask shows as the group's right"
        assert self.read(secret_file) == SECRET

    @pytest.mark.parametrize(
        ("content", "why"),
        [(b"\n", "is empty"), (b"sk\0" + SECRET.encode(), "holds NUL"), (SECRET.encode() + b"\xff", "not text in UTF")],
        ids=["empty", "nul", "no_text"],
    )
    def test_what_no_variable_can_hold_is_refused(self, secret_file: Path, content: bytes, why: str) -> None:
        secret_file.write_bytes(content)
        self.refused(secret_file, why)

    def test_64_kib_are_read_and_more_is_refused(self, secret_file: Path) -> None:
        secret_file.write_text("x" * 65536)
        assert len(self.read(secret_file)) == 65536
        secret_file.write_text("x" * 65537)
        self.refused(secret_file, "larger than 64 KiB")

    def test_what_is_no_regular_file_is_refused_and_not_waited_for(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pipe", 0o600)
        self.refused(tmp_path / "pipe", "not a regular file")
        self.refused(tmp_path, "not a regular file")
        self.refused(tmp_path / "none", "there is no file")

    @pytest.mark.cross_account
    def test_a_file_of_a_third_account_is_refused(self, secret_file: Path, person: Account) -> None:
        os.chown(secret_file, person.uid, -1)
        self.refused(secret_file, f"belongs to {person.name}, neither to root nor to")

    def refused(self, path: Path, why: str) -> None:
        with pytest.raises(SecretError, match=why) as raised:
            self.read(path)
        error: BaseException | None = raised.value
        while error is not None:
            assert SECRET not in f"{error!s}{error.args!r}"
            error = error.__cause__


class TestRealChild:
    async def test_under_the_own_account_it_sees_exactly_this(
        self, tmp_path: Path, service: Service, secret_file: Path
    ) -> None:
        wanted = agent_environment(
            None,
            state_dir=tmp_path / "state",
            base=SERVICE,
            env={"CORRAL_TEST_MARKER": service.folder.name},
            secrets={"API_KEY": secret_file},
        )
        launch = Launch(base_env=wanted.variables, env={"MORE": "1"}, state_dir=tmp_path / "state")
        async with await launch.start(["/bin/sleep", "1000"], None, "x") as job:
            assert of_process(job.pid) == {**wanted.variables, "MORE": "1"}
            assert SECRET not in str(of_process(job.reaper_pid))
            assert SECRET not in argument_lists()

    async def test_a_variable_that_cannot_be_given_is_named_without_its_value(self, tmp_path: Path) -> None:
        for name, value in (("KEY", f"{SECRET}\0"), ("A=B", SECRET), ("", SECRET)):
            with pytest.raises(StartError, match="cannot be given") as raised:
                await Launch(base_env={name: value}, state_dir=tmp_path).start(["/bin/true"], None, "x")
            assert raised.value.kind == "invalid"
            assert SECRET not in str(raised.value)


@pytest.mark.cross_account
class TestAcrossSudo:
    """What the person's process sees, of all that lies in sudo's own environment."""

    TMP = "/var/lib/corral-tmp/person"

    def start(self, driver: Driver, person: Account, argv: list[str], **more: Any) -> Mapping[str, str]:
        env = {**SERVICE, "API_KEY": SECRET, "TMPDIR": self.TMP, "DYLD_X": "x"}
        driver.start_job(argv, user=person.name, kept_env=env, **more)

        def persons() -> Mapping[str, str] | None:
            of_person = [one["pid"] for one in driver.ask("tree") if one["uid"] == person.uid]
            # Between sudo's fork and its exec the child still has sudo's own.
            found = of_process(of_person[0]) if of_person else {}
            return found if found.get("SUDO_USER") else None

        return wait_until(persons, what="the command ran", picture=driver.picture)

    def argv(self, service: Service) -> list[str]:
        return [service.python, "-c", "import time; time.sleep(1000)"]

    def test_what_the_rule_keeps_arrives_without_setenv_and_the_rest_is_dropped(
        self, driver: Driver, service: Service, person: Account, sudo_rules: Callable[..., Rules]
    ) -> None:
        sudo_rules(lines=(sudo.keep_line(service.python, ["TMPDIR", "API_KEY"]),))
        found = self.start(driver, person, self.argv(service))
        assert (found["API_KEY"], found["TMPDIR"]) == (SECRET, self.TMP)
        assert (found["HOME"], found["USER"]) == (str(person.home), person.name)
        assert (found["LANG"], found["TZ"]) == ("de_DE.UTF-8", "Europe/Berlin"), "sudo keeps these anywhere"
        assert not {"HTTPS_PROXY", "DATABASE_URL", "CORRAL_KEY", "PYTHONPATH", "LD_PRELOAD", "DYLD_X"} & {*found}
        assert driver.ask("notices") == []
        self.holds_no_secret(driver)
        assert driver.end()["verdict"] == "proven_empty"

    def test_without_a_rule_that_keeps_it_starts_all_the_same_and_the_line_is_named(
        self, driver: Driver, service: Service, person: Account
    ) -> None:
        found = self.start(driver, person, self.argv(service))
        assert not {"API_KEY", "TMPDIR"} & {*found}
        wait_until(lambda: driver.ask("notices"), what="the notice came", picture=driver.picture)
        line = f'add to sudoers: Defaults!{service.python} env_keep += "TMPDIR"'
        assert driver.ask("notices") == [f"sudo does not set TMPDIR for {person.name}: {line}"]
        self.holds_no_secret(driver)
        assert driver.end()["verdict"] == "proven_empty"

    def test_what_is_named_besides_still_needs_setenv(
        self, driver: Driver, service: Service, person: Account, sudo_rules: Callable[..., Rules]
    ) -> None:
        sudo_rules(command_tags="NOPASSWD:SETENV:")
        found = self.start(driver, person, self.argv(service), env={"MORE": "1"})
        assert (found["MORE"], found["TMPDIR"]) == ("1", self.TMP), "SETENV lets TMPDIR through as well"
        assert "API_KEY" not in found, "it was not named"
        assert driver.end()["verdict"] == "proven_empty"

    def test_a_rule_that_is_missing_altogether_is_said_as_ever(
        self, driver: Driver, service: Service, person: Account, sudo_rules: Callable[..., Rules]
    ) -> None:
        sudo_rules(command_tags="PASSWD:")
        with pytest.raises(AssertionError, match="password") as raised:
            self.start(driver, person, self.argv(service))
        assert raised.value.kind == "sudo_password"  # type: ignore[attr-defined]
        service.wait_empty(but=[driver.pid])

    def holds_no_secret(self, driver: Driver) -> None:
        assert driver.job is not None
        assert SECRET not in str(of_process(driver.job["reaper_pid"]))
        assert SECRET not in argument_lists()
        assert SECRET not in json.dumps(driver.ask("notices"))
