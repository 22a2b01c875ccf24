"""The keys of the terminal, and what they do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from prompt_toolkit.filters import Condition, Filter, has_focus
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent

from corral.terminal.approving import WORDS

if TYPE_CHECKING:
    from prompt_toolkit.buffer import Buffer

    from corral.backends.events import Decision

DECISION_KEYS: dict[str, Decision] = {word: decision for word, decision in WORDS.items() if len(word) == 1}


class Handler(Protocol):
    """What the keys do."""

    def enter(self) -> None:
        """The line is whole."""

    def interrupt(self) -> None:
        """Ctrl-C."""

    def leave(self) -> None:
        """Ctrl-D on an empty line."""

    def suspend(self) -> None:
        """Ctrl-Z."""

    def can_decide(self, decision: Decision) -> bool:
        """Whether a key may decide so, now."""

    def decide(self, decision: Decision) -> None:
        """Decide so."""


def bindings(buffer: Buffer, handler: Handler) -> KeyBindings:
    """The bindings beyond those of every line editor."""
    keys = KeyBindings()
    typing = has_focus(buffer)
    empty = typing & Condition(lambda: not buffer.text)

    @keys.add("enter", filter=typing)
    def _enter(_: KeyPressEvent) -> None:
        handler.enter()

    @keys.add("escape", "enter", filter=typing)
    @keys.add("c-j", filter=typing)
    def _new_line(_: KeyPressEvent) -> None:
        buffer.newline(copy_margin=False)

    @keys.add("c-c")
    def _interrupt(_: KeyPressEvent) -> None:
        handler.interrupt()

    @keys.add("c-d", filter=empty)
    def _leave(_: KeyPressEvent) -> None:
        handler.leave()

    @keys.add("c-z")
    def _suspend(_: KeyPressEvent) -> None:
        handler.suspend()

    for letter, decision in DECISION_KEYS.items():
        for key in (letter, letter.upper()):
            _bind_decision(keys, key, decision, handler, empty)
    return keys


def _bind_decision(keys: KeyBindings, key: str, decision: Decision, handler: Handler, empty: Filter) -> None:
    @keys.add(key, filter=empty & Condition(lambda: handler.can_decide(decision)))
    def _decide(_: KeyPressEvent) -> None:
        handler.decide(decision)
