"""`corral init`: real processes, with a terminal and without; the file is whole, or it is not there."""

import os
import stat
import tomllib
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from corral.config import Config, ConfigError, Person
from corral.config.commented import commented
from corral.install import initial
from corral.install.initial import Answers, Newcomer
from tests.harness.chatting import OnTerminal, on_terminal
from tests.harness.service import Service
from tests.harness.stage import REPOSITORY, Account


@pytest.fixture
def file(service: Service) -> Path:
    return service.folder / "etc" / "corral.toml"


def init(service: Service, *arguments: str, env: dict[str, str] | None = None) -> tuple[int, str, str]:
    done = service.run(service.corral("init", *arguments), env=env)
    return done.returncode, done.stdout, done.stderr


def document(file: Path) -> dict[str, object]:
    return tomllib.loads(file.read_text())


def program(service: Service, name: str) -> str:
    """An engine's program that `init` finds on PATH, and never starts."""
    folder = service.folder / "bin"
    folder.mkdir(exist_ok=True)
    (folder / name).touch(mode=0o755)
    return str(folder)


# Without a terminal.


def test_the_options_are_written_and_all_else_is_commented_out(service: Service, file: Path) -> None:
    account = service.account.name
    status, said, complaint = init(
        service,
        *("--config", str(file), "--person", f"ada:{account}", "--person", "daniel", "--engine", "claude"),
        *("--approval", "never", "--workspace", "~/projects", "--state-dir", "/var/lib/corral"),
        env={"PATH": f"{program(service, 'claude')}:{service.env['PATH']}"},
    )
    assert (status, complaint) == (0, "")
    assert document(file) == {
        "service": {"engine": "claude", "state_dir": "/var/lib/corral"},
        "timeouts": {},
        "recycle": {},
        "ladder": {},
        "pool": {},
        "engines": {"codex": {"approval": "never"}, "claude": {"approval": "never"}},
        "people": [
            {"name": "ada", "os_user": account, "workspace": "~/projects"},
            {"name": "daniel", "workspace": "~/projects"},
        ],
    }
    assert "#silence = " in file.read_text()
    assert said.splitlines() == [
        f"{file} is written. Who may talk with an agent: ada, daniel.",
        "Read it through, and then:",
        f"  corral doctor --config {file}  # tries everything that must be right, and says what is not",
        f"  corral sudoers --config {file}  # the sudo rules that these people's accounts need",
        f"  corral units --config {file}  # a service unit for systemd or launchd",
        f"  corral serve --config {file}  # the service",
    ]


def test_the_file_is_the_accounts_own_and_nobody_else_reads_it(service: Service, file: Path) -> None:
    assert init(service, "--config", str(file))[0] == 0
    about = file.stat()
    assert (stat.S_IMODE(about.st_mode), about.st_uid) == (0o600, service.account.uid)
    assert list(file.parent.iterdir()) == [file]


def test_without_a_person_it_is_the_account_itself_and_a_missing_engine_is_told_of(
    service: Service, file: Path
) -> None:
    status, said, complaint = init(service, "--config", str(file), env={"PATH": "/usr/bin:/bin"})
    assert status == 0
    assert document(file)["people"] == [{"name": service.account.name}]
    assert complaint == (
        "corral: codex was not found on this account's PATH: install it, or set command below [engines.codex] to "
        "its full path\n"
    )
    assert "corral sudoers" not in said, "nobody has another account"


@pytest.mark.slow
def test_it_goes_where_it_will_be_looked_for(service: Service) -> None:
    home = service.folder / "home"
    home.mkdir()
    os.chown(home, service.account.uid, -1)
    env = {"HOME": str(home), "XDG_CONFIG_HOME": str(home / "settings")}
    status, said, _ = init(service, env=env)
    assert status == 0
    assert (home / "settings" / "corral" / "corral.toml").is_file()
    assert "--config" not in said
    named = home / "named.toml"
    status, said, _ = init(service, env={**env, "CORRAL_CONFIG": str(named)})
    assert status == 0
    assert named.is_file()
    assert "--config" not in said


