"""The config: what it reads, and what it says, key by key, of one that cannot be used."""

from pathlib import Path

import pytest

from corral.backends.backend import Limits
from corral.backends.claude import Claude
from corral.backends.codex import Codex
from corral.backends.launch import Launch
from corral.config import Config, ConfigError, find, load
from tests.harness.configs import ONE_PERSON, OWN, faults_of, written


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "corral.toml"
    path.touch(mode=0o600)
    return path


# What it reads.


def test_the_least_config_has_every_default_of_the_rooms_below(file: Path) -> None:
    config = load(written(file, ONE_PERSON))
    assert config.path == file
    assert config.timeouts.limits() == Limits()
    launch = Launch()
    assert (config.ladder.goodbye, config.ladder.grace, config.ladder.kill) == (
        launch.goodbye,
        launch.grace,
        launch.kill,
    )
    codex, claude = config.engines.codex, config.engines.claude
    assert Codex(codex.command, codex.model, codex.approval, codex.sandbox) == Codex()
    assert Claude(claude.command, claude.model) == Claude()


def test_the_config_of_the_design(file: Path) -> None:
    text = f"""
        [service]
        state_dir = "/var/lib/corral"
        engine = "codex"
        [timeouts]
        silence = "10m"
        turn = 3600
        [recycle]
        idle = "30m"
        age = "1h30m"
        [ladder]
        goodbye = "500ms"
        [engines.codex]
        command = ["codex"]
        approval = "ask"
        sandbox = "workspace-write"
        [engines.claude]
        command = ["/opt/claude", "--verbose"]
        [[people]]
        name = "daniel"
        os_user = "{OWN}"
        telegram = 123456789
        engine = "claude"
        workspace = "~/projects"
        memory = "4G"
        [[people]]
        name = "ada"
    """
    config = load(written(file, text))
    assert config.service.state_dir == Path("/var/lib/corral")
    assert (config.timeouts.turn, config.recycle.age, config.ladder.goodbye) == (3600.0, 5400.0, 0.5)
    assert config.engines.claude.command == ("/opt/claude", "--verbose")
    daniel, ada = config.people
    assert (daniel.name, daniel.os_user, daniel.telegram, daniel.memory) == ("daniel", OWN, 123456789, 4 * 2**30)
    assert (config.engine_of(daniel), config.engine_of(ada)) == ("claude", "codex")
    assert (config.person("daniel"), config.person("ada"), config.person("Ada")) == (daniel, ada, None)


