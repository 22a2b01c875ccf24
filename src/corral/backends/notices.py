"""What an engine says beside its answers: each sentence is told once, in the turn that runs or else in the next."""

from __future__ import annotations

from collections.abc import Iterable

MOST_NOTICES = 500  # that are remembered as told


class Notices:
    """Remembers what was said, and whether it was told."""

    def __init__(self) -> None:
        self._said: dict[str, bool] = {}

    def add(self, message: str, *, told: bool) -> bool:
        """Take a sentence that is `told` now, or waits for the next turn; False if it was said before."""
        if message in self._said:
            return False
        if len(self._said) >= MOST_NOTICES:
            self._said.clear()
        self._said[message] = told
        return True

    def untold(self, more: Iterable[str]) -> list[str]:
        """What waits to be told, and what is new in `more`: from now on it is told."""
        for message in more:
            self._said.setdefault(message, False)
        waiting = [message for message, told in self._said.items() if not told]
        self._said |= dict.fromkeys(waiting, True)
        return waiting
