"""`corral doctor`: each check against the fault that it is there for, by the service account with the real sudo."""

import asyncio
import json
import os
import shutil
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from corral.cli import app
from corral.install import doctor
from corral.install.checks import state
from corral.install.finding import Finding
from tests.harness import sudoers
from tests.harness.driving import Driver
from tests.harness.service import Service
from tests.harness.stage import Account, Stage
from tests.test_store_failures import damaged_page

pytestmark = pytest.mark.slow

CODEX = """#!/bin/sh
case "$*" in
--version) echo codex-cli 0.130.0 ;;
"login status") echo "Logged in using an API key - sk-secret***tail" >&2 ;;
esac
"""
CLAUDE = """#!/bin/sh
case "$*" in
--version) echo "2.1.330 (Claude Code)" ;;
"auth status") echo '{"loggedIn": true, "authMethod": "claude.ai"}' ;;
esac
"""
# Process 1 of a namespace: an agent comes to it whose owner has gone, and then the doctor looks.
INIT = """
import os, subprocess, sys, time
open("/proc/self/comm", "w").write("init")
agent, uid, gid, own_uid, own_gid = sys.argv[1], *map(int, sys.argv[2:6])
orphan = ["setsid", "sh", "-c", '"$0" 1001 & exit 0', agent]
subprocess.run(orphan, user=uid, group=gid, extra_groups=[], check=True)
sys.exit(subprocess.run(sys.argv[6:], user=own_uid, group=own_gid, extra_groups=[]).returncode and 0)
"""


def chown(service: Service, folder: Path) -> None:
    """Give what is in a folder to the service's account."""
    if os.geteuid() == 0:
        for file in folder.iterdir():
            os.chown(file, service.account.uid, service.account.gid)


class Clinic:
    """A config with one person under another account and both engines, and the doctor for it."""

    def __init__(self, service: Service, person: Account) -> None:
        self.service, self.person = service, person
        self.state_dir = service.state_dir
        self.codex = self.program("codex", CODEX)
        self.claude = self.program("claude", CLAUDE)
        self.file = service.folder / "corral.toml"

    def program(self, name: str, text: str) -> Path:
        # A folder of root's: whoever may write there could put another program in its place.
        folder = self.service.folder / "bin"
        folder.mkdir(exist_ok=True, mode=0o755)
        path = folder / name
        path.write_text(text)
        path.chmod(0o755)
        return path

    def write(self, more: str = "", service: str = "") -> None:
        self.file.write_text(
            f'[service]\nstate_dir = "{self.state_dir}"\n{service}'
            f'[engines]\ncodex.command = ["{self.codex}"]\nclaude.command = ["{self.claude}"]\n'
            f'[[people]]\nname = "daniel"\nos_user = "{self.person.name}"\n{more}'
        )
        self.file.chmod(0o644)

    def rules(self) -> str:
        done = self.service.run(self.service.corral("sudoers", "--config", str(self.file)))
        assert done.returncode == 0, done.stderr
        return done.stdout

    def examine(self, *, before: tuple[str, ...] = ()) -> tuple[int, dict[str, list[dict[str, Any]]]]:
        argv = [*before, *self.service.corral("doctor", "--json", "--config", str(self.file))]
        done = self.service.run(argv, timeout=100)
        assert done.stderr == ""
        found: dict[str, list[dict[str, Any]]] = {}
        for one in json.loads(done.stdout)["findings"]:
            assert set(one) == {"label", "status", "detail", "todo", "fix"}
            found.setdefault(one["label"], []).append(one)
        return done.returncode, found

    def finding(self, label: str, **more: Any) -> dict[str, Any]:
        status, found = self.examine(**more)
        assert status == int(any(one["status"] == "error" for ones in found.values() for one in ones))
        return found[label][0]


@pytest.fixture
def clinic(service: Service, person: Account) -> Clinic:
    made = Clinic(service, person)
    made.write()
    return made


@pytest.fixture
def install(stage: Stage, sudo_rules: Callable[..., object]) -> Callable[[str], None]:
    def put(text: str) -> None:
        assert stage.sudoers_file is not None
        sudoers.write_text(sudoers.ROOT + text, stage.sudoers_file)

    sudo_rules()
    return put


