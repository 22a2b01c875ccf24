"""What can go wrong when a job is started or kept. Every message says what happened and what to do."""

from __future__ import annotations

from corral.process.bare.report import Report


class JobError(Exception):
    """Anything this room could not do."""


class StartError(JobError):
    """The command was not started; nothing is left running.

    kind is one of `not_found`, `not_executable`, `cwd`, `unknown_user`, `sudo_missing`, `sudo_rule`, `sudo_password`,
    `sudo_environment`, `sudo_refused`, `limits`, `fork`, `ledger`, `invalid`, `hung` (it did not start in time),
    `interrupted` (it was ended before it ran), `proc` (the host's process table cannot be used), `internal`.
    """

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind
        self.report: Report | None = None
        """How the start was ended, once a process had been started for it. It can have survivors, which are held."""


class LedgerError(JobError):
    """The ledger's folder, key or record cannot be used."""


def describe(error: BaseException) -> str:
    """An error in a few words, the same ones each time: without the path, which in /proc is another one each time."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return f"{type(error).__name__}: {text}"


class Notes:
    """What went wrong on the way to an end without changing it, each said once."""

    def __init__(self, *texts: str) -> None:
        self._texts = list(texts)

    @property
    def texts(self) -> tuple[str, ...]:
        return tuple(self._texts)

    def add(self, what: BaseException | str) -> bool:
        """Note a sentence or an error. False for one that is noted already."""
        text = describe(what) if isinstance(what, BaseException) else what
        if text in self._texts:
            return False
        self._texts.append(text)
        return True
