"""The tutorial works when it is pasted: its commands are run, and what it shows is what they print."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.harness import engines

PAGE = Path(__file__).parent.parent / "docs" / "tutorial.md"
INSTALL = "## 1."


def blocks() -> list[tuple[str, str]]:
    """The page's commands and outputs in their order: `sh` or `text`, and what is in it."""
    text = PAGE.read_text()
    before, after = text.split(INSTALL)
    sections = after.split("\n## ")[1:]
    assert "```sh" not in before, "the first commands are those that install"
    return re.findall(r"```(sh|text)\n(.*?)```", "\n".join(sections), re.DOTALL)


@pytest.mark.slow
def test_its_commands_print_what_it_shows(tmp_path: Path) -> None:
    codex = engines.find("codex")
    if codex is None:
        pytest.skip("there is no codex here")
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "codex").symlink_to(codex)
    (programs / "corral").write_text(f'#!/bin/sh\nexec {sys.executable} -m corral "$@"\n')
    (programs / "corral").chmod(0o755)
    script = ["set -u"]
    for number, (kind, text) in enumerate(blocks()):
        if kind == "sh":
            script.append(f"echo '=== {number}'\n{text}")
    home = tmp_path / "home"
    home.mkdir()
    env = {"PATH": f"{programs}:{os.environ['PATH']}", "HOME": str(home), "LANG": "C.UTF-8"}
    if folder := shutil.which("node"):
        env["PATH"] += f":{Path(folder).parent}"
    file = tmp_path / "tutorial.sh"  # in no argument list, where pgrep would find it
    file.write_text("\n".join(script))
    done = subprocess.run(
        ["bash", str(file)],
        cwd=home,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=110,
        check=False,
    )
    printed = dict(re.findall(r"=== (\d+)\n(.*?)(?==== |\Z)", done.stdout, re.DOTALL))
    assert len(printed) == sum(kind == "sh" for kind, _ in blocks()), done.stdout
    last = ""
    for number, (kind, text) in enumerate(blocks()):
        if kind == "sh":
            last = printed[str(number)]
        for line in text.splitlines() if kind == "text" else ():
            assert line in last, f"{line!r} is not in\n{last}\nof\n{done.stdout}"


def test_the_install_names_an_extra_that_there_is() -> None:
    pyproject = (PAGE.parent.parent / "pyproject.toml").read_text()
    for extra in re.findall(r"corral\[(\w+)\]", PAGE.read_text()):
        assert re.search(rf"^{extra} = \[", pyproject, re.MULTILINE), extra
