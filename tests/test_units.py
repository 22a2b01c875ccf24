"""`corral units`: what is printed is what systemd and launchd take, with a reason at each line."""

import os
import plistlib
import pwd
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corral.backends.environment import ACCOUNT_TMP
from corral.config import Config
from corral.install import launchd, units
from corral.install.accounts import NoServiceAccountError, program, service_account
from corral.install.units import UnitsError, word
from tests.harness.service import Service

ME = pwd.getpwuid(os.getuid()).pw_name
ANALYZE = shutil.which("systemd-analyze")
TMPFILES = shutil.which("systemd-tmpfiles")


def config(*people: dict[str, Any], **tables: Any) -> Config:
    made = Config.model_validate({"people": people or ({"name": "daniel", "os_user": "news"},), **tables})
    return made.model_copy(update={"path": Path("/etc/corral/corral.toml")})


def settings_of(unit: str) -> dict[str, str]:
    return dict(line.split("=", 1) for line in unit.splitlines() if line and line[0] not in "#[")


def systemd(made: Config, user: str = "games") -> dict[str, str]:
    return settings_of(units.systemd(made, user, ["/bin/true"]))


class TestSystemd:
    @pytest.mark.skipif(ANALYZE is None, reason="needs systemd-analyze")
    @pytest.mark.parametrize("people", [({"name": "a", "os_user": "news"},), ({"name": "a"},)], ids=["sudo", "own"])
    def test_systemd_takes_it(self, people: tuple[dict[str, Any], ...], tmp_path: Path) -> None:
        made = config(*people, service={"state_dir": "/var/lib/corral"}, pool={"backends": 500})
        file = tmp_path / "corral.service"
        file.write_text(units.systemd(made, ME, ["/bin/true", "a b", "50%", "$HOME", 'q"', "back\\slash"]))
        done = subprocess.run(
            [str(ANALYZE), "verify", "--man=no", str(file)], capture_output=True, text=True, check=False, timeout=30
        )
        assert [line for line in (done.stdout + done.stderr).splitlines() if "corral" in line] == []

    @pytest.mark.skipif(ANALYZE is None, reason="needs systemd-analyze")
    def test_what_systemd_does_not_take_is_said(self) -> None:
        assert "'Kill'" in units.verify("[Service]\nExecStart=/bin/true\nKill=x\n")
        assert units.verify("[Service]\nExecStart=/bin/true\n") == ""

    def test_every_setting_stands_below_its_reason(self) -> None:
        reason = False
        for line in units.systemd(
            config(service={"state_dir": "/var/lib/corral"}), "games", ["/bin/true"]
        ).splitlines():
            if line.startswith("["):
                reason = False
            elif line.startswith("#"):
                reason = True
            elif line:
                assert reason, line
            assert len(line) <= 140

    def test_systemd_waits_longer_than_the_shutdown_and_than_the_sweep_at_the_start(self) -> None:
        made = config(
            service={"shutdown": "95s"}, pool={"backends": 10}, ladder={"grace": "5s", "kill": "10s", "goodbye": "1s"}
        )
        unit = systemd(made)
        assert (unit["TimeoutStopSec"], unit["TimeoutStartSec"]) == ("105s", "210s")

    def test_where_sudo_is_needed_nothing_keeps_it_from_working(self) -> None:
        unit = systemd(config())
        assert not {"NoNewPrivileges", "PrivateUsers", *units.IMPLY_NO_NEW_PRIVILEGES} & set(unit)
        needed = {"CAP_SETUID", "CAP_SETGID", "CAP_KILL", "CAP_AUDIT_WRITE"}
        assert needed <= set(unit["CapabilityBoundingSet"].split())

    def test_where_all_agents_run_as_the_service_there_are_no_new_privileges(self) -> None:
        unit = systemd(config({"name": "a"}))
        assert (unit["NoNewPrivileges"], unit["CapabilityBoundingSet"]) == ("yes", "")

    def test_the_state_folder_is_made_by_systemd_only_below_var_lib(self) -> None:
        assert systemd(config(service={"state_dir": "/var/lib/corral/one"}))["StateDirectory"] == "corral/one"
        assert "StateDirectory" not in systemd(config(service={"state_dir": "/srv/corral"}))
        assert "StateDirectory" not in systemd(config())

    @pytest.mark.parametrize("name", ["", "/../../etc/x", "/a:b", "/a$b", "/a%b", "/a b", "/a\\b", '/a"b'])
    def test_a_state_folder_that_systemd_has_no_words_for_is_left_to_the_operator(self, name: str) -> None:
        made = config(service={"state_dir": f"/var/lib{name}", "socket": "/run/corral/corral.sock"})
        assert "StateDirectory" not in systemd(made)
        assert [sentence.split(":")[0][:21] for sentence in units.notices(made)] == ["systemd does not make"]

    def test_a_state_folder_that_the_unit_closes_is_told_of(self) -> None:
        made = config(service={"state_dir": "/etc/corral/state", "socket": "/run/corral/corral.sock"})
        assert "cannot be written by a service with ProtectSystem=full" in list(units.notices(made))[-1]

    def test_many_backends_get_the_descriptors_that_they_need(self) -> None:
        assert "LimitNOFILE" not in systemd(config())
        assert systemd(config(pool={"backends": 1000}))["LimitNOFILE"] == "8256:524288"

    def test_what_others_must_know_of_the_config_is_said(self) -> None:
        assert len(list(units.notices(config()))) == 2
        told = config(service={"socket": "/run/corral/corral.sock", "state_dir": "/var/lib/corral"})
        assert list(units.notices(told)) == []

    @given(st.text())
    def test_a_word_is_one_word_or_refused(self, text: str) -> None:
        try:
            written = word(text)
        except UnitsError:
            assert not text.isprintable()
            return
        # As systemd reads it: specifiers and variables, then quotes.
        assert "%" not in written.replace("%%", "")
        assert "$" not in written.replace("$$", "")
        quoted = written.startswith('"')
        read = re.sub(r"\\(.)", r"\1", written[1:-1]) if quoted else written
        assert read.replace("%%", "%").replace("$$", "$") == text
        assert quoted or not re.search(r"[\s'\"\\;]", written)


