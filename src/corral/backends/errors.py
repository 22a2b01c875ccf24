"""What can go wrong with a backend, said to the person who must act."""

from __future__ import annotations


class BackendError(Exception):
    """A backend could not be started or used; the message says what happened and what to do."""


class EngineNotFoundError(BackendError):
    """The engine's program is not on this machine."""


class SecretError(BackendError):
    """The file of a secret cannot be used; the message never shows what it holds."""


class ResumeError(BackendError):
    """The engine does not know the conversation that it was asked to go on with; a new one can be started."""


class TurnRunningError(BackendError):
    """A second turn was asked for while one is running: interrupt it, or wait for its end."""


class RequestError(BackendError):
    """The engine refused a request, with a JSON-RPC error code."""

    def __init__(self, method: str, code: int, message: str) -> None:
        super().__init__(f"{method} was refused: {message} ({code})")
        self.code = code
        self.reason = message


class ConnectionEndedError(BackendError):
    """The engine closed its side, or stopped reading, before it answered."""


class RefusedError(BackendError):
    """The engine did not take a message, and is as it was."""


class InputError(BackendError):
    """A message cannot be sent as it is; nothing was sent."""


class LookError(BackendError):
    """The processes could not be looked at, or not in time."""
