"""What every command has in common: `--json` prints an object, exit statuses, errors, and where Corral came from."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from corral import __version__, installed
from corral.cli import app

CONFIG = '[service]\nstate_dir = "{0}/state"\n[[people]]\nname = "anna"\n'

JSON = {
    "chat": ["chat", "--json", "--person", "anna"],
    "doctor": ["doctor", "--json"],
    "end": ["end", "anna", "--json"],
    "history": ["history", "--json"],
    "ps": ["ps", "--json"],
    "reports": ["reports", "--json"],
    "setup": ["setup", "--json", "--remove"],
    "sweep": ["sweep", "--json"],
    "version": ["version", "--json"],
}
SILENT = {"end": "no service runs", "setup": "nothing to undo"}
"""Those that have nothing to print here, with what they say instead: their objects are held by tests of their own."""


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "state").mkdir(mode=0o700)
    config = tmp_path / "corral.toml"
    config.write_text(CONFIG.format(tmp_path))
    config.chmod(0o600)
    return {**os.environ, "HOME": str(tmp_path), "CORRAL_CONFIG": str(config), "XDG_STATE_HOME": str(tmp_path / "own")}


def corral(env: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "corral", *arguments]
    return subprocess.run(
        argv, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=150, check=False
    )


def test_every_command_with_json_is_tried() -> None:
    commands = typer.main.get_group(app).commands
    assert {name for name, one in commands.items() if any("--json" in p.opts for p in one.params)} == set(JSON)


@pytest.mark.parametrize("command", sorted({*JSON} - {*SILENT, "doctor"}))
@pytest.mark.slow
def test_json_is_an_object(env: dict[str, str], command: str) -> None:
    done = corral(env, *JSON[command])
    assert "Traceback" not in done.stderr
    documents = done.stdout.splitlines() if command == "chat" else [done.stdout]
    for document in documents:
        assert isinstance(json.loads(document), dict)
    assert documents, done.stderr


@pytest.mark.slow
def test_json_of_the_doctor_is_an_object(env: dict[str, str]) -> None:
    assert isinstance(json.loads(corral(env, *JSON["doctor"]).stdout), dict)


@pytest.mark.parametrize("command", sorted(SILENT))
@pytest.mark.slow
def test_json_prints_nothing_where_there_is_nothing_to_print(env: dict[str, str], command: str) -> None:
    done = corral(env, *JSON[command])
    assert done.stdout == ""
    assert SILENT[command] in done.stderr or "run it with sudo" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (["version"], 0),
        (["ps"], 0),
        (["sweep"], 0),
        (["history"], 0),
        (["reports"], 0),
        (["history", "--person", "nobody"], 1),
        (["end", "anna"], 1),
        (["init"], 1),  # the file is there
        (["history", "--limit", "0"], 2),
        (["sweep", "--end"], 2),
        (["chat", "--engine", "parrot"], 2),
        (["nonsense"], 2),
        (["run", "--grace", "x", "--", "true"], 125),
        (["run", "--", "true"], 0),
        (["run", "--", "sh", "-c", "exit 7"], 7),
        (["run", "--", "sh", "-c", "kill -9 $$"], 128 + 9),
        (["run", "--", "/dev/null"], 126),
        (["run", "--", "no-such-program"], 127),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else str(value),
)
@pytest.mark.slow
def test_exit_status(env: dict[str, str], arguments: list[str], status: int) -> None:
    done = corral(env, *arguments)
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr
    if status in (1, 126, 127):
        assert all(line.startswith("corral: ") for line in done.stderr.splitlines()), done.stderr


@pytest.mark.parametrize("arguments", [["--version"], ["version"]])
def test_version_says_what_a_report_needs(env: dict[str, str], arguments: list[str]) -> None:
    lines = corral(env, *arguments).stdout.splitlines()
    assert lines[0] == f"corral {__version__}"
    assert lines[1].startswith(f"Python {sys.version.split()[0]}, ")
    assert lines[2] == f"installed: {installed.manner()}, {sys.prefix}"


@pytest.mark.parametrize(
    ("mark", "manner", "command"),
    [
        ("pipx_metadata.json", "pipx", "pipx install --force 'corral[codex]'"),
        ("uv-receipt.toml", "uv tool", "uv tool install --force 'corral[codex]'"),
        ("", "venv", f"{sys.executable} -m pip install 'corral[codex]'"),
    ],
)
def test_an_extra_is_added_the_way_corral_was_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mark: str, manner: str, command: str
) -> None:
    if mark:
        (tmp_path / mark).touch()
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    monkeypatch.setattr(installed, "_origin", lambda: None)
    monkeypatch.setattr(installed, "__file__", str(tmp_path / "lib" / "corral" / "installed.py"))
    assert installed.manner() == manner
    assert installed.extra_command("codex") == command


@pytest.mark.parametrize(
    ("origin", "requirement"),
    [
        ({"url": "file:///tmp/corral.whl", "archive_info": {}}, "corral[codex] @ file:///tmp/corral.whl"),
        (
            {"url": "https://example.org/c", "vcs_info": {"vcs": "git", "commit_id": "a1"}},
            "corral[codex] @ git+https://example.org/c@a1",
        ),
    ],
)
def test_an_extra_comes_from_where_corral_came(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, origin: dict[str, object], requirement: str
) -> None:
    (tmp_path / "pipx_metadata.json").touch()
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    monkeypatch.setattr(installed, "_origin", lambda: origin)
    assert installed.extra_command("codex") == f"pipx install --force '{requirement}'"


def test_an_extra_of_a_checkout_is_added_to_the_checkout() -> None:
    assert installed.manner() == "checkout"
    assert installed.extra_command("codex").endswith(f"-e '{Path(__file__).parents[1]}[codex]'")


def test_the_help_of_every_command_is_grouped_and_has_an_example() -> None:
    for name, command in typer.main.get_group(app).commands.items():
        assert getattr(command, "rich_help_panel", None) in {"Jobs", "Talk", "Service", "Install"}, name
        assert "**Example" in (command.help or ""), name
        assert f"corral {name}" in (command.help or ""), name
