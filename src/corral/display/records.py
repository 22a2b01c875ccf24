"""What the store remembers, in words: conversations with their turns, and how agents ended."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence

from corral.display.text import Block, Line, Meaning, line
from corral.printable import harmless
from corral.service.store.records import Endings, History, seconds
from corral.service.store.rows import BackendRow, ReportRow, TurnRow

TURNS = 10
"""Turns that are shown of a conversation."""

_STATES: Mapping[str, Meaning] = {"completed": "good", "running": "account", "interrupted": "caution"}
_VERDICTS: Mapping[str, Meaning] = {"proven_empty": "proven", "empty_by_scan": "unsure"}


def history(found: Sequence[History]) -> Block:
    """The conversations, each with its last turns."""
    if not found:
        return (line("no conversations yet"),)
    return tuple(one for conversation in found for one in _conversation(conversation))


def endings(found: Endings, *, survivors: bool = False) -> Block:
    """How agents ended, and last those of which nobody knows. `survivors`: only those were asked for."""
    lines = [one for row in found.reports for one in _ending(row)]
    lines += map(_unknown, found.unknown)
    return tuple(lines) or (line("no agent has left anything alive" if survivors else "no agent has ended yet"),)


def _conversation(one: History) -> Iterable[Line]:
    row = one.conversation
    about = [_shown(part) for part in (row.person, row.engine, row.model, row.workspace) if part]
    yield line((row.id, "strong"), "  ", "  ".join(about), "  ", (_shown(row.title), "strong"))
    if len(one.turns) > TURNS:
        yield line((f"  … {len(one.turns) - TURNS} earlier turns", "faint"))
    yield from map(_turn, one.turns[-TURNS:])


def _turn(turn: TurnRow) -> Line:
    took = seconds(turn)
    used = f"{turn.input_tokens:,} in ({turn.cached_input_tokens:,} cached), {turn.output_tokens:,} out"
    return line(
        f"  {_when(turn.began)}  ",
        (f"{turn.state:<11}", _STATES.get(turn.state, "bad")),
        f" {'' if took is None else f'{took:.1f} s':>9}  {used}",
        f", ${turn.cost:.2f}" if turn.cost else "",
        (f"  {_shown(turn.reason)}" if turn.reason else "", "faint"),
    )


def _ending(row: ReportRow) -> Iterable[Line]:
    one = row.report
    sent = ", ".join(f"{count.signal} to {count.processes}" for count in one.signals)
    yield line(
        f"{_when(row.ended)}  {_shown(row.person)}  {row.engine} as {row.account}  ",
        (one.verdict, _VERDICTS.get(one.verdict, "lost")),
        f" ({one.proof or 'no proof'})  {one.seconds:.3f} s  {sent or 'no signal was needed'}",
        (f"  {_shown(row.why)}" if row.why else "", "faint"),
    )
    for left in one.survivors:
        yield line(f"    pid {left.pid} ({left.user}, {left.state}) {_shown(left.command)}: {_shown(left.reason)}")


def _unknown(row: BackendRow) -> Line:
    about = f"{_when(row.started)}  {_shown(row.person)}  {row.engine} as {row.account}, pid {row.pid}"
    return line((f"{about}: started, and nobody knows how it ended", "caution"))


def _when(moment: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(moment))


def _shown(text: str) -> str:
    """What others wrote, on one line, without what would steer the terminal."""
    return " ".join(harmless(text).split())
