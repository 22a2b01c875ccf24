"""The log: one line for each start, turn and ending. Readable on a terminal, JSON otherwise; never words of people.

Whatever others choose (a name in a hello, an engine's error) is cut, and lines that others can cause are counted rather
than written where they come too fast: nobody fills the disk, or commands the operator's terminal.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import structlog

from corral.printable import harmless

FILE = "chat.log"
MOST_BYTES = 1 << 20  # of the file, which then begins anew
MOST_CHARACTERS = 500  # of a field
MOST_ITEMS = 50  # of a field that is a list
MOST_TRACEBACK = 8000  # characters
BURST = 20  # lines of one kind from one source in a window
WINDOW = 60.0  # seconds
MOST_SOURCES = 1000  # that are told apart
PACED = frozenset({"attached", "detached"})
"""Lines below a warning that others can cause at will."""


def set_up(file: IO[str] | None = None, *, as_json: bool | None = None, level: int = logging.INFO) -> None:
    """Send structlog's and the standard library's messages to `file` (standard error), in one form.

    as_json: None chooses by whether the file is a terminal.
    """
    out = file or sys.stderr
    if as_json is None:
        as_json = not out.isatty()
    pace = Pace(time.monotonic)
    shared: list[structlog.typing.Processor] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _without_none,
    ]
    # A traceback as text, and no more: the values of variables, which a prettier one shows, are people's words.
    last: list[structlog.typing.Processor] = [structlog.processors.format_exc_info, _cut]
    if as_json:
        last.append(structlog.processors.JSONRenderer(ensure_ascii=False))
    else:
        console = structlog.dev.ConsoleRenderer(colors=out.isatty(), exception_formatter=structlog.dev.plain_traceback)
        last += [_harmless, console]
    handler = _Handler(out)
    handler.addFilter(pace.admits)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, _with_pace],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    structlog.configure(
        processors=[pace, *shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
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
    return os.fdopen(descriptor, "w", encoding="utf-8", errors="backslashreplace", buffering=1)


class Pace:
    """Lets BURST lines of one kind from one source through in each WINDOW, and counts the others."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._windows: dict[tuple[str, object], _Window] = {}
        self._forget_at = 0.0

    def __call__(self, _: object, method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        """Drop it if there were too many; the last of a window says so. A processor of structlog."""
        name = str(event.get("event", ""))
        if method in ("debug", "info") and name not in PACED:
            return event
        return self._counted((name, event.get("uid", event.get("person"))), event)

    def admits(self, record: logging.LogRecord) -> bool:
        """The same for a line of the standard library's, which structlog's processors see only when it is written."""
        if isinstance(record.msg, dict) or record.levelno < logging.WARNING:
            return True
        try:
            record.paced = self._counted((str(record.msg), None), {})
        except structlog.DropEvent:
            return False
        return True

    def _counted(self, key: tuple[str, object], event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        now = self._clock()
        # A source that others choose must not fill this table either: beyond so many they are one.
        key = (_cut_text(key[0]), _cut_text(key[1]) if isinstance(key[1], str) else key[1])
        if key not in self._windows and len(self._windows) >= MOST_SOURCES:
            if now >= self._forget_at:  # seldom: it looks at all of them
                self._forget(now)
            if len(self._windows) >= MOST_SOURCES:
                key = ("", None)
        window = self._windows.get(key)
        left_out = 0
        if window is None or now - window.began >= WINDOW:
            left_out = window.left_out if window is not None else 0
            window = self._windows[key] = _Window(now)
        window.lines += 1
        if window.lines > BURST:
            window.left_out += 1
            raise structlog.DropEvent
        if left_out:
            event["left_out"] = left_out
        if window.lines == BURST:
            event["next"] = f"no more of these for {WINDOW - (now - window.began):.0f} s"
        return event

    def _forget(self, now: float) -> None:
        self._forget_at = now + WINDOW / 10
        for key in [key for key, window in self._windows.items() if now - window.began >= WINDOW]:
            del self._windows[key]


@dataclass(slots=True)
class _Window:
    began: float
    lines: int = 0
    left_out: int = 0


def _with_pace(_: object, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    return {**event, **getattr(event["_record"], "paced", {})}


class _Handler(logging.StreamHandler[IO[str]]):
    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        """A line that cannot be written is lost: the default prints it whole, uncut, to standard error."""


def _without_none(_: object, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    return {key: value for key, value in event.items() if value is not None}


def _cut(_: object, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    return {
        key: _cut_value(value, MOST_TRACEBACK if key == "exception" else MOST_CHARACTERS)
        for key, value in event.items()
    }


def _cut_value(value: Any, most: int) -> Any:
    if value is None or isinstance(value, int | float):
        return value
    if isinstance(value, list | tuple):
        more = [f"… and {len(value) - MOST_ITEMS} more"] if len(value) > MOST_ITEMS else []
        return [_cut_value(item, most) for item in value[:MOST_ITEMS]] + more
    return _cut_text(value if isinstance(value, str) else repr(value), most)


def _cut_text(text: str, most: int = MOST_CHARACTERS) -> str:
    if len(text) <= most:
        return text
    half = most // 2  # the end too: what a traceback says last is why
    return f"{text[:half]}… {len(text) - 2 * half} characters left out …{text[-half:]}"


def _harmless(_: object, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """What whoever connects calls a person, or an agent a process, must not command the operator's terminal."""
    return {key: _harmless_value(value) for key, value in event.items()}


def _harmless_value(value: Any) -> Any:
    if isinstance(value, list):
        return [_harmless_value(item) for item in value]
    return harmless(value) if isinstance(value, str) else value
