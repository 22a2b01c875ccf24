"""How events read, whatever shows them: titles, questions, ends."""

from __future__ import annotations

import re
import shlex
from contextlib import suppress

from corral.backends.events import (
    ApprovalClosed,
    ApprovalRequested,
    BackendStarted,
    Notice,
    Question,
    ToolEnded,
    TurnEnded,
)
from corral.display.text import Block, Line, line
from corral.printable import TITLE_WIDTH, as_shown, harmless, in_one_line
from corral.service.front import Missed, Reply

OUTPUT_LINES = 5
LINE_WIDTH = 160  # characters of a line of a tool's output

_SHELL = re.compile(r"(/\S*/)?(ba|z|da)?sh -l?c ")
_DECIDED = {
    "accept": "✓ allowed",
    "accept_for_session": "✓ allowed for the whole session",
    "decline": "✗ not allowed",
    "cancel": "✗ not allowed, and the turn is stopped",
    None: "the question was withdrawn",
}
_ENDINGS = {"interrupted": "interrupted", "failed": "not completed", "timed_out": "timed out"}


def tool(title: str, most: int = TITLE_WIDTH) -> str:
    """A tool's title in a line: a command without the shell that codex gives it to."""
    with suppress(ValueError):  # quotes that nobody closed
        match shlex.split(title) if _SHELL.match(title) else ():
            case (_, "-c" | "-lc", command):
                return in_one_line(command, most)
    return in_one_line(title, most)


def missed(event: Missed) -> Line:
    """What a front end was not shown because it did not keep up."""
    words = f"… {event.characters:,} characters are left out here: they came faster than they were read"
    return line((words, "caution"))


def took(seconds: float) -> str:
    """How long something took, or takes."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def started(event: BackendStarted) -> Line:
    """Which agent it is, and whose."""
    parts = [event.engine, event.model, f"as {event.user}", f"pid {event.pid}"]
    if event.conversation:
        parts.append(f"conversation {event.conversation}")
    more = ", resumed" if event.resumed else ""
    return line((" · ".join(harmless(part) for part in parts if part) + more, "faint"))


def turn_end(event: TurnEnded) -> Line | None:
    """How a turn ended; nothing to say of one that was completed."""
    if event.status == "completed":
        return None
    words = harmless(f"the turn was {_ENDINGS[event.status]}: {event.reason}")
    return line((words, "caution" if event.status == "interrupted" else "bad"))


def notice(event: Notice) -> Line:
    """What the engine or the service tells beside the agent's words."""
    return line((harmless(event.message), "caution"))


def reply(event: Reply) -> Line:
    """What a command answered; it may have several lines."""
    return line(harmless(event.message))


def decided(event: ApprovalClosed) -> Line:
    """What became of an approval."""
    allowed = event.decision in ("accept", "accept_for_session")
    return line((_DECIDED.get(event.decision, str(event.decision)), "good" if allowed else "caution"))


def tool_end(event: ToolEnded) -> Block:
    """How a tool ended, where its title has not been shown; of one that failed also what it printed last."""
    title, seconds = tool(event.title, 100), took(event.seconds)
    if event.status == "completed":
        return (line(("✓ ", "good"), title, (f" · {seconds}", "faint")),)
    parts = [event.status if event.exit_code is None else f"status {event.exit_code}"]
    if event.status != "declined":
        parts.append(seconds)
    return (line(("✗ ", "bad"), title, ("".join(f" · {part}" for part in parts), "faint")), *last_output(event))


def tool_result(event: ToolEnded) -> Block:
    """How a tool ended, below its title, and what it printed last."""
    status = f", status {event.exit_code}" if event.exit_code else ""
    duration = "" if event.status == "declined" else f" in {event.seconds:.1f} s"
    mark = line(("✓ ", "good")) if event.status == "completed" else line(("✗ ", "bad"))
    return ((*mark, *line((f"{event.status}{status}{duration}", "faint"))), *last_output(event))


def last_output(event: ToolEnded) -> Block:
    """The last lines of what a tool printed."""
    lines = [one[:LINE_WIDTH] for one in as_shown(event.output).rstrip().splitlines()]
    if len(lines) > OUTPUT_LINES:
        lines = ["…", *lines[-OUTPUT_LINES:]]
    return tuple(line((f"  {one}", "faint")) for one in lines)


def request(event: ApprovalRequested, *, keys: str) -> Block:
    """What is asked, and how it can be answered."""
    reason = f" ({event.reason})" if event.reason else ""
    what = harmless(f"{event.what}{reason}")
    if event.questions:
        return (line(("the agent asks: ", "question"), what), *(line(f"  {question(one)}") for one in event.questions))
    return (line(("permission requested: ", "question"), what, (f"  [{keys}]", "strong")),)


def question(one: Question) -> str:
    """A question with its options, numbered."""
    options = "  ".join(f"{number}) {option}" for number, option in enumerate(one.options, start=1))
    return harmless(f"{one.text}  {options}".rstrip())
