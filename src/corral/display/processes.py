"""How trees, reports and sweeps look on a terminal."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO

from rich.console import Console, Group, RenderableType
from rich.text import Text

from corral.printable import harmless, in_one_line
from corral.process import Found, LiveJob, Process, Report, SweepResult
from corral.process.bare.host import host_table
from corral.process.bare.ledger import Entry
from corral.process.bare.table import ProcessTable, account_name
from corral.spans import size, span

COMMAND_WIDTH = 100  # characters of a command in a tree

_VERDICTS = {
    "proven_empty": ("bold green", "nothing is left, by the kernel's own word (no_children)"),
    "empty_by_scan": ("bold yellow", "nothing was found left in the process table"),
    "survivors": ("bold red", "something is left"),
}


def console(file: IO[str] | None = None) -> Console:
    """Standard output, or `file`; plain, and as wide as a line needs, where it is not a terminal."""
    return Console(file=file, highlight=False, soft_wrap=True)


def jobs(found: Sequence[LiveJob]) -> RenderableType:
    """The live jobs, a tree each."""
    if not found:
        return Text("no live jobs")
    blocks: list[RenderableType] = []
    for job in found:
        age = span(time.time() - job.entry.started)
        reaper = f"reaper {job.reaper.pid}" if job.reaper else job.reason or _without_reaper(job)
        head = Text.assemble(
            (in_one_line(job.entry.label or job.entry.command), "bold"),
            f"  {job.entry.id}  {job.state}, {age}, {in_one_line(reaper)}",
        )
        blocks.append(Group(head, tree(job.tree)))
    return Group(*blocks)


def _without_reaper(job: LiveJob) -> str:
    # The sweep would leave alone what has a supervisor.
    return "no reaper: run `corral sweep`" if job.state == "orphaned" else "no reaper: its supervisor ends it"


def tree(processes: Sequence[Process], table: ProcessTable | None = None) -> RenderableType:
    """A tree, a process a line: account, pid, age, memory, command. Parents come before their children."""
    table = table or host_table()
    uptime = _uptime()
    lines = []
    for prefix, process in _branches(processes):
        age = span(uptime - process.start_time / os.sysconf("SC_CLK_TCK")) if uptime and process.readable else "?"
        command = table.command(process.pid) or f"[{process.comm}]"
        lines.append(
            Text.assemble(
                (f"{account_name(process.uid):<10}", "cyan"),
                f"{process.pid:>7} {age:>6} {size(process.rss):>7}  ",
                (prefix, "dim"),
                in_one_line(command, COMMAND_WIDTH),
            )
        )
    return Group(*lines)


def report(one: Report) -> RenderableType:
    """The verdict with what it rests on, what was sent, and who survived."""
    style, meaning = _VERDICTS.get(one.verdict, ("bold", ""))
    sent = ", ".join(f"{count.signal} to {count.processes} of {count.account}" for count in one.signals)
    lines = [
        Text.assemble((one.verdict, style), f": {meaning}"),
        Text(f"  {one.seconds:.3f} s by the {one.ended_by}; {sent or 'no signal was needed'}"),
    ]
    lines += [
        Text(harmless(f"  pid {left.pid} ({left.user}, {left.state}) {left.command}: {left.reason}"))
        for left in one.survivors
    ]
    lines += [Text(harmless(f"  note: {note}"), style="dim") for note in one.notes]
    return Group(*lines)


def swept(result: SweepResult) -> RenderableType:
    """What a sweep did."""
    blocks: list[RenderableType] = []
    for one in result.swept:
        blocks += [Text(_entry(one.entry), style="bold"), report(one.report)]
    for entry in result.held:
        blocks.append(Text(f"{_entry(entry)}: its reaper still holds what would not end", style="red"))
    blocks += [Text(harmless(f"{_entry(one.entry)}: {one.reason}"), style="red") for one in result.elsewhere]
    blocks += [Text(harmless(f"{bad.path}: {bad.reason}. {bad.advice}"), style="red") for bad in result.rejected]
    blocks += [
        Text(
            f"pid {stray.pid} ({in_one_line(stray.comm)}) was started by a job that no record vouches for:"
            " look, and end it",
            "red",
        )
        for stray in result.strays
    ]
    if result.blind:
        blocks.append(Text("of what those files stood for, processes may be hidden from this account (hidepid)", "red"))
    if not (result.swept or result.held or result.elsewhere or result.rejected):
        blocks.append(Text("nothing to sweep"))
    if result.live:
        blocks.append(Text(f"{len(result.live)} live jobs left alone", style="dim"))
    return Group(*blocks)


def orphans(found: Found) -> RenderableType:
    """The agents of an account that nobody owns, a tree each, and those that were left alone, with the reason."""
    table = host_table()
    blocks: list[RenderableType] = []
    for one in found.orphans:
        blocks += [Text(f"nobody owns pid {one.root.pid}:", style="bold"), tree(one.tree)]
    for left in found.left_alone:
        command = in_one_line(table.command(left.process.pid) or left.process.comm, 60)
        blocks.append(Text(f"left alone: pid {left.process.pid} {command}: {left.reason}", style="dim"))
    if found.blind:
        blocks.append(Text(f"processes of {found.user} may be hidden from this account (hidepid): look as root", "red"))
    elif undecided := len(found.undecided):
        agents = "1 agent" if undecided == 1 else f"{undecided} agents"
        blocks.append(Text(f"{agents} of {found.user} may or may not have an owner: see above", "red"))
    elif not found.orphans:
        blocks.append(Text(f"{found.user} has no agent that nobody owns"))
    return Group(*blocks)


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
