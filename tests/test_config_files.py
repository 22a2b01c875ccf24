"""Whose the files are that say who runs as whom, and with which secrets; and whether they can be read at all."""

import codecs
import os
import pwd
from pathlib import Path

import pytest

from corral.config import ConfigError, Person, load
from tests.harness.configs import ONE_PERSON, faults_of, written
from tests.harness.service import Service
from tests.harness.stage import Account


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "corral.toml"
    path.touch(mode=0o600)
    return path


# The config.

NO_TOML = {
    "a = b": ", line 1, column 5: not valid TOML (Invalid value)",
    "[service]\nengine = 'codex": ", at its end: not valid TOML (",
    "[service]\n[service]": ", line 2, column 9: not valid TOML (Cannot declare ('service',) twice)",
    "x = " + "9" * 5000: ": not valid TOML (",
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


def test_a_byte_order_mark_is_no_part_of_the_text(file: Path) -> None:
    file.write_bytes(codecs.BOM_UTF8 + ONE_PERSON.encode())
    assert [person.name for person in load(file).people] == ["ada"]


def test_utf16_is_named(file: Path) -> None:
    file.write_bytes(ONE_PERSON.encode("utf-16"))
    assert faults_of(file) == ["this is UTF-16, and TOML is UTF-8: save it as UTF-8"]


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
    (fault,) = faults_of(file)
    assert fault == (
        "it belongs to news, who would decide what root does: if news is the service's account, ask as news, with "
        "`sudo -u news corral` and the rest"
    ), "given to root, the service could not read its own config any more"


LOADING = """
import sys
from pathlib import Path
from corral.config import ConfigError, load
try:
    print(load(Path(sys.argv[1])).people)
except ConfigError as error:
    sys.exit(str(error))
"""


@pytest.mark.cross_account
@pytest.mark.slow
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


def test_a_secret_that_cannot_be_used_is_a_fault_of_the_config_and_is_not_shown(secret: Path, file: Path) -> None:
    text = f'{ONE_PERSON}secrets = {{ KEY = "{secret}" }}'
    config = load(written(file, text))
    assert config.people[0].secrets == {"KEY": secret}
    assert "s3cret" not in repr(config)
    secret.chmod(0o644)
    with pytest.raises(ConfigError) as caught:
        load(written(file, text))
    (fault,) = caught.value.faults
    assert "secrets.KEY: others than its owner may use" in fault
    assert "s3cret" not in fault


@pytest.mark.cross_account
def test_a_file_of_another_person_is_refused_by_the_service(service: Service, person: Account) -> None:
    file = written(service.folder / "corral.toml", ONE_PERSON)
    file.chmod(0o644)
    os.chown(file, person.uid, -1)
    done = service.run([service.python, "-c", LOADING, str(file)])
    own = service.account.name
    assert done.returncode == 1
    assert f"it belongs to {person.name}, neither to root nor to {own}, who would decide who runs as" in done.stderr
    assert f"`chown {own} {file}`" in done.stderr
