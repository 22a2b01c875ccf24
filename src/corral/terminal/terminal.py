"""`corral chat`: a conversation on the terminal, or over pipes, a message a line."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from corral.backends.errors import EngineNotFoundError
from corral.printable import harmless
from corral.remote.client import NoServiceError, RefusedError
from corral.terminal.connectors import Connector, ConnectorError
from corral.terminal.output import Output
from corral.terminal.plain import Plain
from corral.terminal.printing import JsonPrinter, TextPrinter
from corral.terminal.render import console
from corral.terminal.session import FAILED, Session, Signals, View

DUMB = ("", "dumb", "unknown")


def say(text: str) -> None:
    """A sentence for the person, on standard error."""
    sys.stderr.write(f"corral: {harmless(text)}\n")


async def run(connector: Connector, *, as_json: bool = False, state_dir: Path | None = None) -> int:
    """Chat over the standard streams until the person leaves; the exit status.

    0; FAILED if there is no seat to be had, if something survived the agent's end, or if a turn failed and nobody sits
    at a terminal; 128+N after signal N. However it ends, the seat is left. `state_dir`: where what the person typed is
    kept; without one it lasts as long as the chat.
    """
    if sys.stdout is None:
        say("standard output is closed: send it somewhere, be it /dev/null")
        return FAILED
    typed = sys.stdin is not None and sys.stdin.isatty()
    session = Session(strict=not typed)
    output = Output(1, lambda: session.leave(FAILED))
    asks = typed and output.isatty() and not as_json
    view = _view(session, output, asks=asks, as_json=as_json, state_dir=state_dir)
    with Signals(session.on_signal):
        try:
            await session.hold(connector, view)
        except (ConnectorError, NoServiceError, RefusedError, EngineNotFoundError) as error:
            session.closed(str(error))
        finally:
            try:
                await view.end()
            finally:
                written = output.finish()
    # Standard error is the same terminal, as a rule: where that takes nothing more, it would never come back.
    if session.reason and (written or not os.isatty(2)):
        say(session.reason)
    return session.status


def _view(session: Session, output: Output, *, asks: bool, as_json: bool, state_dir: Path | None) -> View:
    if as_json:
        return Plain(session, output, JsonPrinter(output.file), asks=False)
    if not asks or os.environ.get("TERM", "") in DUMB:
        return Plain(session, output, TextPrinter(console(output.file), prompts=asks), asks=asks)
    from corral.terminal.interactive import Interactive  # prompt_toolkit takes its time

    return Interactive(session, output, state_dir)
