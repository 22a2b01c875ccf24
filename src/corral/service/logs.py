"""The log: one line for each start, turn and ending. Readable on a terminal, JSON otherwise; never words of people."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import structlog

from corral.printable import harmless

FILE = "chat.log"
MOST_BYTES = 1 << 20  # of the file, which then begins anew


def set_up(file: IO[str] | None = None, *, as_json: bool | None = None, level: int = logging.INFO) -> None:
    """Send structlog's and the standard library's messages to `file` (standard error), in one form.

    as_json: None chooses by whether the file is a terminal.
    """
    out = file or sys.stderr
    if as_json is None:
        as_json = not out.isatty()
    shared: list[structlog.typing.Processor] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _without_none,
    ]
    last: list[structlog.typing.Processor] = (
        [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(ensure_ascii=False)]
        if as_json
        else [_harmless, structlog.dev.ConsoleRenderer(colors=out.isatty())]
    )
    handler = logging.StreamHandler(out)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )


@contextmanager
def in_file(folder: Path) -> Iterator[None]:
    """For a program whose streams are its person's: warnings and errors go to a file in the folder, if it can be."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    with _opened(folder) as file:
        set_up(file, as_json=True, level=logging.WARNING)
        try:
            yield
        finally:
            root.handlers[:] = handlers
            root.setLevel(level)


def _opened(folder: Path) -> IO[str]:
    path = folder / FILE
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        if path.exists() and path.stat().st_size > MOST_BYTES:
            flags |= os.O_TRUNC
        descriptor = os.open(path, flags, 0o600)
    except OSError:  # the person is told by the store that nothing can be kept there
        descriptor = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
    return os.fdopen(descriptor, "w", encoding="utf-8", buffering=1)


def _without_none(_: object, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    return {key: value for key, value in event.items() if value is not None}


def _harmless(_: object, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """What whoever connects calls a person, or an agent a process, must not command the operator's terminal."""
    return {key: harmless(value) if isinstance(value, str) else value for key, value in event.items()}
