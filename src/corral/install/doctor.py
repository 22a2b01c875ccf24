"""`corral doctor`: every check, each beside the others, bounded as a whole."""

from __future__ import annotations

import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Group
from rich.text import Text

from corral.config import ConfigError, doubts, load
from corral.install.checks import engines, host, installation, limits, people, processes, rights, state
from corral.install.finding import Finding, Findings, Status, error, ok, warn
from corral.install.subjects import Subjects
from corral.printable import in_one_line

if TYPE_CHECKING:
    from rich.console import RenderableType

WHOLE = 120.0
"""Seconds for all checks together. What was not answered by then is an error of its own."""

_AT_ONCE = 4
_LONGEST = 4000
_STYLES = {"ok": "green", "warn": "yellow", "error": "bold red", "skip": "dim"}


@dataclass(frozen=True, slots=True)
class Check:
    """A thing to look at. `run` is a plain function; whatever it raises is this check's error."""

    label: str
    run: Callable[[], Findings]


def examine(path: Path | None, *, seconds: float = WHOLE) -> list[Finding]:
    """Look at everything that the config at `path` (None: the usual one) needs of this machine."""
    try:
        config = load(path)
    except ConfigError as problem:
        wrong = [error("config", fault, "fix it: the checks of people need it") for fault in problem.faults]
        return [*wrong, *run(_of_the_machine(), seconds)]
    found = [ok("config", f"{config.path}: {config.head_count}")]
    # What the host tells of it is in the checks of people.
    found += [warn("config", f"{one.key}: {one.sentence}", one.todo) for one in doubts.of_the_text(config)]
    subjects = Subjects.of(config)
    return [*found, *run([*_of_the_machine(), *_of_the_config(subjects)], seconds)]


def run(checks: Sequence[Check], seconds: float = WHOLE) -> list[Finding]:
    """The findings of all checks, in their order."""
    deadline = time.monotonic() + seconds
    waiting: queue.SimpleQueue[tuple[Check, queue.SimpleQueue[list[Finding]]]] = queue.SimpleQueue()
    answers = []
    for check in checks:
        answer: queue.SimpleQueue[list[Finding]] = queue.SimpleQueue()
        waiting.put((check, answer))
        answers.append(answer)
    # Daemons: a thread that hangs in the kernel (a dead file server) must not keep the program from ending.
    for _ in range(_AT_ONCE):
        threading.Thread(target=_work, args=(waiting,), daemon=True).start()
    found: list[Finding] = []
    for check, answer in zip(checks, answers, strict=True):
        try:
            found += answer.get(timeout=max(0.001, deadline - time.monotonic()))
        except queue.Empty:
            found.append(error(check.label, f"there was no answer within {seconds:g} s", "look why it hangs"))
    return found


def commands_to_fix(findings: Sequence[Finding]) -> list[str]:
    """The commands that would fix what was found, each once, below what they are for."""
    lines: list[str] = []
    for finding in findings:
        if new := [command for command in finding.fix if command not in lines]:
            lines += [f"# {finding.label}: {_line(finding.detail)}", *new]
    return lines


def shown(findings: Sequence[Finding]) -> RenderableType:
    """The findings for people, a line each, and what to do below."""
    width = max((len(finding.label) for finding in findings), default=0)
    lines = []
    for finding in findings:
        head = Text.assemble(
            (f"{finding.status:<6}", _STYLES[finding.status]),
            (f"{finding.label:<{width}}  ", "bold"),
            _line(finding.detail),
        )
        lines.append(head)
        if finding.todo and finding.status != "ok":
            lines.append(Text(f"{'':<6}→ {_line(finding.todo)}", style="cyan"))
    counted = Counter(finding.status for finding in findings)
    words: dict[Status, str] = {"error": "error", "warn": "warning", "skip": "skipped", "ok": "ok"}
    lines.append(Text(", ".join(_counted(counted[status], status, name) for status, name in words.items())))
    return Group(*lines)


def _counted(number: int, status: Status, name: str) -> str:
    return f"{number} {name}{'s' if status in ('error', 'warn') and number != 1 else ''}"


def _line(text: str) -> str:
    """What a finding says: programs and processes of others have their words in it."""
    return in_one_line(text, _LONGEST)


def _work(waiting: queue.SimpleQueue[tuple[Check, queue.SimpleQueue[list[Finding]]]]) -> None:
    while True:
        try:
            check, answer = waiting.get_nowait()
        except queue.Empty:
            return
        try:
            found = list(check.run())
        except Exception as problem:  # noqa: BLE001 - a fault of one check is that check's, not the doctor's
            found = [error(check.label, f"this check failed itself: {problem!r}", "report it: the fault is Corral's")]
        answer.put(found)


def _of_the_machine() -> list[Check]:
    return [
        Check("subreaper", host.subreaper),
        Check("children files", host.children_files),
        Check("hidden processes", host.hidden_processes),
        Check("job marks", host.marks),
        Check("process 1", host.process_1),
        Check("clock", host.clock),
        Check("bytecode", installation.bytecode),
    ]


def _of_the_config(subjects: Subjects) -> list[Check]:
    checks = [
        Check("account", partial(state.account, subjects)),
        Check("state folder", partial(state.folder, subjects)),
        Check("disk", partial(state.disk, subjects)),
        Check("store", partial(state.store, subjects)),
        Check("ledger", partial(state.ledger, subjects)),
        Check("jobs", partial(state.jobs, subjects)),
        Check("cgroup", partial(state.cgroup, subjects)),
        Check("socket", partial(state.socket, subjects)),
        Check("open files", partial(limits.open_files, subjects)),
        Check("processes", partial(limits.processes, subjects)),
        Check("sudo", partial(rights.sudo, subjects)),
        Check("new privileges", partial(rights.new_privileges, subjects)),
        Check("sudo's PAM", partial(rights.pam, subjects)),
    ]
    for account in subjects.others:
        checks += [
            Check(f"{account}: kill", partial(rights.kill, subjects, account)),
            Check(f"{account}: files", partial(rights.hand_over, subjects, account)),
            Check(f"{account}: TMPDIR", partial(people.temporary_folder, account)),
        ]
    for person in subjects.config.people:
        checks += [
            Check(f"{person.name}: account", partial(people.account, subjects, person)),
            Check(f"{person.name}: secrets", partial(people.secrets, person)),
            Check(f"{person.name}: folders", partial(people.folders, subjects, person)),
        ]
        checks += [
            Check(f"{person.name}: {engine}", partial(engines.engine, subjects, person, engine))
            for engine in subjects.engines
        ]
    return [*checks, Check("orphans", partial(processes.orphans, subjects))]
