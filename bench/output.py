"""The tables: for the terminal, for the README, and for results.json."""

import json
import math
import os
import platform
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.figures import Aim, Figure, Section

HEAD = ("case", "what", "runs", "min", "median", "max", "ratio", "left behind", "note")
LEFT = {"case", "what", "note"}


def machine() -> dict[str, Any]:
    """Return what a reader needs to judge the figures by."""
    sudo = subprocess.run(["sudo", "--version"], capture_output=True, text=True, check=False, timeout=10)
    return {
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "sudo": sudo.stdout.splitlines()[0].removeprefix("Sudo version ") if sudo.stdout else "none",
        "cores": os.cpu_count(),
        "load": [round(load, 2) for load in os.getloadavg()],
    }


def cells(figure: Figure) -> list[str]:
    """Return one line of a table."""
    left = ""
    if figure.left:
        low, high = min(figure.left), max(figure.left)
        left = str(low) if low == high else f"{low}-{high}"
    return [
        figure.case,
        figure.contender,
        str(len(figure.values)),
        *(f"{_round(value)} {figure.unit}" for value in (min(figure.values), figure.median, max(figure.values))),
        "" if figure.ratio is None or math.isnan(figure.ratio) else f"{_round(figure.ratio)}x",
        left,
        figure.note,
    ]


def _round(value: float) -> str:
    return f"{value:.2f}" if abs(value) < 1 else f"{value:.1f}" if abs(value) < 100 else f"{value:,.0f}"


def _say(aim: Aim) -> str:
    return f"{'met' if aim.met else 'MISSED'}: {aim.what} is {_round(aim.value)} {aim.unit}, limit {aim.limit:g}"


def facts_line(facts: dict[str, Any]) -> str:
    """Return what the figures were measured on, in one line."""
    return ", ".join(f"{name} {value}" for name, value in facts.items())


def to_terminal(section: Section) -> None:
    """Print one table for a person."""
    console = Console(width=max(150, Console().width) if not Console().is_terminal else None)
    table = Table(title=section.title, caption=section.explanation, title_justify="left", caption_justify="left")
    rows = [cells(figure) for figure in section.figures]
    used = [index for index in range(len(HEAD)) if any(row[index] for row in rows)]
    for index in used:
        table.add_column(HEAD[index], justify="left" if HEAD[index] in LEFT else "right")
    previous = None
    for figure, row in zip(section.figures, rows, strict=True):
        if previous not in {None, figure.case}:
            table.add_section()
        previous = figure.case
        table.add_row(*(row[index] for index in used))
    console.print(table)
    for aim in section.aims:
        console.print(f"  {_say(aim)}", style="green" if aim.met else "bold red", highlight=False)
    console.file.flush()


def to_markdown(section: Section) -> str:
    """Return one table for the README."""
    rows = [cells(figure) for figure in section.figures]
    used = [index for index in range(len(HEAD)) if any(row[index] for row in rows)]
    lines = [f"### {section.title}", "", section.explanation, ""]
    lines += [f"| {' | '.join(row[index] for index in used)} |" for row in (HEAD, ["---"] * len(HEAD), *rows)]
    lines += ["", *(f"- {_say(aim)}" for aim in section.aims), ""]
    return "\n".join(lines) + "\n"


def to_file(sections: Sequence[Section], facts: dict[str, Any], path: Path) -> None:
    """Write results.json."""
    content = {"machine": facts, "sections": [section.to_json() for section in sections]}
    path.write_text(json.dumps(content, indent=2) + "\n")