@pytest.mark.slow
def test_a_file_that_is_there_is_left_as_it_is(service: Service, file: Path) -> None:
    assert init(service, "--config", str(file), "--person", "ada")[0] == 0
    before = file.read_bytes()
    status, said, complaint = init(service, "--config", str(file), "--person", "daniel")
    assert (status, said) == (1, "")
    assert complaint == f"corral: {file}: this file is there already: --force replaces it, --config names another\n"
    assert file.read_bytes() == before
    assert init(service, "--config", str(file), "--person", "daniel", "--force")[0] == 0
    assert document(file)["people"] == [{"name": "daniel"}]


def test_what_load_finds_wrong_is_told_of_and_nothing_is_written(service: Service, file: Path) -> None:
    status, said, complaint = init(
        service, "--config", str(file), "--person", "ada:no-such-account", "--person", "Ada", "--person", "b"
    )
    assert (status, said) == (1, "")
    taken, missing = complaint.splitlines()
    assert taken == f'corral: {file}: people[2].name: "Ada" is taken by people[1] already: each person needs another'
    assert missing.startswith(f'corral: {file}: people.ada.os_user: "no-such-account" is no account of this machine')
    assert list(file.parent.iterdir()) == []


def test_what_no_config_can_hold_is_told_of_and_nothing_is_written(service: Service, file: Path) -> None:
    status, _, complaint = init(service, "--config", str(file), "--person", "-rf /", "--workspace", "here")
    assert status == 1
    assert [line.split(":")[1].strip() for line in complaint.splitlines()] == ["people[1].name", "people[1].workspace"]
    assert not file.exists()


@pytest.mark.parametrize("folder", ["/x\ny", "/x\x1b[2Jy", "/x\udcffy"])
@pytest.mark.slow
def test_a_folder_that_is_no_line_of_text_is_told_of_as_one(service: Service, file: Path, folder: str) -> None:
    status, _, complaint = init(service, "--config", str(file), "--state-dir", folder)
    assert status == 1
    assert len(complaint.splitlines()) == 1
    assert complaint.isascii()
    assert "\x1b" not in complaint
    assert "state_dir" in complaint


@pytest.mark.cross_account
def test_root_is_told_that_the_service_could_not_read_it(service: Service, file: Path) -> None:
    done = service.start(service.corral("init", "--config", str(file)), account=Account("root", 0, 0, Path("/")))
    said = done.communicate(timeout=30)[0].decode()
    assert f"`chown ACCOUNT {file}`" in said
    assert "chown" not in init(service, "--config", str(file.with_name("other.toml")))[1]


@pytest.mark.slow
def test_a_file_that_was_replaced_stays_when_the_new_one_is_wrong(service: Service, file: Path) -> None:
    assert init(service, "--config", str(file), "--person", "ada")[0] == 0
    before = file.read_bytes()
    assert init(service, "--config", str(file), "--person", "b:no-such-account", "--force")[0] == 1
    assert file.read_bytes() == before
    assert list(file.parent.iterdir()) == [file]


@pytest.mark.cross_account
def test_a_folder_that_may_not_be_written_is_told_of(service: Service) -> None:
    closed = service.folder / "closed"
    closed.mkdir(mode=0o755)  # root's
    status, _, complaint = init(service, "--config", f"{closed}/corral/corral.toml")
    assert (status, complaint) == (
        1,
        f"corral: {closed}/corral/corral.toml: it cannot be written (Permission denied)\n",
    )


def test_wrong_options_are_usage_errors(service: Service) -> None:
    assert init(service, "--engine", "gpt")[0] == 2


def test_the_example_of_the_page_is_what_it_writes() -> None:
    text = commented(initial.build(Answers(people=(initial.newcomer("daniel:daniel"),))))
    assert text == commented(Config(people=(Person(name="daniel", os_user="daniel"),)))
    assert f"```toml\n{text}```" in (REPOSITORY / "docs" / "config.md").read_text()


def test_a_file_that_came_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "corral.toml"
    config = initial.build(Answers(people=(Newcomer("ada"),)))
    initial.refuse_overwriting(path)
    path.symlink_to(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="this file is there already"):
        initial.write(config, path, force=False)
    assert list(tmp_path.iterdir()) == [path]


# On a terminal.


