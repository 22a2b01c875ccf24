"""The config: what it reads, and what it says, key by key, of one that cannot be used."""

import os
import pwd
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corral.backends.base import Limits
from corral.backends.claude import Claude
from corral.backends.codex import Codex
from corral.backends.launch import Launch
from corral.service.config import Config, ConfigError, Person, Timeouts, find, load, read_secret
from corral.service.config.commented import commented
from corral.service.config.kinds import NAME
from corral.service.config.loading import judge
from corral.service.config.quantities import LARGEST, LONGEST, SMALLEST, as_size, as_time, seconds, size
from corral.service.config.tables import fields, table_of, tables
from tests.harness.service import Service
from tests.harness.stage import REPOSITORY

OWN = pwd.getpwuid(os.geteuid()).pw_name
ONE_PERSON = '[[people]]\nname = "ada"\n'


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "corral.toml"
    path.touch(mode=0o600)
    return path


def faults_of(path: Path) -> list[str]:
    """What is wrong with the file, without the file's name, which every fault begins with."""
    with pytest.raises(ConfigError) as caught:
        load(path)
    assert all(fault.startswith(str(path)) and "\n" not in fault for fault in caught.value.faults)
    assert str(caught.value) == "\n".join(caught.value.faults)
    return [fault.removeprefix(str(path)).removeprefix(": ") for fault in caught.value.faults]


def written(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
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
    monkeypatch.setattr("corral.service.config.loading.SYSTEM_FILE", tmp_path / "etc.toml")
    assert find() is None
    with pytest.raises(ConfigError, match=r"There is no config, neither .*: `corral init` writes one"):
        load(None)
    (tmp_path / "etc.toml").touch()
    assert find() == tmp_path / "etc.toml"
    from corral.service.config.loading import user_file

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
A_TIME = 'is no time: write it like "10m", "1h30m", "90s", "500ms", "90d", or a number'
A_NAME = (
    "is not allowed: a name is 1 to 64 letters (a-z, A-Z), digits, dots, underscores and hyphens, and begins with a "
    "letter or a digit"
)
A_TEXT = "is not allowed: it must be a text in quotes, of one line and not empty"
A_PATH = "is not allowed: it must be an absolute path, which begins with /"
A_COMMAND = 'is not allowed: it must be a list of texts, for example ["codex"]'
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
    '[service]\nengine = "gpt"': 'service.engine: "gpt" is not allowed: it must be "codex" or "claude"',
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
    "engine = 1": 'engine: 1 is not allowed: it must be "codex" or "claude"',
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
    'secrets = { A = "/no/such" }': "secrets.A: /no/such: there is no such file",
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
    f"{ONE_PERSON}[[people]]\nengine = 3\nname = 'b'": 'people.b.engine: 3 is not allowed: it must be "codex" or '
    '"claude"',
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


# The file itself.

NO_TOML = {
    "a = b": ", line 1, column 5: this is no TOML (Invalid value)",
    "[service]\nengine = 'codex": ", at its end: this is no TOML (",
    "[service]\n[service]": ", line 2, column 9: this is no TOML (Cannot declare ('service',) twice)",
    "x = " + "9" * 5000: ": this is no TOML (",
}


@pytest.mark.parametrize(("text", "fault"), NO_TOML.items())
def test_a_file_that_is_no_toml_is_told_of_with_the_line(file: Path, text: str, fault: str) -> None:
    (said,) = faults_of(written(file, text))
    assert fault in f": {said}" if fault.startswith(": ") else said.startswith(fault)
    assert said.endswith(": texts stand in quotes, and each key once, on its own line")


def test_nesting_without_end_is_refused(file: Path) -> None:
    (said,) = faults_of(written(file, "x = " + "[" * 100_000))
    assert said == "its lists or tables are nested too deeply"


def test_bytes_that_are_no_utf8_are_told_of_with_the_line(file: Path) -> None:
    file.write_bytes(b'[service]\n# f\xfcr\nengine = "codex"')
    assert faults_of(file) == [", line 2: this is not UTF-8, as TOML must be"]


def test_what_is_no_regular_file_is_refused_at_once(tmp_path: Path) -> None:
    pipe = tmp_path / "corral.toml"
    os.mkfifo(pipe)
    assert faults_of(pipe) == ["this is not a regular file"]
    assert faults_of(tmp_path) == ["this is not a regular file"]
    assert faults_of(tmp_path / "none") == ["there is no such file"]
    assert faults_of(Path("/dev/zero")) == ["this is not a regular file"]


def test_a_file_without_end_is_refused(file: Path) -> None:
    os.truncate(file, 2**40)
    assert faults_of(file) == ["it is larger than 1024 KiB"]


def test_a_link_to_a_good_file_is_followed(file: Path, tmp_path: Path) -> None:
    link = tmp_path / "link.toml"
    link.symlink_to(written(file, ONE_PERSON))
    assert load(link).path == link


@pytest.mark.parametrize("mode", [0o602, 0o620, 0o666])
def test_a_file_that_others_may_write_is_refused(file: Path, mode: int) -> None:
    written(file, ONE_PERSON).chmod(mode)
    why = f"others than its owner may write it (mode {mode:04o}), and would decide who runs as whom"
    assert faults_of(file) == [f"{why}: `chmod go-w {file}`, after reading it"]
    file.chmod(0o644)
    assert load(file).people == (Person(name="ada"),)


@pytest.mark.cross_account
def test_a_file_of_another_account_is_refused(file: Path) -> None:
    os.chown(written(file, ONE_PERSON), pwd.getpwnam("news").pw_uid, -1)
    why = f"it belongs to news, neither to root nor to {OWN}, who would decide who runs as whom"
    assert faults_of(file) == [f"{why}: `chown {OWN} {file}`, after reading it"]


LOADING = """
import sys
from pathlib import Path
from corral.service.config import ConfigError, load
try:
    print(load(Path(sys.argv[1])).people)
except ConfigError as error:
    sys.exit(str(error))
"""


@pytest.mark.cross_account
def test_roots_file_is_read_by_the_service_where_it_may(service: Service) -> None:
    file = written(service.folder / "corral.toml", ONE_PERSON)
    file.chmod(0o644)
    done = service.run([service.python, "-c", LOADING, str(file)])
    assert (done.returncode, "name='ada'" in done.stdout) == (0, True), done.stderr
    file.chmod(0o600)
    done = service.run([service.python, "-c", LOADING, str(file)])
    assert done.stderr.strip() == (
        f"{file}: the account {service.account.name} may not read it: `namei -l {file}` shows who may, folder by folder"
    )


# Secrets.


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "key"
    path.touch(mode=0o600)
    path.write_text("s3cret\n")
    return path


def test_a_secret_is_read_without_its_last_newline(secret: Path, file: Path) -> None:
    assert read_secret(secret) == "s3cret"
    secret.chmod(0o400)
    config = load(written(file, f'{ONE_PERSON}secrets = {{ KEY = "{secret}" }}'))
    assert config.people[0].secrets == {"KEY": secret}
    assert "s3cret" not in repr(config)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o610, 0o644])
