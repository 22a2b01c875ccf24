"""How claude is started: its settings, and its pipes handed to an engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from corral.backends.claude.engine import ClaudeEngine

if TYPE_CHECKING:
    import asyncio

    from corral.backends.engine import Engine, Host, Opening

STREAM_JSON = (
    *("--print", "--verbose", "--include-partial-messages"),
    *("--input-format", "stream-json", "--output-format", "stream-json"),
    # What needs permission is asked for over the pipe.
    *("--permission-prompt-tool", "stdio"),
)

# The last: a folder in the place of the file.
UNKNOWN_CONVERSATION = (
    "No conversation found",
    "--resume requires a valid session ID",
    "Failed to resume session: EISDIR",
)


@dataclass(frozen=True, slots=True)
class Claude:
    """The engine `claude --print` with stream-json both ways."""

    command: Sequence[str] = ("claude",)
    """Starts claude; what makes it speak stream-json is added."""
    model: str | None = None
    """None: the person's own setting."""
    permission_mode: str | None = None
    """As claude names them: default, acceptEdits, plan, dontAsk, …; None: the person's own setting."""

    settings: str = ""
    """Settings of claude as JSON, handed over with `--settings`: everybody on the machine can read them."""

    name = "claude"
    # A project is the folder that the process is in.
    starts_in_workspace = True

    def argv(self, opening: Opening) -> list[str]:
        argv = [*self.command, *STREAM_JSON]
        if opening.conversation is not None:
            # Behind an "=": claude takes a value that begins with "-" for an option otherwise.
            argv.append(f"--resume={opening.conversation}")
        if self.model is not None:
            argv.append(f"--model={self.model}")
        if self.permission_mode is not None:
            argv.append(f"--permission-mode={self.permission_mode}")
        return [*argv, f"--settings={self.settings}"] if self.settings else argv

    def is_unknown_conversation(self, opening: Opening, last_words: str) -> bool:
        return opening.conversation is not None and any(words in last_words for words in UNKNOWN_CONVERSATION)

    def connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, host: Host) -> Engine:
        return ClaudeEngine(self.model or "", reader, writer, host)
