"""An engine is one package and one line of the registry: nothing else names it, and one more needs nothing else."""

import ast
import getpass
import json
import subprocess
import sys
from pathlib import Path

import pytest

import corral
from corral.backends import registry
from tests.harness.backends import PEER

SOURCE = Path(corral.__file__).parent
HARNESS = Path(__file__).parent / "harness"

NAMING = {
    "backends/registry.py": "its line",
    "demo": "the demo is a scene with the real codex",
}
"""Where an engine may be named outside its package, and why."""

ENTRY = """
import re, shutil
from corral.backends.codex.kind import Codex
from corral.backends.entry import EngineEntry, LoginCheck, LoginState, ProgramPatterns
from corral.backends.settings import EngineSettings
from corral.values.kinds import Command

class ParrotSettings(EngineSettings):
    \"\"\"The parrot.\"\"\"
    command: Command = ("parrot",)
    \"\"\"Starts the parrot.\"\"\"

class Parrot(Codex):
    name = "parrot"

def login(status, out, words):
    return LoginState("logged in", "seed")

ENTRY = EngineEntry(
    name="parrot", title="The parrot", settings=ParrotSettings,
    kind=lambda settings, command, model: Parrot(command, model=model),
    find=lambda path: [shutil.which("parrot", path=path)],
    oldest=(1, 0), home=("PARROT_HOME", ".parrot"), login=LoginCheck(("login", "status"), login, ("login",)),
    programs=ProgramPatterns(re.compile("parrot"), re.compile("parrot"), "/parrot/"),
    offline=lambda kind, url: kind,
)
"""


def names_an_engine(node: ast.AST) -> bool:
    """In code: as a text of its own, or as a part of a name. Docstrings, comments and sentences are for people."""
    match node:
        case ast.Constant(value=str(text)):
            return text in registry.names()
        case ast.Name(id=name) | ast.Attribute(attr=name) | ast.FunctionDef(name=name) | ast.ClassDef(name=name):
            return any(engine in name.lower() for engine in registry.names())
        case ast.ImportFrom(module=str(name)):
            return any(engine in name.split(".") for engine in registry.names())
    return False


def test_no_code_outside_its_package_names_an_engine() -> None:
    found = []
    for file in sorted(SOURCE.rglob("*.py")):
        place = file.relative_to(SOURCE)
        packages = [f"backends/{name}" for name in registry.names()]
        if any(place.is_relative_to(one) for one in (*NAMING, *packages)):
            continue
        found += [f"{place}:{node.lineno}" for node in ast.walk(ast.parse(file.read_text())) if names_an_engine(node)]  # type: ignore[attr-defined]
    assert found == []


@pytest.fixture
def parrot(tmp_path: Path) -> Path:
    """A folder with the entry of an engine that speaks codex's wire, its program, and a config that uses it."""
    (tmp_path / "parrot_entry.py").write_text(ENTRY)
    program = tmp_path / "parrot"
    program.write_text(
        f'#!/bin/sh\ncase "$1" in\n--version) echo "parrot 9.9.9" ;;\nlogin) echo yes ;;\n'
        f"*) exec {sys.executable} {PEER} codex obey ;;\nesac\n"
    )
    program.chmod(0o755)
    (tmp_path / "state").mkdir(mode=0o700)
    (tmp_path / "corral.toml").write_text(
        f'[service]\nstate_dir = "{tmp_path}/state"\nengine = "parrot"\n[engines.parrot]\ncommand = ["{program}"]\n'
        f'[[people]]\nname = "me"\nworkspace = "{tmp_path}"\n'
    )
    return tmp_path


def run(folder: Path, *arguments: str, text: str = "") -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, str(HARNESS / "third_engine.py"), str(folder), *arguments]
    return subprocess.run(argv, input=text, capture_output=True, text=True, timeout=60, check=False)


def test_another_engine_holds_a_turn(parrot: Path) -> None:
    done = run(parrot, "chat", "--json", "--person", "me", "--config", str(parrot / "corral.toml"), text="talk\n")
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(e["engine"]) for e in events if e["event"] == "backend_started"] == ["parrot"], done.stderr
    assert [e["status"] for e in events if e["event"] == "turn_ended"] == ["completed"]
    assert [e["report"]["verdict"] for e in events if e["event"] == "backend_ended"] == ["proven_empty"]


def test_another_engine_is_checked_by_the_doctor(parrot: Path) -> None:
    done = run(parrot, "doctor", "--config", str(parrot / "corral.toml"))
    assert "me: parrot" in done.stdout, done.stdout + done.stderr
    assert f"9.9.9 at {parrot / 'parrot'}" in done.stdout
    assert "logged in, by seed" in done.stdout


def test_another_engine_can_be_chosen_and_is_named_with_the_others(parrot: Path) -> None:
    wrong = run(parrot, "chat", "--engine", "crow")
    assert wrong.returncode == 2
    assert "parrot" in wrong.stderr
    file = parrot / "first.toml"
    done = run(parrot, "init", "--yes", "--engine", "parrot", "--config", str(file), "--person", getpass.getuser())
    assert done.returncode == 0, done.stderr
    text = file.read_text()
    assert 'engine = "parrot"' in text
    assert "[engines.parrot]" in text


def test_an_engine_has_only_the_settings_of_its_own() -> None:
    argv = [sys.executable, "-m", "corral", "chat", "--engine", "claude", "--sandbox", "read-only"]
    done = subprocess.run(argv, input="", capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "engines.claude.sandbox: there is no such key" in done.stderr
