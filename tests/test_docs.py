"""The reference names what there is."""

import re
from pathlib import Path

import pytest
import typer

from corral.cli import app
from corral.service.commands import COMMANDS

DOCS = Path(__file__).parent.parent / "docs"
REFERENCE = (DOCS / "reference.md").read_text()
PAGES = sorted([*DOCS.rglob("*.md"), DOCS.parent / "README.md"])


def headings(text: str) -> set[str]:
    found = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in found}


def test_every_command_of_the_command_line_has_its_section() -> None:
    described = {
        word for line in re.findall(r"^## (.+)$", REFERENCE, re.MULTILINE) for word in re.findall(r"corral (\w+)", line)
    }
    assert described == set(typer.main.get_group(app).commands)


def test_every_command_of_a_chat_is_in_the_table() -> None:
    section = REFERENCE.split("## corral chat, corral demo")[1].split("\n## ")[0]
    rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `/")]
    assert {word for row in rows for word in re.findall(r"`(/\w+)", row)} == {*COMMANDS, "/quit"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if "://" in target:
            continue
        file, _, heading = target.partition("#")
        there = (page.parent / file).resolve() if file else page
        assert there.exists(), f"{page}: {target}"
        assert not heading or heading in headings(there.read_text()), f"{page}: {target}"