def test_a_secret_that_others_may_use_is_refused(secret: Path, mode: int) -> None:
    if os.geteuid() == 0:
        os.chown(secret, -1, pwd.getpwnam("news").pw_gid)  # group root would make it look like a systemd credential
    secret.chmod(mode)
    with pytest.raises(ConfigError) as caught:
        read_secret(secret)
    assert caught.value.faults == (
        f"{secret}: others than its owner may use it (mode {mode:04o}): `chmod 0600 {secret}`",
    )


@pytest.mark.cross_account
def test_a_secret_in_the_form_of_a_systemd_credential_is_taken(secret: Path) -> None:
    secret.chmod(0o440)
    assert read_secret(secret) == "s3cret"


@pytest.mark.cross_account
def test_a_secret_of_another_account_is_refused(secret: Path) -> None:
    os.chown(secret, pwd.getpwnam("news").pw_uid, -1)
    with pytest.raises(ConfigError, match=f"it belongs to news, neither to root nor to {OWN}: `chown {OWN} "):
        read_secret(secret)


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"", "it is empty, so that no variable can hold it"),
        (b"\n", "it is empty, so that no variable can hold it"),
        (b"a\0b", "it holds NUL, so that no variable can hold it"),
        (b"\xff", "it is not text in UTF-8, so that no variable can hold it"),
        (b"x" * 70_000, "it is larger than 64 KiB"),
    ],
)
def test_a_secret_that_no_variable_can_hold_is_refused(secret: Path, content: bytes, fault: str) -> None:
    secret.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        read_secret(secret)
    assert caught.value.faults == (f"{secret}: {fault}",)


# Times and sizes.


@given(st.integers(1, int(LONGEST * 1000)))
def test_a_time_is_read_as_it_was_written(milliseconds: int) -> None:
    text = as_time(milliseconds / 1000)
    assert re.fullmatch(r"(\d+d)?(\d+h)?(\d+m(?!s))?(\d+s)?(\d+ms)?", text)
    assert seconds(text) == pytest.approx(milliseconds / 1000, rel=1e-12)
    assert as_time(seconds(text)) == text


@given(st.text("0123456789.dhms -", max_size=12) | st.floats() | st.integers() | st.booleans())
def test_a_time_is_positive_and_bounded_or_refused(value: object) -> None:
    try:
        total = seconds(value)
    except ValueError:
        return
    assert 0 < total <= LONGEST
    assert not isinstance(value, bool)


@pytest.mark.parametrize(
    ("text", "total"), [("1h30m", 5400), ("1.5s", 1.5), ("500ms", 0.5), ("90d", 7_776_000), ("1d1ms", 86_400.001)]
)
def test_times(text: str, total: float) -> None:
    assert seconds(text) == total


