"""`corral sudoers`: the printed rules, tried with the real visudo and the real sudo, by the accounts that they name."""

import os
import pwd
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corral.config import Config
from corral.install import sudoers as writing
from corral.install.sudoers import SudoersError, escaped, named, rules, verify
from tests.harness import namespace, sudoers
from tests.harness.service import Service
from tests.harness.stage import Account, Stage

Run = subprocess.CompletedProcess[str]
PRINTS = "#!/bin/sh\nexec /usr/bin/env\n"


def program(folder: Path, name: str, text: str = PRINTS) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


def config(people: list[dict[str, Any]], codex: list[str], claude: list[str] | None = None, **more: Any) -> Config:
    engines = {"codex": {"command": codex}, "claude": {"command": claude or ["/nonexistent/claude"]}}
    return Config.model_validate({"engines": engines, "people": people, **more})


@pytest.fixture
def engine(service: Service) -> Path:
    """A program that says its environment, and stands for an engine: what is tried here is sudo."""
    return program(service.folder, "codex")


@pytest.fixture
def install(stage: Stage, sudo_rules: Callable[..., object]) -> Callable[[str], None]:
    """Puts a file of rules in place, until the end of the test."""

    def put(text: str) -> None:
        assert stage.sudoers_file is not None
        sudoers.write_text(sudoers.ROOT + text, stage.sudoers_file)

    sudo_rules()
    return put


def sudo(
    service: Service, user: str, *argv: str, env: dict[str, str] | None = None, options: tuple[str, ...] = ()
) -> Run:
    return service.run(["sudo", "-n", "-u", user, *options, "--", *argv], env=env)


def printed(service: Service, document: str, *options: str) -> Run:
    file = service.folder / "corral.toml"
    file.write_text(document)
    file.chmod(0o644)
    return service.run(service.corral("sudoers", "--config", str(file), *options))


@pytest.mark.cross_account
class TestWhatTheyAllow:
    @pytest.fixture(autouse=True)
    def _installed(self, service: Service, engine: Path, person: Account, install: Callable[[str], None]) -> None:
        claude = program(service.folder, "claude")
        done = printed(
            service,
            f'[engines]\ncodex.command = ["{engine}"]\nclaude.command = ["{claude}"]\n'
            f'[[people]]\nname = "daniel"\nos_user = "{person.name}"\nenv = {{ MODEL_HOST = "x" }}\n',
        )
        assert (done.returncode, done.stderr) == (0, "")
        install(done.stdout)
        self.text = done.stdout

    def test_the_engines_and_kill_as_the_person_and_nothing_else(
        self, service: Service, engine: Path, person: Account
    ) -> None:
        listed = service.run(["sudo", "-n", "-l"]).stdout.partition("may run the following commands")[2]
        commands = [" ".join(line.split()) for line in listed.splitlines()[1:]]
        hand_over = commands.pop(2)
        assert commands == [
            f"({person.name}) NOPASSWD: {engine}",
            f"({person.name}) CWD=* NOPASSWD: {engine.with_name('claude')}",
            f"({person.name}) NOPASSWD: /bin/kill",
        ]
        interpreter, *words = hand_over.removeprefix(f"({person.name}) NOPASSWD: ").split()
        assert words[:-1] == ["-I", "-S"]
        assert words[-1].endswith("/corral/service/files_as_account.py")
        assert sudo(service, person.name, interpreter, *words).returncode == 0
        assert sudo(service, person.name, interpreter, *words, "x").returncode == 1
        assert sudo(service, person.name, interpreter, "-c", "pass").returncode == 1

    @pytest.mark.slow
    def test_each_of_them_works_without_a_password(self, service: Service, engine: Path, person: Account) -> None:
        assert sudo(service, person.name, str(engine), "app-server").returncode == 0
        sleeper = service.start(["/bin/sleep", "1000"], account=person)
        assert sudo(service, person.name, "/bin/kill", "-KILL", str(sleeper.pid)).returncode == 0
        assert service.wait_exit(sleeper) == -9

    @pytest.mark.slow
    def test_no_other_program_no_other_account_and_not_root(
        self, service: Service, engine: Path, person: Account, stage: Stage
    ) -> None:
        assert sudo(service, person.name, "/usr/bin/id").returncode == 1
        for other in ("root", stage.second_person.name):
            assert sudo(service, other, str(engine)).returncode == 1
            assert sudo(service, other, "/bin/kill", "-0", "1").returncode == 1

    def test_no_other_account_may_do_it(self, service: Service, engine: Path, person: Account, stage: Stage) -> None:
        asked = service.start(["sudo", "-n", "-u", person.name, str(engine)], account=stage.second_person)
        assert service.wait_exit(asked) == 1

    def test_variables_of_the_config_are_handed_on_without_setenv_and_no_others(
        self, service: Service, engine: Path, person: Account
    ) -> None:
        given = {"MODEL_HOST": "x", "SSL_CERT_FILE": "/c", "NODE_OPTIONS": "--require /evil", "BASH_ENV": "/evil"}
        seen = sudo(service, person.name, str(engine), env=given, options=("TMPDIR=/t",)).stdout.splitlines()
        assert {"MODEL_HOST=x", "SSL_CERT_FILE=/c", "TMPDIR=/t"} <= set(seen)
        assert not [line for line in seen if line.startswith(("NODE_OPTIONS", "BASH_ENV"))]
        assert sudo(service, person.name, str(engine), options=("NODE_OPTIONS=x",)).returncode == 1

    @pytest.mark.slow
    def test_claude_can_be_started_in_a_folder_that_only_the_person_enters_and_codex_cannot(
        self, service: Service, engine: Path, person: Account
    ) -> None:
        inside = ("-D", str(person.home))
        assert sudo(service, person.name, str(engine.with_name("claude")), options=inside).returncode == 0
        assert sudo(service, person.name, str(engine), options=inside).returncode == 1

    def test_every_rule_has_its_reason(self) -> None:
        lines = self.text.splitlines()
        for before, line in pairwise(lines):
            if line and not line.startswith(("#", "Defaults")):
                assert before.startswith("# ")