def test_the_socket_is_named_or_in_the_folder_of_systemd_or_in_the_state_folder(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("RUNTIME_DIRECTORY", raising=False)
    config = Config.model_validate({"service": {"state_dir": "/var/lib/corral"}})
    assert config.socket_path == Path("/var/lib/corral/corral.sock")
    monkeypatch.setenv("RUNTIME_DIRECTORY", "/run/corral:/run/other")
    assert config.socket_path == Path("/run/corral/corral.sock")
    assert Config.model_validate({"service": {"socket": "/tmp/s"}}).socket_path == Path("/tmp/s")


def test_no_variable_of_the_environment_changes_a_value(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = load(written(file, ONE_PERSON))
    for name in ("SERVICE", "service", "PEOPLE", "CORRAL_SERVICE__ENGINE", "ENGINES"):
        monkeypatch.setenv(name, '{"engine": "claude"}')
    assert load(file) == before


def test_a_config_cannot_be_changed(file: Path) -> None:
    config = load(written(file, ONE_PERSON))
    with pytest.raises(ValueError, match="frozen"):
        config.service = config.service  # type: ignore[misc]


def test_what_corral_config_names_comes_before_the_own_one_and_that_before_the_systems(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CORRAL_CONFIG", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr("corral.config.loading.SYSTEM_FILE", tmp_path / "etc.toml")
    assert find() is None
    with pytest.raises(ConfigError, match=r"There is no config, neither .*: `corral init` writes one"):
        load(None)
    (tmp_path / "etc.toml").touch()
    assert find() == tmp_path / "etc.toml"
    from corral.config.loading import user_file

    own = user_file()
    own.parent.mkdir(parents=True)
    own.write_text(ONE_PERSON)
    own.chmod(0o600)
    assert find() == own
    assert load(None).path == own
    # Not there: no other is read in its place.
    monkeypatch.setenv("CORRAL_CONFIG", str(tmp_path / "named.toml"))
    with pytest.raises(ConfigError, match=r"named\.toml: there is no such file"):
        load(None)


# What it says of one that cannot be used: one test a sentence.

SERVICE_KEYS = "The keys here are: state_dir, engine, socket, shutdown, keep"
A_TIME = 'is not a duration: write it like "10m", "1h30m", "90s", "500ms", "90d", or a number'
A_NAME = (
    "is not allowed: a name is 1 to 64 letters (a-z, A-Z), digits, dots, underscores and hyphens, and begins with a "
    "letter or a digit"
)
A_TEXT = "is not allowed: it must be a text in quotes, of one line and not empty"
A_PATH = "is not allowed: it must be an absolute path, which begins with /"
A_COMMAND = 'is not allowed: it must be a list of texts, for example ["/usr/bin/agent"]'
A_VARIABLE = "is not the name of a variable: it must be letters, digits and underscores, and not begin with a digit"
A_WORKSPACE = "is not allowed: it must be an absolute path, or begin with ~/ for the home of the account"
LONG = "/" + "x" * 120

ONE_FAULT = {
    # Keys.
    "[service]\nengin = 1": f"service.engin: there is no such key; did you mean engine? {SERVICE_KEYS}",
    "[service]\nidle = 1": f"service.idle: there is no such key; it belongs below [recycle]. {SERVICE_KEYS}",
    "[service]\nzzz = 1": f"service.zzz: there is no such key. {SERVICE_KEYS}",
    'path = "/x"': "path: there is no such key. The keys here are: service, timeouts, recycle, ladder, pool, engines, "
    "people",
    "_env_file = 1": "_env_file: there is no such key. The keys here are: service, timeouts, recycle, ladder, pool, "
    "engines, people",
    "[engines.gemini]": "engines.gemini: there is no such key. The keys here are: codex, claude",
    '["a b"]': '"a b": there is no such key. The keys here are: service, timeouts, recycle, ladder, pool, engines, '
    "people",
    # Times.
    '[timeouts]\nturn = "10"': f'timeouts.turn: "10" {A_TIME}',
    '[timeouts]\nturn = "1m1h"': f'timeouts.turn: "1m1h" {A_TIME}',
    '[timeouts]\nturn = ""': f'timeouts.turn: "" {A_TIME}',
    "[timeouts]\nturn = true": f"timeouts.turn: true {A_TIME}",
    "[timeouts]\nturn = nan": "timeouts.turn: nan is not allowed: a time is longer than nothing and at most 3650d",
    "[timeouts]\nturn = inf": "timeouts.turn: inf is not allowed: a time is longer than nothing and at most 3650d",
    "[timeouts]\nturn = 0": "timeouts.turn: 0 is not allowed: a time is longer than nothing and at most 3650d",
    '[ladder]\ngrace = "0s"': 'ladder.grace: "0s" is not allowed: a time is longer than nothing and at most 3650d',
    '[recycle]\nage = "9999d"': 'recycle.age: "9999d" is not allowed: a time is longer than nothing and at most 3650d',
    # Numbers, yes and no, choices, tables.
    "[pool]\nbackends = 0": "pool.backends: 0 is not allowed: it must be a whole number, at least 1",
    f"[pool]\nqueue = 0x{'f' * 9000}": "pool.queue: a number of thousands of digits is not allowed: it must be a whole "
    "number, at least 0",
    "[pool]\nqueue = -1": "pool.queue: -1 is not allowed: it must be a whole number, at least 0",
    "[pool]\nqueue = 2.0": "pool.queue: 2.0 is not allowed: it must be a whole number, at least 0",
    "[pool]\nper_person = true": "pool.per_person: true is not allowed: it must be a whole number, at least 1",
    '[recycle]\nbackground = "yes"': 'recycle.background: "yes" is not allowed: it must be true or false, without '
    "quotes",
    '[service]\nengine = "gpt"': 'service.engine: unknown engine "gpt": choose codex or claude',
    '[engines.codex]\napproval = "no"': 'engines.codex.approval: "no" is not allowed: it must be "ask" or "never"',
    "service = 3": "service: 3 is not allowed: it must be a table, below [service]",
    "[[service]]": "service: a list is not allowed: it must be a table, below [service]",
    "[engines]\ncodex = 3": "engines.codex: 3 is not allowed: it must be a table, below [engines.codex]",
    # Paths, commands, texts.
    '[service]\nstate_dir = "x"': f'service.state_dir: "x" {A_PATH}',
    '[service]\nsocket = "~/x"': f'service.socket: "~/x" {A_PATH}',
    f'[service]\nsocket = "{LONG}"': f'service.socket: "/{"x" * 74}…" is too long for a Unix socket (107 bytes): '
    "shorten it",
    f'[service]\nstate_dir = "{LONG}"': f'service.state_dir: "/{"x" * 74}…" is too long for a Unix socket (107 bytes): '
    "shorten it, or name another socket with the key socket",
    '[engines.codex]\ncommand = "codex"': f'engines.codex.command: "codex" {A_COMMAND}',
    '[engines.codex]\ncommand = ["a", ""]': f"engines.codex.command: a list {A_COMMAND}",
    "[engines.codex]\ncommand = []": "engines.codex.command: it must not be empty: it is the program, with its first "
    "arguments",
    '[engines.codex]\ncommand = ["./codex"]': 'engines.codex.command: "./codex" is not allowed: name a program that '
    "PATH has, or an absolute path; the folder that a relative one counts from is another one at every start",
    '[engines.codex]\nmodel = ""': f'engines.codex.model: "" {A_TEXT}',
    '[engines.codex]\neffort = "a\\nb"': f'engines.codex.effort: "a\\nb" {A_TEXT}',
    "[engines.claude]\nmodel = 4": f"engines.claude.model: 4 {A_TEXT}",
}

FAULT_OF_ADA = {
    'os_user = "no-such-account"': 'os_user: "no-such-account" is no account of this machine: make it, or name another',
    'os_user = ""': f'os_user: "" {A_TEXT}',
    'telegram = "5"': 'telegram: "5" is not allowed: it must be a whole number, at least 1',
    "engine = 1": "engine: unknown engine 1: choose codex or claude",
    'workspace = "projects"': f'workspace: "projects" {A_WORKSPACE}',
    'workspace = "~ada/x"': f'workspace: "~ada/x" {A_WORKSPACE}',
    'workspaces = { site = "x" }': f'workspaces.site: "x" {A_WORKSPACE}',
    'workspaces = { "a b" = "/x" }': f'workspaces."a b": "a b" {A_NAME}',
    "workspaces = 3": "workspaces: 3 is not allowed: it must be a table",
    "backends = 0": "backends: 0 is not allowed: it must be a whole number, at least 1",
    'memory = "4GB"': 'memory: "4GB" is no size: write it like "4G", "512M", or a number of bytes',
    "memory = 4": "memory: 4 is not allowed: a size is at least 16M and at most 1024T",
    "memory = 4.5": 'memory: 4.5 is no size: write it like "4G", "512M", or a number of bytes',
    "processes = 0": "processes: 0 is not allowed: it must be a whole number, at least 1",
    'env = { "1A" = "x" }': f'env.1A: "1A" {A_VARIABLE}',
    "env = { A = 3 }": "env.A: its value is not allowed: it must be a text in quotes, without NUL",
    'env = { A = "b\\u0000" }': "env.A: its value is not allowed: it must be a text in quotes, without NUL",
    'secrets = { A = "key" }': f'secrets.A: "key" {A_PATH}',
    'secrets = { A = "/no/such" }': "secrets.A: there is no file /no/such: write the secret into it, mode 0600",
    'keep_env = "A"': 'keep_env: "A" is not allowed: it must be a list of texts, in brackets: ["A", "B"]',
    'keep_env = ["A", "B C"]': f'keep_env: "B C" {A_VARIABLE}',
    'keep_env = ["TELEGRAM_BOT_TOKEN"]': "keep_env: TELEGRAM_BOT_TOKEN belongs to the service and is never handed to "
    "an agent: take it out",
    'keep_env = ["A"]\nenv = { A = "x" }': "keep_env: A is given by env already: keep one of the two",
    'osuser = "x"': "osuser: there is no such key; did you mean os_user? The keys here are: name, os_user, telegram, "
    "engine, model, effort, workspace, workspaces, backends, memory, processes, env, secrets, keep_env",
}

FAULT_OF_PEOPLE = {
    "": "people: nobody may talk with an agent yet. Add a table for each person, for example these three lines: "
    '[[people]], name = "daniel", os_user = "daniel"',
    "people = 3": "people: 3 is not allowed: write each person as a table of its own, below [[people]]",
    '[people]\nname = "a"': "people: a table is not allowed: write each person as a table of its own, below [[people]]",
    'people = ["ada"]': 'people[1]: "ada" is not allowed: it must be a table',
    "[[people]]": "people[1].name: it is missing: every [[people]] needs one",
    f"{ONE_PERSON}[[people]]\nengine = 3\nname = 'b'": "people.b.engine: unknown engine 3: choose codex or claude",
    "[[people]]\nname = '.a'": f'people[1].name: ".a" {A_NAME}',
    f"[[people]]\nname = '{'a' * 65}'": f'people[1].name: "{"a" * 65}" {A_NAME}',
    f"{ONE_PERSON}[[people]]\nname = 'b'\n[[people]]\nname = 'ADA'": 'people[3].name: "ADA" is taken by people[1] '
    "already: each person needs another",
    "[[people]]\nname = 'a'\ntelegram = 5\n[[people]]\nname = 'b'\ntelegram = 5": "people[2].telegram: 5 is taken by "
    "people[1] already: each person needs another",
}


@pytest.mark.parametrize(("text", "fault"), ONE_FAULT.items())
def test_one_fault(file: Path, text: str, fault: str) -> None:
    assert faults_of(written(file, f"{text}\n{ONE_PERSON}")) == [fault]


@pytest.mark.parametrize(("text", "fault"), FAULT_OF_ADA.items())
def test_one_fault_of_a_person(file: Path, text: str, fault: str) -> None:
    assert faults_of(written(file, f"{ONE_PERSON}{text}\n")) == [f"people.ada.{fault}"]


@pytest.mark.parametrize(("text", "fault"), FAULT_OF_PEOPLE.items())
def test_one_fault_of_the_people(file: Path, text: str, fault: str) -> None:
    assert faults_of(written(file, text)) == [fault]


def test_all_faults_are_said_at_once(file: Path) -> None:
    file.chmod(0o620)
    found = faults_of(
        written(
            file,
            """
            pol = {}
            [timeouts]
            turn = "x"
            silence = "y"
            [[people]]
            os_user = "no-such-account"
            [[people]]
            name = "a"
            engine = "gpt"
            secrets = { A = "/no/such", B = "/no/such/either" }
            [[people]]
            name = "a"
            """,
        )
    )
    keys = {fault.split(": ")[0] for fault in found}
    assert keys == {
        "others than its owner may write it (mode 0620), and would decide who runs as whom",
        "pol",
        "timeouts.turn",
        "timeouts.silence",
        "people[1].name",
        "people[1].os_user",
        "people.a.engine",
        "people.a.secrets.A",
        "people.a.secrets.B",
        "people[3].name",
    }
    assert len(found) == len(keys)


def test_a_value_of_a_variable_is_never_shown(file: Path) -> None:
    text = f'{ONE_PERSON}env = {{ A = ["hunter2"], "B B" = "hunter2" }}\nsecrets = {{ C = "/no/such" }}'
    assert "hunter2" not in "".join(faults_of(written(file, text)))