@given(st.integers(SMALLEST, LARGEST))
def test_a_size_is_read_as_it_was_written(total: int) -> None:
    assert size(as_size(total)) == total


@given(st.text("0123456789.KMGTiB ", max_size=12) | st.integers() | st.booleans())
def test_a_size_is_large_enough_or_refused(value: object) -> None:
    try:
        total = size(value)
    except ValueError:
        return
    assert SMALLEST <= total <= LARGEST
    assert not isinstance(value, bool)


@pytest.mark.parametrize(("text", "total"), [("4G", 2**32), ("512MiB", 2**29), ("1.5G", 3 * 2**29), ("1T", 2**40)])
def test_sizes(text: str, total: int) -> None:
    assert size(text) == total


# Whatever it holds, it is judged in words of its own.

KEYS = sorted({key for _, model in tables() for key in fields(model)} - {"path"} | {"path", "zzz", "a b", "_cli"})
VALUES = st.recursive(
    st.none().map(lambda _: "")
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text("ab/~ \0\n\x1b\u202e=", max_size=5)
    | st.sampled_from(["codex", "1h", "/x", "~", "ada", "4G", "never", OWN]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=5),
    max_leaves=20,
)


@given(st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=6))
def test_any_document_is_a_config_or_has_faults_in_our_words(document: dict[str, object]) -> None:
    config, found = judge(document)
    assert config is not None or found
    for fault in found:
        key, _, what = fault.partition(": ")
        assert key, fault
        assert what, fault
        assert "nput should be" not in fault
        assert "Value error" not in fault
        assert fault.isprintable()


TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20)


@given(
    st.dictionaries(st.sampled_from(["A", "B", "_c"]), TEXTS),
    st.dictionaries(st.from_regex(NAME, fullmatch=True), st.just("/x\u00e9")),
)
def test_what_is_written_is_read_whatever_it_holds(env: dict[str, str], workspaces: dict[str, str]) -> None:
    config = Config(people=(Person(name="ada", env=env, workspaces=workspaces),))
    assert Config.model_validate(tomllib.loads(commented(config))) == config


# The commented file and the page.


def all_set() -> Config:
    """A config in which every key is set, to its example or to its default."""
    document: dict[str, object] = {}
    for heading, model in tables():
        values = {
            key: field.examples[0] if field.examples else field.get_default(call_default_factory=True)
            for key, field in fields(model).items()
            if table_of(field) is None and not field.is_required()
        }
        if heading == "[[people]]":
            document["people"] = [{"name": "ada", **values}, {"name": "b.c", **values}]
        elif values:
            *above, last = heading.strip("[]").split(".")
            place = document
            for part in above:
                place = place.setdefault(part, {})  # type: ignore[assignment]
            place[last] = values
    return Config.model_validate(document)


def test_every_key_says_what_it_means() -> None:
    for heading, model in tables():
        assert model.__doc__, heading
        for key, field in fields(model).items():
            assert table_of(field) or field.description, f"{heading} {key}"


def test_a_commented_file_is_read_as_the_config_that_it_was_written_from() -> None:
    config = all_set()
    text = commented(config)
    assert Config.model_validate(tomllib.loads(text)) == config
    # Every key of the first person and of all else is there once, and nothing is a comment that is set.
    assert not re.search(r"^#[a-z_]+ = ", text, re.MULTILINE)


def test_every_key_of_a_new_file_can_be_used_by_taking_away_its_comment_sign() -> None:
    text = commented(Config(people=(Person(name="ada"),)))
    assert Config.model_validate(tomllib.loads(text)) == Config(people=(Person(name="ada"),))
    used = re.sub(r"^#([a-z_]+ = )", r"\1", text, flags=re.MULTILINE)
    document = tomllib.loads(used)
    Config.model_validate(document)
    for heading, model in tables():
        place: object = document
        for part in filter(None, heading.strip("[]").split(".")):
            assert isinstance(place, dict)
            place = place[part]
        keys = place[0] if isinstance(place, list) else place
        assert list(keys) == list(fields(model)) if heading else set(keys) == set(fields(model))


def test_what_a_new_file_shows_as_a_default_is_the_default() -> None:
    text = commented(Config(people=(Person(name="ada"),)))
    defaults = re.sub(r"^#([a-z_]+ = [^#\n]*)$", r"\1", text, flags=re.MULTILINE)
    config = Config.model_validate(tomllib.loads(defaults))
    assert config == Config(people=(Person(name="ada"),))
    assert config.timeouts.model_fields_set == set(Timeouts.model_fields)


def test_the_page_is_what_the_models_say() -> None:
    page = REPOSITORY / "tools" / "config_page.py"
    done = subprocess.run([sys.executable, page, "--check"], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