@pytest.mark.cross_account
class TestAcrossAccounts:
    def test_with_the_printed_rules_there_is_no_error(self, clinic: Clinic, install: Callable[[str], None]) -> None:
        install(clinic.rules())
        status, found = clinic.examine()
        assert status == 0
        person = clinic.person.name
        assert found["daniel: codex"][0]["detail"].startswith(f"0.130.0 at {clinic.codex}")
        assert found["daniel: codex"][0]["detail"].endswith("proven_empty")
        assert found["daniel: claude"][0]["status"] == "ok"
        of_person = (f"{person}: kill", f"{person}: files")
        for label in ("subreaper", "sudo", "new privileges", "state folder", "ledger", *of_person, "account"):
            assert [one["status"] for one in found[label]] == ["ok"], found[label]
        assert found["daniel: claude login"][0]["detail"] == "logged in, by claude.ai"

    def test_nothing_of_a_key_is_shown(self, clinic: Clinic, install: Callable[[str], None]) -> None:
        install(clinic.rules())
        _, found = clinic.examine()
        assert found["daniel: codex login"][0]["detail"] == "logged in, by API key"
        assert "sk-" not in json.dumps(found)

    def test_it_leaves_no_process_and_no_file(self, clinic: Clinic, install: Callable[[str], None]) -> None:
        install(clinic.rules())
        before = set(clinic.service.folder.rglob("*"))
        clinic.examine()
        clinic.service.wait_empty(5)
        assert set(clinic.service.folder.rglob("*")) == before

    def test_without_rules_each_is_named_with_the_line_and_the_commands(
        self, clinic: Clinic, install: Callable[[str], None]
    ) -> None:
        install("")
        status, found = clinic.examine()
        service, person = clinic.service.account.name, clinic.person.name
        assert status == 1
        engine, kill = found["daniel: codex"][0], found[f"{person}: kill"][0]
        assert (engine["status"], kill["status"]) == ("error", "error")
        assert f"{service} ALL=({person}) NOPASSWD: {clinic.codex}" in engine["detail"]
        assert f"{service} ALL=({person}) NOPASSWD: /bin/kill" in kill["todo"]
        assert found["daniel: claude"][0]["status"] == "warn", "nobody begins with it"
        assert f"sudo -u {service} corral sudoers --config {clinic.file}" in engine["fix"][0]

    def test_without_the_rule_for_files_all_else_works_and_it_says_how_to_get_it(
        self, clinic: Clinic, install: Callable[[str], None]
    ) -> None:
        install("\n".join(line for line in clinic.rules().splitlines() if "files_as_account" not in line) + "\n")
        status, found = clinic.examine()
        person = clinic.person.name
        files = found[f"{person}: files"][0]
        assert (status, files["status"]) == (0, "warn")
        assert files["detail"].startswith(f"files cannot be handed over to {person}: sudo: ")
        assert files["todo"] == "write the rules again with `corral sudoers`, and install them"
        assert "corral sudoers" in files["fix"][0]

    def test_variables_that_sudo_would_drop_without_a_word(
        self, clinic: Clinic, install: Callable[[str], None]
    ) -> None:
        clinic.write('env = { MODEL_HOST = "secret-value" }\n')
        rules = clinic.rules()
        install(rules)
        found = clinic.finding("daniel: codex variables")
        assert found["status"] == "ok"
        install(rules.replace("MODEL_HOST", ""))
        found = clinic.finding("daniel: codex variables")
        assert (found["status"], found["detail"]) == ("error", "sudo drops MODEL_HOST: agents start without")
        assert "secret-value" not in json.dumps(found)

    def test_a_rule_for_kill_that_allows_one_signal_only(self, clinic: Clinic, install: Callable[[str], None]) -> None:
        install(clinic.rules().replace("NOPASSWD: /bin/kill", "NOPASSWD: /bin/kill -KILL *"))
        kill = clinic.finding(f"{clinic.person.name}: kill")
        assert kill["status"] == "error"
        assert "cannot be ended with 0, TERM, CONT, STOP" in kill["detail"]

    def test_a_folder_that_is_not_there_in_a_home_that_the_service_cannot_look_into(
        self, clinic: Clinic, install: Callable[[str], None]
    ) -> None:
        clinic.write('workspace = "~/nowhere"\nengine = "claude"\n')
        install(clinic.rules())
        _, found = clinic.examine()
        assert found["daniel: workspace"][0]["status"] == "skip"
        assert found["daniel: claude"][0]["status"] == "error"
        assert str(clinic.person.home / "nowhere") in found["daniel: claude"][0]["detail"] + str(
            found["daniel: workspace"]
        )

    def test_a_folder_that_the_person_may_not_enter(self, clinic: Clinic, install: Callable[[str], None]) -> None:
        clinic.write(f'workspaces = {{ one = "{clinic.state_dir}", two = "{clinic.service.folder}/nowhere" }}\n')
        install(clinic.rules())
        _, found = clinic.examine()
        one, two = found["daniel: folder one"][0], found["daniel: folder two"][0]
        assert (one["status"], one["detail"]) == ("error", f"{clinic.person.name} may not enter {clinic.state_dir}")
        assert two["fix"] == [f"sudo -u {clinic.person.name} mkdir -p {clinic.service.folder}/nowhere"]

    def test_no_new_privileges(self, clinic: Clinic) -> None:
        found = clinic.finding("new privileges", before=("/usr/bin/setpriv", "--no-new-privs", "--"))
        assert found["status"] == "error"
        assert "no_new_privs is set" in found["detail"]

    def test_an_engine_that_everybody_may_replace(self, clinic: Clinic, install: Callable[[str], None]) -> None:
        clinic.codex.chmod(0o757)
        install(clinic.rules())
        _, found = clinic.examine()
        second = found["daniel: codex"][1]
        assert second["status"] == "warn"
        assert second["detail"].startswith(f"{clinic.codex} can be changed by everybody")

    def test_an_old_engine_and_one_without_a_login(self, clinic: Clinic, install: Callable[[str], None]) -> None:
        clinic.program(
            "codex", CODEX.replace("0.130.0", "0.124.9").replace("Logged in using an API key", "Not logged in")
        )
        clinic.program("claude", CLAUDE.replace("2.1.330", "2.1.9").replace('"auth status"', '"auth never"'))
        install(clinic.rules())
        _, found = clinic.examine()
        assert "older than 0.125" in found["daniel: codex"][0]["detail"]
        assert "unknown: a claude older than 2.1.41" in found["daniel: claude login"][0]["detail"]

    def test_an_engine_that_fails_says_why(self, clinic: Clinic, install: Callable[[str], None]) -> None:
        clinic.program("codex", "#!/bin/sh\necho 'Error: it is broken' >&2; echo at line 3 >&2; exit 3\n")
        install(clinic.rules())
        found = clinic.finding("daniel: codex")
        assert found["status"] == "error"
        assert found["detail"] == f"{clinic.codex} --version ended with status 3: Error: it is broken"

    def test_a_config_that_it_may_not_read_is_a_finding_also_where_it_was_named(self, clinic: Clinic) -> None:
        clinic.file.chmod(0o600)
        found = clinic.finding("config")
        assert (found["status"], "may not read it" in found["detail"]) == ("error", True)

    def test_an_agent_that_lost_whoever_started_it(self, clinic: Clinic, install: Callable[[str], None]) -> None:
        install(clinic.rules())
        agent = clinic.service.folder / "bin" / "codex"
        agent.write_bytes(Path("/bin/sleep").read_bytes())
        doctor = clinic.service.corral("doctor", "--json", "--config", str(clinic.file))
        ids = [str(number) for who in (clinic.person, clinic.service.account) for number in (who.uid, who.gid)]
        # A namespace with an init of its own, since that of the test's machine may be anything.
        namespaced = ["unshare", "--pid", "--fork", "--mount-proc", clinic.service.python, "-c", INIT, str(agent)]
        init = clinic.service.start([*namespaced, *ids, *doctor], account=Account("root", 0, 0, Path("/")))
        out, err = init.communicate(timeout=60)
        found = [one for one in json.loads(out)["findings"] if one["label"] == "orphans"]
        assert [one["status"] for one in found] == ["warn"], err
        assert "codex 1001" in found[0]["detail"]
        assert found[0]["fix"] == [f"corral sweep --user {clinic.person.name} --adopt"]

    def test_a_job_without_supervisor_and_reaper(self, clinic: Clinic, driver: Driver) -> None:
        driver.start_job(["/bin/sleep", "1000"])
        assert clinic.finding("jobs")["status"] == "ok"
        driver.kill_with_reaper()
        found = clinic.finding("jobs")
        assert found["status"] == "warn"
        assert "1 jobs with 1 processes have lost their supervisor: sleep" in found["detail"]
        assert clinic.service.sweep()[0] == 0

    def test_what_would_mend_it_is_printed_and_not_run(self, clinic: Clinic, install: Callable[[str], None]) -> None:
        install("")
        clinic.state_dir.chmod(0o755)
        done = clinic.service.run(clinic.service.corral("doctor", "--fix", "--config", str(clinic.file)), timeout=100)
        lines = done.stdout.splitlines()
        assert f"sudo -u {clinic.service.account.name} chmod 0700 {clinic.state_dir}" in lines
        assert all(line.startswith(("# ", "sudo ", "corral ")) for line in lines)
        assert clinic.state_dir.stat().st_mode & 0o777 == 0o755

    def test_without_a_command_to_print_fix_says_so(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(doctor, "examine", lambda _config: [Finding("login", "warn", "not logged in", "log in")])
        done = CliRunner().invoke(app, ["doctor", "--fix"])
        assert (done.exit_code, done.stdout) == (0, "")
        assert done.stderr.startswith("corral: no command is needed, or none is known")

    def test_people_get_a_line_each_and_what_to_do_below(self, clinic: Clinic, install: Callable[[str], None]) -> None:
        install("")
        done = clinic.service.run(clinic.service.corral("doctor", "--config", str(clinic.file)), timeout=100)
        lines = done.stdout.splitlines()
        kill = next(number for number, line in enumerate(lines) if line.startswith("error") and ": kill" in line)
        assert lines[kill + 1].lstrip().startswith("→ add to sudoers")
        assert lines[-1].split(", ")[0].endswith("errors")

    @pytest.mark.codex
    def test_the_real_codex_and_its_login(
        self, clinic: Clinic, install: Callable[[str], None], codex_command: list[str], person: Account
    ) -> None:
        clinic.codex = Path(codex_command[0])
        clinic.write()
        install(clinic.rules())
        _, found = clinic.examine()
        assert found["daniel: codex"][0]["status"] == "ok", found
        assert found["daniel: codex login"][0]["status"] == "warn"
        assert found["daniel: codex login"][0]["detail"].startswith("not logged in")

    @pytest.mark.codex
    @pytest.mark.parametrize("mode", [0o755, 0o700], ids=["home open", "home closed"])
    def test_an_engine_whose_folder_was_given_to_root(
        self, clinic: Clinic, install: Callable[[str], None], codex_command: list[str], person: Account, mode: int
    ) -> None:
        clinic.codex = Path(codex_command[0])
        clinic.write()
        install(clinic.rules())
        before, folder = person.home.stat().st_mode & 0o777, person.home / ".codex"
        folder.mkdir(0o700, exist_ok=True)
        (folder / "config.toml").touch(0o600)
        os.chown(folder, 0, 0)  # an earlier test may have left it as the person's
        os.chown(folder / "config.toml", 0, 0)
        try:
            person.home.chmod(mode)
            status, found = clinic.examine()
        finally:
            person.home.chmod(before)
            shutil.rmtree(folder)
        (login,) = found["daniel: codex login"]
        assert (status, login["status"]) == (1, "error")
        assert f"{person.name} may not use {folder}" in login["detail"]
        assert login["fix"] == [f"sudo chown -R {person.name} {folder}"]

    def test_what_a_command_said_is_told_as_that_commands(self, clinic: Clinic, install: Callable[[str], None]) -> None:
        clinic.program("codex", CODEX.replace('echo "Logged in using an API key - sk-secret***tail" >&2', "exit 3"))
        install(clinic.rules())
        login = clinic.finding("daniel: codex login")
        assert (login["status"], f"{clinic.codex} login status ended with status 3" in login["detail"]) == (
            "skip",
            True,
        )

    @pytest.mark.claude
    def test_the_real_claude_and_its_login(
        self, clinic: Clinic, install: Callable[[str], None], claude_command: list[str], person: Account
    ) -> None:
        clinic.claude = Path(claude_command[0])
        clinic.write('engine = "claude"\n')
        install(clinic.rules())
        _, found = clinic.examine()
        assert found["daniel: claude"][0]["status"] == "ok", found
        assert (found["daniel: claude login"][0]["status"], found["daniel: claude login"][0]["detail"]) == (
            "warn",
            "not logged in",
        )


class TestStateFolder:
    def look(
        self, service: Service, folder: Path, label: str = "state folder", more: str = ""
    ) -> tuple[int, list[Finding]]:
        file = service.folder / "corral.toml"
        file.write_text(f'[service]\nstate_dir = "{folder}"\n{more}[[people]]\nname = "daniel"\n')
        file.chmod(0o644)
        done = service.run(service.corral("doctor", "--json", "--config", str(file)), timeout=100)
        found = [Finding(**{**one, "fix": tuple(one["fix"])}) for one in json.loads(done.stdout)["findings"]]
        return done.returncode, [one for one in found if one.label == label]

    def test_that_others_may_read(self, service: Service, state_dir: Path) -> None:
        state_dir.chmod(0o750)
        status, (found,) = self.look(service, state_dir)
        assert (status, found.status, found.fix) == (1, "error", (f"chmod 0700 {state_dir}",))

    def test_that_is_not_there_and_can_be_made(self, service: Service) -> None:
        _, (found,) = self.look(service, service.folder / "new" / "state")
        assert found.status == "ok"
        assert not (service.folder / "new").exists()

    @pytest.mark.cross_account
    def test_that_cannot_be_made_or_belongs_to_somebody_else(self, service: Service, person: Account) -> None:
        status, (found,) = self.look(service, Path("/usr/corral-state"))
        assert (status, found.status) == (1, "error")
        assert found.fix == (f"sudo install -d -m 0700 -o {service.account.name} /usr/corral-state",)
        os.chown(service.state_dir, person.uid, person.gid)
        status, found_too = self.look(service, service.state_dir)
        assert status == 1
        assert found_too[0].detail.startswith(f"{service.state_dir} belongs to {person.name}")

    @pytest.mark.cross_account
    def test_a_lock_that_may_not_be_read_does_not_mean_that_no_service_runs(
        self, service: Service, state_dir: Path
    ) -> None:
        (state_dir / "serve.lock").touch(0o600)  # root's
        for label in ("cgroup", "socket"):
            (found,) = self.look(service, state_dir, label)[1]
            assert found.status == "skip"
            assert f"cannot be told: {state_dir}/serve.lock: Permission denied" in found.detail

    def test_what_is_in_the_way_of_the_socket(self, service: Service, state_dir: Path) -> None:
        place = state_dir / "corral.sock"

        def looked_at() -> tuple[str, str]:
            (found,) = self.look(service, state_dir, "socket")[1]
            return found.status, found.detail

        assert looked_at()[0] != "error"
        place.touch()
        assert looked_at() == ("error", f"{place} is a file and no socket")
        place.unlink()
        with socket.socket(socket.AF_UNIX) as other:
            other.bind(str(place))
            place.chmod(0o666)
            assert looked_at()[0] != "error", "its program is dead: the service replaces it"
            other.listen()
            assert looked_at() == ("error", f"{place} is another program's: pid {os.getpid()} listens there")

    @pytest.mark.cross_account
    def test_a_folder_for_the_socket_that_cannot_be_made(self, service: Service) -> None:
        more = 'socket = "/usr/corral-run/corral.sock"\n'
        (found,) = self.look(service, service.state_dir, "socket", more)[1]
        name = service.account.name
        assert found.status == "error"
        assert found.detail == f"/usr/corral-run is not there, and {name} may not make anything in /usr"

    def test_what_the_config_says_and_hardly_means(self, service: Service, state_dir: Path) -> None:
        more = 'shutdown = "5s"\n[timeouts]\nsilence = "2h"\nturn = "1h"\n'
        _, found = self.look(service, state_dir, "config", more)
        assert [one.status for one in found] == ["ok", "warn", "warn"]
        assert [one.detail.partition(":")[0] for one in found[1:]] == ["timeouts.silence", "service.shutdown"]

    def test_the_store_in_it(self, service: Service, state_dir: Path) -> None:
        def looked_at() -> Finding:
            return self.look(service, state_dir, "store")[1][0]

        store = state_dir / "corral.db"
        assert (looked_at().status, store.exists()) == ("ok", False), "it makes none"
        asyncio.run(damaged_page(state_dir))
        chown(service, state_dir)
        found = looked_at()
        assert (found.status, "it is damaged" in found.detail) == ("error", True)
        store.write_bytes(b"")
        found = looked_at()
        assert (found.status, "is empty, which no store is" in found.detail) == ("error", True)

    @pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
    def test_the_kind_of_file_system_is_that_of_the_nearest_mount(self) -> None:
        assert state.file_system(Path("/proc/self/task")) == "proc"
        assert state.file_system(Path("/nonexistent/folder")) == state.file_system(Path("/"))