@pytest.mark.cross_account
@pytest.mark.slow
class TestAccountsWithOddNames:
    """sudoers knows ALL, aliases in capitals, %groups, #numbers and !not: none of it may be meant."""

    NAMES = ("ALL", "BOT", "we ird", "a,b", "%sudo", "!not", "a=b", "back\\slash", 'quo"te', "0", "(x)", "a.b")
    FIRST = 61000

    @pytest.fixture(autouse=True)
    def _accounts(self, service: Service) -> Iterator[None]:
        text = Path("/etc/passwd").read_text()
        for number, name in enumerate(self.NAMES):
            text += f"{name}:*:{self.FIRST + number}:{self.FIRST + number}::/:/bin/sh\n"
        file = service.folder / "passwd"
        file.write_text(text)
        namespace.bind(file, Path("/etc/passwd"))
        yield
        namespace.unmount(Path("/etc/passwd"))

    def as_uid(self, uid: int, *argv: str) -> tuple[int, str]:
        done = subprocess.run(
            argv,
            user=uid,
            group=uid,
            extra_groups=[],
            capture_output=True,
            text=True,
            check=False,
            timeout=20,
            cwd="/",
            env={},
        )
        return done.returncode, done.stderr

    @pytest.mark.parametrize("name", NAMES)
    def test_they_are_named_by_number_and_nobody_else_is_meant(
        self, name: str, engine: Path, person: Account, install: Callable[[str], None]
    ) -> None:
        uid = pwd.getpwnam(name).pw_uid
        made = rules(config([{"name": "daniel", "os_user": person.name}], [str(engine)]), name, "/bin").text
        made += rules(config([{"name": "ada", "os_user": name}], [str(engine)]), "games", "/bin").text
        assert verify(made) == ""
        install(made)
        ask = ("/usr/bin/sudo", "-n", "-u")
        games = pwd.getpwnam("games").pw_uid
        assert self.as_uid(uid, *ask, person.name, str(engine)) == (0, "")
        assert self.as_uid(games, *ask, f"#{uid}", str(engine)) == (0, "")
        other = next(one for one in range(self.FIRST, self.FIRST + len(self.NAMES)) if one != uid)
        assert self.as_uid(other, *ask, person.name, str(engine))[0] == 1
        assert self.as_uid(games, *ask, f"#{other}", str(engine))[0] == 1
        assert self.as_uid(games, *ask, "root", str(engine))[0] == 1


class TestPaths:
    @pytest.mark.parametrize("one", list(",:=#@~%+é-_."))
    @pytest.mark.cross_account
    def test_what_can_be_named_is_named_literally(
        self, one: str, service: Service, person: Account, install: Callable[[str], None]
    ) -> None:
        odd = program(service.folder, f"a{one}b {one}/co{one}dex")
        plain = program(service.folder, "a/codex")
        made = rules(config([{"name": "d", "os_user": person.name}], [str(odd)]), service.account.name, "/bin")
        install(made.text)
        assert sudo(service, person.name, str(odd)).returncode == 0
        assert sudo(service, person.name, str(plain)).returncode == 1

    @pytest.mark.parametrize(
        "one", ["*", "?", "[", "]", "\\", "\n", "\t", '"', "!", "(", "$", "\x7f", "\u2028", "^", "'"]
    )
    def test_what_has_a_meaning_or_no_words_is_refused(self, one: str) -> None:
        with pytest.raises(SudoersError, match="Make a link to it with a plain name"):
            escaped(f"/opt/{one}/codex")

    @pytest.mark.parametrize("path", ["codex", "", "/opt/", "ALL", "sudoedit"])
    def test_what_is_no_program_is_refused(self, path: str) -> None:
        with pytest.raises(SudoersError, match="not the absolute path"):
            escaped(path)

    @settings(max_examples=150, deadline=None)
    @given(st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=12))
    @pytest.mark.skipif(shutil.which("visudo", path=f"{os.defpath}:/usr/sbin:/sbin") is None, reason="needs visudo")
    def test_any_path_is_refused_or_one_rule_that_visudo_takes(self, text: str) -> None:
        try:
            path = escaped(f"/opt/{text}/codex")
        except SudoersError:
            return
        line = f"root ALL=(root) NOPASSWD: {path}"
        assert len(line.splitlines()) == 1
        assert verify(line + "\n") == ""


