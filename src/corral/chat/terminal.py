"""`corral chat`: a conversation with an engine on the terminal, or over pipes, a message a line."""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from corral import view
from corral.backends.base import Backend, Decision, Event, Notice
from corral.backends.engine import EngineKind
from corral.backends.launch import Launch
from corral.backends.running import Running
from corral.chat.approving import Approver
from corral.chat.conversation import Conversation
from corral.chat.lines import Lines
from corral.chat.output import Output
from corral.chat.printing import JsonPrinter, Printer, TextPrinter
from corral.spans import span

FAILED = 1
WORKER_TIMEOUT = 5.0  # seconds for the turn's reader to be done, once the backend has ended

HELP = """\
/stop     stop the turn and end the agent with all that it started; the next message goes on with the conversation
/new      the same, and begin a new conversation
/restart  end the agent and start it again in the same conversation
/approve  say yes to what is asked; /deny says no
/status   the agent's processes, the conversation, and how long
/help     this
/quit     end the agent and leave (so do Ctrl-D, and Ctrl-C at the prompt)
Ctrl-C    stop the turn that runs; the agent stays
Anything else is a message; begin with a space to send one that starts with a slash."""


@dataclass(frozen=True, slots=True)
class ChatOptions:
    """What a chat is started with."""

    kind: EngineKind
    """The engine and its settings."""
    user: str | None = None
    """The account that it runs as; None for this one."""
    person: str = ""
    """Who speaks: `corral ps` shows it."""
    as_json: bool = False
    state_dir: Path | None = None
    cwd: Path | None = None
    env: Mapping[str, str] = field(default_factory=dict)

    async def open(self, conversation: str | None) -> Backend:
        """Start a backend with these options."""
        label = f"{self.kind.name} of {self.person}" if self.person else self.kind.name
        launch = Launch(self.user, self.cwd, self.env, state_dir=self.state_dir, label=label)
        backend = Running(self.kind, launch)
        await backend.start(conversation)
        return backend


def say(text: str) -> None:
    """A sentence for the person, on standard error."""
    sys.stderr.write(f"corral: {text}\n")


async def run(options: ChatOptions) -> int:
    """Chat over the standard streams until the person leaves; the exit status.

    0; FAILED if the engine could not be started, if something survived its end, or if a turn failed and nobody sits
    at a terminal; 128+N after signal N. However it ends, the agent's tree is ended.
    """
    if sys.stdout is None:
        say("standard output is closed: send it somewhere, be it /dev/null")
        return FAILED
    return await Chat(options).run()


