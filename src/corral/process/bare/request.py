"""The start request: what a supervisor asks of its reaper, as one record on both sides of the lifeline."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from corral.process.bare.ending import Ladder
from corral.process.bare.environment import Variables
from corral.process.bare.errors import StartError
from corral.process.bare.table import Identity
from corral.process.bare.typed import Any, NamedTuple


class Command(NamedTuple):
    """What to run."""

    argv: tuple[str, ...]
    user: str | None
    """The account to run as; None for this one."""
    variables: Variables
    cwd: str | None
    """The folder that was asked for."""
    here: str
    """The supervisor's folder, which is used where none was asked for."""
    limits: Mapping[str, int] = {}
    """See `limits.NAMES`."""


class StartRequest(NamedTuple):
    """A command, and how it is to be held, recorded and ended."""

    job_id: str
    supervisor: Identity
    command: Command
    ladder: Ladder
    tracker: str
    """A name of `containment.NAMES`."""
    mark: int
    """See `mark`; 0 for none."""
    state_dir: str
    report_file: str | None
    label: str

    def encode(self) -> dict[str, Any]:
        """The request as the JSON object that `decode` takes."""
        command = self.command._asdict()
        return {
            **self._asdict(),
            "ladder": self.ladder._asdict(),
            "command": {**command, "variables": self.command.variables._asdict()},
        }

    @classmethod
    def decode(cls, message: Mapping[str, Any]) -> StartRequest:
        """The request in a message. Raises StartError of kind `invalid`, which names the field and not its value."""
        fields = _checked(message, "", _REQUEST)
        command = _checked(fields["command"], "command.", _COMMAND)
        variables = _checked(command["variables"], "command.variables.", _VARIABLES)
        ladder = _checked(fields["ladder"], "ladder.", _LADDER)
        pid, start_time = fields["supervisor"]
        return cls(
            **{
                **fields,
                "supervisor": (pid, start_time),
                "ladder": Ladder(float(ladder["grace"]), float(ladder["kill"])),
                "command": Command(
                    **{**command, "argv": tuple(command["argv"]), "variables": Variables(**variables)},
                ),
            }
        )


def _checked(message: object, where: str, fits: Mapping[str, Callable[[Any], bool]]) -> dict[str, Any]:
    """The fields of a message. Each must be there and fit, and there must be no other."""
    found = message if isinstance(message, dict) else {}
    wrong = [name for name in fits if name not in found or not fits[name](found[name])]
    wrong += [name for name in found if name not in fits]
    if wrong:
        # Both sides are one program. What can differ is its version, in a service that was upgraded while it ran.
        raise StartError(
            "invalid",
            f"the start request's {where}{wrong[0]} does not fit this version of corral: restart the service, so that "
            "it and the reapers that it starts are of one version",
        )
    return {name: found[name] for name in fits}


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_text_or_none(value: object) -> bool:
    return value is None or isinstance(value, str)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value >= 0


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_identity(value: object) -> bool:
    return (
        isinstance(value, (list, tuple)) and len(value) == len(("pid", "start_time")) and all(map(_is_integer, value))
    )


def _are_words(value: object) -> bool:
    return isinstance(value, (list, tuple)) and all(map(_is_text, value))


def _are_variables(value: object) -> bool:
    return isinstance(value, dict) and all(map(_is_text, value.values()))


def _are_variables_or_none(value: object) -> bool:
    return value is None or _are_variables(value)


def _are_limits(value: object) -> bool:
    return isinstance(value, dict) and all(map(_is_integer, value.values()))


def _is_object(value: object) -> bool:
    return isinstance(value, dict)


_REQUEST = {
    "job_id": _is_text,
    "supervisor": _is_identity,
    "command": _is_object,
    "ladder": _is_object,
    "tracker": _is_text,
    "mark": _is_integer,
    "state_dir": _is_text,
    "report_file": _is_text_or_none,
    "label": _is_text,
}
_COMMAND = {
    "argv": _are_words,
    "user": _is_text_or_none,
    "variables": _is_object,
    "cwd": _is_text_or_none,
    "here": _is_text,
    "limits": _are_limits,
}
_VARIABLES = {"own": _are_variables, "env": _are_variables_or_none, "kept": _are_variables_or_none}
_LADDER = {"grace": _is_number, "kill": _is_number}