class TestRefusals:
    """Sentences for the person who must act, and no rule."""

    def refuse(self, made: Config, service: str = "games") -> str:
        with pytest.raises(SudoersError) as error:
            rules(made, service, "/usr/bin:/bin")
        return str(error.value)

    def test_root_as_the_account_of_an_agent(self) -> None:
        said = self.refuse(config([{"name": "eve", "os_user": "root"}], ["/bin/sh"]))
        assert said.startswith("eve: an agent that runs as root can do everything")

    def test_an_engine_that_is_not_there(self) -> None:
        said = self.refuse(config([{"name": "daniel", "os_user": "news"}], ["no-such-codex"]))
        assert "no-such-codex was not found on sudo's path, /usr/bin:/bin, and daniel would begin with it" in said

    def test_an_argument_that_sudoers_has_no_words_for(self) -> None:
        said = self.refuse(config([{"name": "daniel", "os_user": "news"}], ["/bin/sh", "-c", "x; y"]))
        assert "put the command into a script" in said

    def test_a_service_account_that_does_not_exist(self) -> None:
        said = self.refuse(config([{"name": "daniel", "os_user": "news"}], ["/bin/sh"]), "no-such-account")
        assert said.startswith("no-such-account is no account")
        with pytest.raises(SudoersError):
            named("no-such\naccount")

    def test_all_faults_at_once(self) -> None:
        people = [{"name": "a", "os_user": "root"}, {"name": "b", "os_user": "news", "engine": "claude"}]
        said = self.refuse(config(people, ["/bin/*"], ["no-such-claude"]))
        assert "root" in said
        assert "no-such-claude" in said


def test_an_engine_that_nobody_begins_with_has_no_rule_and_a_notice() -> None:
    made = rules(config([{"name": "daniel", "os_user": "news"}], ["/bin/sh"], ["no-such-claude"]), "games", "/bin")
    assert "claude" not in made.text.replace("`corral sudoers`", "")
    assert made.notices[0].startswith("no-such-claude was not found")


def test_words_behind_the_program_are_part_of_the_rule() -> None:
    made = rules(config([{"name": "daniel", "os_user": "news"}], ["/bin/sh", "/opt/codex.js"]), "games", "/bin")
    assert "games ALL=(news) NOPASSWD: /bin/sh /opt/codex.js *\n" in made.text
    assert verify(made.text) == ""


def test_people_of_one_account_share_its_rules_and_keep_their_variables() -> None:
    people = [{"name": "a", "os_user": "news", "env": {"A": ""}}, {"name": "b", "os_user": "news", "keep_env": ["B"]}]
    made = rules(config(people, ["/bin/sh"]), "games", "/bin")
    assert made.text.count("NOPASSWD: /bin/kill") == 1
    assert re.search(r'env_keep \+= "A B NODE', made.text)


@pytest.mark.parametrize(
    ("service", "people"), [("games", [{"name": "a"}]), ("root", [{"name": "a", "os_user": "news"}])]
)
def test_where_none_are_needed_there_are_none(service: str, people: list[dict[str, Any]]) -> None:
    if service == "games":
        people = [{**people[0], "os_user": "games"}]
    text = rules(config(people, ["/bin/sh"]), service, "/bin").text
    assert text.startswith("# Corral needs no rules of sudo here")
    assert len(text.splitlines()) == 1


def test_what_visudo_refuses_is_said_with_its_words() -> None:
    assert "syntax error" in verify("this is no rule\n")


def test_without_visudo_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "which", lambda *_, **__: None)
    assert verify("# nothing\n").startswith("there is no visudo")


def test_the_command_prints_nothing_when_it_refuses(service: Service) -> None:
    done = printed(service, '[[people]]\nname = "eve"\nos_user = "root"\n', "--service-user", "no-such-account")
    assert (done.returncode, done.stdout) == (1, "")
    assert "no-such-account" in done.stderr