class TestTmpfiles:
    def test_a_folder_for_each_account_that_is_not_the_services(self) -> None:
        people = ({"name": "a", "os_user": "news"}, {"name": "b", "os_user": "news"}, {"name": "c", "os_user": "games"})
        lines = [line for line in units.tmpfiles(config(*people), "games").splitlines() if line[0] != "#"]
        assert lines == [f"d {ACCOUNT_TMP} 0755 root root -", f"d {ACCOUNT_TMP}/news 0700 news news 10d"]

    @pytest.mark.cross_account
    @pytest.mark.skipif(TMPFILES is None, reason="needs systemd-tmpfiles")
    def test_systemd_makes_them_so_that_nobody_else_may_enter(self, tmp_path: Path) -> None:
        for name in ("passwd", "group"):
            (tmp_path / "etc").mkdir(exist_ok=True)
            shutil.copy(f"/etc/{name}", tmp_path / "etc" / name)
        (tmp_path / "var" / "lib").mkdir(parents=True)
        file = tmp_path / "corral.conf"
        file.write_text(units.tmpfiles(config(), "games"))
        subprocess.run([str(TMPFILES), f"--root={tmp_path}", "--create", str(file)], check=True, timeout=30)
        made = (tmp_path / ACCOUNT_TMP.lstrip("/") / "news").stat()
        assert (made.st_uid, made.st_mode & 0o7777) == (pwd.getpwnam("news").pw_uid, 0o700)
        assert (tmp_path / ACCOUNT_TMP.lstrip("/")).stat().st_uid == 0


class TestLaunchd:
    def test_it_is_a_property_list_that_says_what_it_must(self) -> None:
        text = launchd.plist(config(service={"shutdown": "20s", "state_dir": "/var/corral"}), "games", ["/opt/corral"])
        made = plistlib.loads(text.encode())
        assert made["ProgramArguments"] == ["/opt/corral", "serve", "--config", "/etc/corral/corral.toml"]
        assert (made["UserName"], made["ExitTimeOut"], made["KeepAlive"]) == ("games", 30, {"SuccessfulExit": False})
        assert made["AbandonProcessGroup"] is False
        assert made["StandardErrorPath"] == "/var/corral/corral.log"

    def test_every_key_has_its_reason_and_no_comment_breaks_the_file(self) -> None:
        text = launchd.plist(config(), "games", ["/opt/--corral--", "<&>"])
        lines = text.splitlines()
        for number, line in enumerate(lines):
            if line.startswith("\t<key>"):
                assert lines[number - 1].startswith("\t<!-- ")
        assert all("--" not in comment for comment in re.findall(r"<!--(.*?)-->", text))
        assert plistlib.loads(text.encode())["ProgramArguments"][:2] == ["/opt/--corral--", "<&>"]

    @pytest.mark.parametrize("name", ["a\nb", "a\x1b[2J", "\udcff"])
    def test_what_it_has_no_words_for_is_refused(self, name: str) -> None:
        with pytest.raises(UnitsError, match="no words for"):
            launchd.plist(config(), "games", ["/opt/corral", name])


class TestWhoseServiceItIs:
    def test_the_named_one(self) -> None:
        assert service_account(config(), "news") == "news"
        with pytest.raises(NoServiceAccountError, match="'no such'"):
            service_account(config(), "no such")

    @pytest.mark.skipif(os.getuid() != 0, reason="needs root")
    def test_for_root_the_owner_of_the_state_or_a_question(self, tmp_path: Path) -> None:
        made = config(service={"state_dir": str(tmp_path)})
        with pytest.raises(NoServiceAccountError, match="--service-user NAME"):
            service_account(made)
        os.chown(tmp_path, pwd.getpwnam("games").pw_uid, -1)
        assert service_account(made) == "games"

    def test_the_program_is_this_installation(self) -> None:
        assert Path(program()[0]).is_absolute()


@pytest.mark.parametrize(("kind", "begins"), [("systemd", "# Corral"), ("tmpfiles", "# Folders"), ("launchd", "<?xml")])
@pytest.mark.slow
def test_the_command_prints_one_file(kind: str, begins: str, service: Service) -> None:
    file = service.folder / "corral.toml"
    file.write_text('[[people]]\nname = "daniel"\n')
    file.chmod(0o644)
    done = service.run(service.corral("units", kind, "--config", str(file)))
    assert (done.returncode, done.stdout.startswith(begins)) == (0, True)
    assert all(line.startswith("corral: ") for line in done.stderr.splitlines())
