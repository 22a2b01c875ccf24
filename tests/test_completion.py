"""What a shell offers behind Tab, asked for as bash asks."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from corral.service.store.store import Store


def offered(line: str, **more: str) -> list[str]:
    """The values that bash is given for the word at the end of the line."""
    words = line.split(" ")
    env = {**os.environ, "_CORRAL_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)}
    argv = [sys.executable, "-c", "import sys; sys.argv[0] = 'corral'; from corral.__main__ import main; main()"]
    done = subprocess.run(argv, env=env | more, capture_output=True, text=True, timeout=30, check=False)
    assert done.stderr == ""
    return done.stdout.split()


@pytest.fixture
def config(tmp_path: Path) -> Path:
    file = tmp_path / "corral.toml"
    (tmp_path / "state").mkdir(mode=0o700)
    file.write_text(
        f'[service]\nstate_dir = "{tmp_path}/state"\n[[people]]\nname = "anna"\n[[people]]\nname = "ben"\n'
        '[[people]]\nname = "ada"\n'
    )
    return file


def test_engines_and_commands() -> None:
    assert offered("corral chat --engine ") == ["codex", "claude"]
    assert offered("corral chat --engine cl") == ["claude"]
    assert {"chat", "serve", "sweep"} <= set(offered("corral "))


@pytest.mark.parametrize("command", ["end", "history --person", "reports --person", "chat --person"])
@pytest.mark.slow
def test_people_of_the_config(config: Path, command: str) -> None:
    assert offered(f"corral {command} a", CORRAL_CONFIG=str(config)) == ["anna", "ada"]


async def test_conversations_of_the_store(config: Path) -> None:
    store = await Store.open(config.parent / "state", what="test")
    row = await store.new_conversation("anna", "codex", "/tmp")
    await store.set_title(row.id, "Make the tests green")
    await store.turn_began(row.id, "anna")
    await store.aclose()
    assert offered("corral chat --resume ", CORRAL_CONFIG=str(config)) == [row.id]


@pytest.mark.slow
def test_what_cannot_be_read_is_not_offered_and_nothing_is_said_of_it(config: Path) -> None:
    config.write_text("no toml")
    assert offered("corral end a", CORRAL_CONFIG=str(config)) == []
    (config.parent / "state" / "corral.db").write_bytes(b"no database")
    assert offered("corral chat --resume ", CORRAL_CONFIG=str(config)) == []


@pytest.mark.parametrize("line", ["corral end a", "corral chat --resume "])
@pytest.mark.slow
def test_a_config_that_does_not_answer_is_given_up(tmp_path: Path, line: str) -> None:
    fifo = tmp_path / "corral.toml"
    os.mkfifo(fifo)  # opening it waits for a writer, as a disk that does not answer makes a reader wait
    began = time.monotonic()
    assert offered(line, CORRAL_CONFIG=str(fifo)) == []
    assert time.monotonic() - began < 15


def test_accounts_of_people() -> None:
    assert "root" not in offered("corral run --user ")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
@pytest.mark.slow
def test_the_script_of_each_shell_is_printed(shell: str) -> None:
    argv = [sys.executable, "-m", "corral", "--show-completion", shell]
    env = {**os.environ, "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    done = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
    assert "_COMPLETE=complete_" in done.stdout


def test_a_module_that_cannot_be_loaded_prints_nothing(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys; sys.modules['pydantic'] = None\n")
    assert offered("corral end a", PYTHONPATH=str(tmp_path)) == []