class Chat:
    """The terminal's side of one conversation (a corral.chat.conversation.Front)."""

    def __init__(self, options: ChatOptions) -> None:
        self._interactive = sys.stdin is not None and sys.stdin.isatty()
        self._output = Output(1, lambda: self._leave(FAILED))
        self._printer: Printer
        if options.as_json:
            self._printer = JsonPrinter(self._output.file)
        else:
            console = view.console(self._output.file)
            self._printer = TextPrinter(console, prompts=self._interactive and self._output.isatty())
        self._conversation = Conversation(options.open, self)
        asks = self._interactive and self._output.isatty() and not options.as_json
        self._approver = Approver(self._conversation.answer, asks=asks)
        self._leaving = asyncio.Event()
        self._status: int | None = None
        self._interrupts = 0
        self._acting = 0
        self._tasks: asyncio.TaskGroup
        self._commands: dict[str, Callable[[], None]] = {
            "/stop": lambda: self._act(self._conversation.stop()),
            "/new": lambda: self._act(self._conversation.stop(forget=True)),
            "/restart": lambda: self._act(self._conversation.restart()),
            "/approve": lambda: self._decide("accept"),
            "/deny": lambda: self._decide("decline"),
            "/status": self._show_status,
            "/help": lambda: self.show(Notice(HELP)),
            "/quit": lambda: self._leave(0),
        }

    async def run(self) -> int:
        """Read, act and show until it is time to leave."""
        try:
            async with asyncio.TaskGroup() as self._tasks:
                worker = self._tasks.create_task(self._work())
                lines = Lines(0, self._take, self._conversation.finish)
                with _Signals(self._on_signal):
                    if sys.stdin is None:  # closed: the descriptor may be anything by now
                        self._conversation.finish()
                    else:
                        lines.start()
                    await self._leaving.wait()
                    await self._conversation.close()
                    lines.close()
                    await asyncio.wait([worker], timeout=WORKER_TIMEOUT)
                    worker.cancel()
        finally:
            if isinstance(self._printer, TextPrinter):
                self._printer.fresh_line()
            self._output.finish()
        failed = self._conversation.survivors or (self._conversation.failures and not self._interactive)
        return self._status or (FAILED if failed else 0)

    # What the conversation tells.

    def show(self, event: Event) -> None:
        self._printer.show(event)
        self._approver.see(event)

    async def ready(self) -> None:
        await self._output.ready()

    def idle(self) -> None:
        self._interrupts = 0
        self._prompt()

    # What the person does.

    def _take(self, line: str) -> None:
        self._printer.entered()
        if self._leaving.is_set():
            return
        if line.startswith("/"):
            self._command(line)
        elif self._approver.answer(line):
            if wanted := self._approver.waiting:
                self.show(Notice(wanted))
            return
        elif line.strip():
            self._conversation.send(line.strip())
        if wanted := self._approver.waiting:
            self.show(Notice(f"a question is open: {wanted}"))
        self._prompt()

    def _command(self, line: str) -> None:
        name = line.split(maxsplit=1)[0]
        act = self._commands.get(name)
        if act is None:
            known = ", ".join(self._commands)
            self.show(Notice(f"there is no command {name}; there are {known}"))
        else:
            act()

    def _decide(self, decision: Decision) -> None:
        if not self._approver.decide(decision):
            self.show(Notice("nothing is asked"))

    def _on_signal(self, number: int) -> None:
        if self._leaving.is_set():
            self._act(self._conversation.hurry())
        elif number != signal.SIGINT:
            self._leave(128 + number)
        elif self._conversation.busy and not self._interrupts:
            self._interrupts += 1
            self._printer.entered()  # the terminal has shown ^C
            self.show(Notice("stopping the turn; Ctrl-C again leaves"))
            self._act(self._conversation.interrupt())
        else:
            self._leave(0)

    def _leave(self, status: int) -> None:
        if self._status is None:
            self._status = status
            self._output.lose_patience()
            self._leaving.set()

    def _act(self, action: Coroutine[Any, Any, None]) -> None:
        self._acting += 1
        self._tasks.create_task(action).add_done_callback(self._acted)

    def _acted(self, _: asyncio.Task[None]) -> None:
        self._acting -= 1
        self._prompt()

    async def _work(self) -> None:
        if why := await self._conversation.run():
            say(why)
            self._leave(FAILED)
        self._leave(0)

    def _prompt(self) -> None:
        # Behind the other lines of this read, which may leave nothing to prompt for.
        asyncio.get_running_loop().call_soon(self._prompt_if_idle)

    def _prompt_if_idle(self) -> None:
        if not (self._acting or self._conversation.busy or self._leaving.is_set()):
            self._printer.prompt()

    def _show_status(self) -> None:
        conversation, backend = self._conversation, self._conversation.backend
        parts = [f"conversation {conversation.conversation_id or '(none yet)'}, {conversation.tokens:,} tokens"]
        if conversation.began:
            parts.append(f"a turn runs for {span(time.monotonic() - conversation.began)}")
        if backend is None:
            parts.append("no agent runs; the next message starts one")
        elif backend.gone:
            parts.append(backend.gone)
        else:
            parts.append(f"agent up for {span(conversation.age)} as {backend.started.user}")
        self._printer.status("; ".join(parts), backend.tree() if backend is not None else ())


class _Signals:
    """INT, TERM and HUP to a function while it lasts; stopped jobs and the rest stay the shell's matter."""

    NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def __init__(self, on_signal: Callable[[int], None]) -> None:
        self._on_signal = on_signal
        self._loop = asyncio.get_running_loop()

    def __enter__(self) -> None:
        for number in self.NUMBERS:
            self._loop.add_signal_handler(number, self._on_signal, number)

    def __exit__(self, *_: object) -> None:
        for number in self.NUMBERS:
            self._loop.remove_signal_handler(number)
