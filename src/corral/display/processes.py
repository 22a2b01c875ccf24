"""Trees, reports and sweeps in words."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from corral.display.text import Block, Line, Meaning, line
from corral.printable import harmless, in_one_line
from corral.process import Found, LiveJob, Process, Report, SweepResult
from corral.process.bare.host import host_table
from corral.process.bare.ledger import Entry
from corral.process.bare.table import ProcessTable, account_name
from corral.spans import size, span

COMMAND_WIDTH = 100  # characters of a command in a tree

_VERDICTS: Mapping[str, tuple[Meaning, str]] = {
    "proven_empty": ("proven", "nothing is left, by the kernel's own word (no_children)"),
    "empty_by_scan": ("unsure", "nothing was found left in the process table"),
    "survivors": ("lost", "something is left"),
}


def jobs(found: Sequence[LiveJob]) -> Block:
    """The live jobs, a tree each."""
    if not found:
        return (line("no live jobs"),)
    lines: list[Line] = []
    for job in found:
        age = span(time.time() - job.entry.started)
        reaper = f"reaper {job.reaper.pid}" if job.reaper else job.reason or _without_reaper(job)
        head = line(
            (in_one_line(job.entry.label or job.entry.command), "strong"),
            f"  {job.entry.id}  {job.state}, {age}, {in_one_line(reaper)}",
        )
        lines += [head, *tree(job.tree)]
    return tuple(lines)


def _without_reaper(job: LiveJob) -> str:
    # The sweep would leave alone what has a supervisor.
    return "no reaper: run `corral sweep`" if job.state == "orphaned" else "no reaper: its supervisor ends it"


def tree(processes: Sequence[Process], table: ProcessTable | None = None) -> Block:
    """A tree, a process a line: account, pid, age, memory, command. Parents come before their children."""
    table = table or host_table()
    uptime = _uptime()
    lines = []
    for prefix, process in _branches(processes):
        age = span(uptime - process.start_time / os.sysconf("SC_CLK_TCK")) if uptime and process.readable else "?"
        command = table.command(process.pid) or f"[{process.comm}]"
        lines.append(
            line(
                (f"{account_name(process.uid):<10}", "account"),
                f"{process.pid:>7} {age:>6} {size(process.rss):>7}  ",
                (prefix, "faint"),
                in_one_line(command, COMMAND_WIDTH),
            )
        )
    return tuple(lines)


def report(one: Report) -> Block:
    """The verdict with what it rests on, what was sent, and who survived."""
    meaning, words = _VERDICTS.get(one.verdict, ("strong", ""))
    sent = ", ".join(f"{count.signal} to {count.processes} of {count.account}" for count in one.signals)
    lines = [
        line((one.verdict, meaning), f": {words}"),
        line(f"  {one.seconds:.3f} s by the {one.ended_by}; {sent or 'no signal was needed'}"),
    ]
    lines += [
        line(harmless(f"  pid {left.pid} ({left.user}, {left.state}) {left.command}: {left.reason}"))
        for left in one.survivors
    ]
    lines += [line((harmless(f"  note: {note}"), "faint")) for note in one.notes]
    return tuple(lines)


def swept(result: SweepResult) -> Block:
    """What a sweep did."""
    lines: list[Line] = []
    for one in result.swept:
        lines += [line((_entry(one.entry), "strong")), *report(one.report)]
    lines += [_bad(f"{_entry(entry)}: its reaper still holds what would not end") for entry in result.held]
    lines += [_bad(f"{_entry(one.entry)}: {one.reason}") for one in result.elsewhere]
    lines += [_bad(f"{bad.path}: {bad.reason}. {bad.advice}") for bad in result.rejected]
    lines += [
        _bad(
            f"pid {stray.pid} ({in_one_line(stray.comm)}) was started by a job that no record vouches for:"
            " look, and end it"
        )
        for stray in result.strays
    ]
    if result.blind:
        lines.append(_bad("of what those files stood for, processes may be hidden from this account (hidepid)"))
    if not (result.swept or result.held or result.elsewhere or result.rejected):
        lines.append(line("nothing to sweep"))
    if result.live:
        lines.append(line((f"{len(result.live)} live jobs left alone", "faint")))
    return tuple(lines)


def orphans(found: Found) -> Block:
    """The agents of an account that nobody owns, a tree each, and those that were left alone, with the reason."""
    table = host_table()
    lines: list[Line] = []
    for one in found.orphans:
        lines += [line((f"nobody owns pid {one.root.pid}:", "strong")), *tree(one.tree)]
    for left in found.left_alone:
        command = in_one_line(table.command(left.process.pid) or left.process.comm, 60)
        lines.append(line((f"left alone: pid {left.process.pid} {command}: {left.reason}", "faint")))
    if found.blind:
        lines.append(_bad(f"processes of {found.user} may be hidden from this account (hidepid): look as root"))
    elif undecided := len(found.undecided):
        agents = "1 agent" if undecided == 1 else f"{undecided} agents"
        lines.append(_bad(f"{agents} of {found.user} may or may not have an owner: see above"))
    elif not found.orphans:
        lines.append(line(f"{found.user} has no agent that nobody owns"))
    return tuple(lines)


def _bad(text: str) -> Line:
    return line((harmless(text), "bad"))


def _branches(processes: Sequence[Process]) -> Iterable[tuple[str, Process]]:
    children: dict[int, list[Process]] = {}
    pids = {process.pid for process in processes}
    for process in processes:
        children.setdefault(process.ppid if process.ppid in pids else 0, []).append(process)

    stack = [("", process, True) for process in reversed(children.get(0, []))]
    while stack:
        indent, process, is_root = stack.pop()
        yield indent + ("" if is_root else "└─ "), process
        below = children.get(process.pid, [])
        stack += [(indent if is_root else indent + "   ", child, False) for child in reversed(below)]


def _entry(entry: Entry) -> str:
    return f"{in_one_line(entry.command)} of {entry.user} ({entry.id})"


def _uptime() -> float | None:
    try:
        return float(Path("/proc/uptime").read_text(encoding="ascii").split()[0])
    except OSError:
        return None