def terminal(service: Service, *arguments: str, path: str = "") -> AbstractContextManager[OnTerminal]:
    env = {"TERM": "xterm", "COLUMNS": "200", "PATH": f"{path}:/usr/bin:/bin" if path else "/usr/bin:/bin"}
    return on_terminal(service, env, "init", *arguments, state_dir=False)


async def answer(shown: OnTerminal, question: str, text: str, times: int = 1) -> None:
    await shown.shows(question, times)
    # A prompt is complete when its colon is there; before, what is typed could be echoed into it.
    await shown.until(lambda screen: screen.endswith(": "), f"it waits for an answer to {question!r}")
    shown.type(f"{text}\n")


async def test_it_asks_who_and_as_whom_and_where_and_which(service: Service, file: Path) -> None:
    found = program(service, "claude")
    other = "daemon"
    with terminal(service, "--config", str(file), path=found) as shown:
        await answer(shown, f"Who may talk with an agent? A name ({service.account.name})", "no name at all")
        await shown.shows('"no name at all" is not allowed: a name is 1 to 64 letters')
        await answer(shown, "Who may talk with an agent?", "ada", 2)
        await answer(shown, f"Which account of this machine do ada's agents run as? ({service.account.name})", "nope")
        await shown.shows('"nope" is no account of this machine.')
        await answer(shown, "Which account of this machine do ada's agents run as?", "", 2)
        await answer(shown, "Which folder do they work in? (~ is the account's home) (~)", "here")
        await shown.shows('"here" is not allowed: it must be an absolute path, or begin with ~/')
        await answer(shown, "Which folder do they work in?", "~/site", 2)
        await answer(shown, "Another person? [y/n] (n)", "y")
        await answer(shown, "Who may talk with an agent?", "ADA", 3)
        await shown.shows('"ADA" is taken already.')
        await answer(shown, "Who may talk with an agent?", other, 4)
        await answer(shown, f"do {other}'s agents run as? ({other})", "")
        await answer(shown, "Which folder do they work in?", "", 3)
        await answer(shown, "Another person?", "", 2)
        await shown.shows(f"claude: found at {found}/claude")
        await shown.shows("codex: not found on this account's PATH")
        await answer(shown, "Which engine do people begin with? [codex/claude] (claude)", "")
        await answer(shown, "ask the person, or never ask and do only what it may? [ask/never] (ask)", "never")
        assert await shown.exited() == 0
        assert f"{file} is written. Who may talk with an agent: ada, {other}." in shown.screen
    assert document(file)["service"] == {"engine": "claude"}
    assert document(file)["people"] == [
        {"name": "ada", "workspace": "~/site"},
        {"name": other, "os_user": other, "workspace": "~"},
    ]
    assert document(file)["engines"] == {"codex": {"approval": "never"}, "claude": {"approval": "never"}}


@pytest.mark.slow
async def test_what_options_say_is_not_asked(service: Service, file: Path) -> None:
    options = ("--config", str(file), "--person", "ada", "--engine", "codex", "--approval", "ask")
    with terminal(service, *options) as shown:
        assert await shown.exited() == 0
        assert "?" not in shown.screen.replace("[?", "")
    assert document(file)["people"] == [{"name": "ada"}]


async def test_with_yes_nothing_is_asked(service: Service, file: Path) -> None:
    with terminal(service, "--config", str(file), "--yes") as shown:
        assert await shown.exited() == 0
    assert document(file)["people"] == [{"name": service.account.name}]


@pytest.mark.slow
async def test_a_file_that_is_there_is_told_of_before_anything_is_asked(service: Service, file: Path) -> None:
    assert init(service, "--config", str(file))[0] == 0
    with terminal(service, "--config", str(file)) as shown:
        assert await shown.exited() == 1
        assert "this file is there already" in shown.screen


@pytest.mark.parametrize(("key", "status"), [("\x04", 1), ("\x03", -2)])
@pytest.mark.slow
async def test_leaving_in_the_middle_writes_nothing(service: Service, file: Path, key: str, status: int) -> None:
    with terminal(service, "--config", str(file)) as shown:
        await answer(shown, "Who may talk with an agent?", "ada")
        await shown.shows("Which account of this machine")
        await shown.until(lambda screen: screen.endswith(": "), "it waits for an answer")
        shown.type(key)
        assert await shown.exited() == status
    assert not file.parent.exists()
