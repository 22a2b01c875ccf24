"""Which variables reach a command, and how: by exec under this account, through sudo under another."""

from __future__ import annotations

from collections.abc import Mapping

from corral.process.bare.typed import NamedTuple

BARE_NAMES = ("PATH", "LANG", "LC_ALL", "LC_CTYPE", "TERM", "TZ")
"""What the reaper and sudo need of this process's own environment to work; they get nothing else of it."""

_WITHHELD = ("TMPDIR",)
_LOADER_PREFIXES = ("LD_", "DYLD_")


class Variables(NamedTuple):
    """The variables that a job was given. Which of them count depends on the command's account."""

    own: Mapping[str, str]
    """The supervisor's own: all of them where no others were given, else those of BARE_NAMES."""
    env: Mapping[str, str] | None
    kept: Mapping[str, str] | None


class Carried(NamedTuple):
    """How the variables travel."""

    exported: Mapping[str, str]
    """The environment of the exec: the command's, or that of the sudo above it."""
    preserve: tuple[str, ...] = ()
    """Names that sudo is asked to pass on (--preserve-env), which needs SETENV in its rule."""
    assign: Mapping[str, str] = {}
    """Variables that sudo is given as arguments (NAME=value): everybody can read them there."""


def given(own: Mapping[str, str], env: Mapping[str, str] | None, kept: Mapping[str, str] | None) -> Variables:
    """The variables of a start request: no more of this process's own than can be needed."""
    whole = env is None and kept is None
    return Variables({name: own[name] for name in own if whole or name in BARE_NAMES}, env, kept)


def carry_by_exec(variables: Variables) -> Carried:
    """To a command of this account: what was given, or all of the supervisor's where nothing was."""
    if variables.env is None and variables.kept is None:
        return Carried(variables.own)
    return Carried({**(variables.kept or {}), **(variables.env or {})})


def carry_by_sudo(variables: Variables, *, assigns: bool = True) -> Carried:
    """To a command of another account: sudo makes its environment, and only what sudo can carry gets there.

    - Of the supervisor's own nothing but BARE_NAMES: the rest can be secrets of the service's.
    - `env` by name: exported to sudo, which is asked to pass it on. Its values never appear in an argument list.
    - `kept` by exporting it to sudo alone, which hands on what its rules keep (env_keep) and drops the rest.
    - Nothing of `kept` that the dynamic loader obeys: below a service that is root it would obey it in sudo itself,
      and for any other it takes it out of a set-uid program's environment anyway (ld.so(8), secure-execution mode).
    - TMPDIR of `kept` as an argument: glibc takes it out of every set-uid program's environment, so that no sudo can
      keep it. A folder's name is not a secret. assigns: False where the rule did not let it through. In `env` it stays
      in the environment, whose values are never arguments.
    """
    env = variables.env or {}
    kept = {name: value for name, value in (variables.kept or {}).items() if not name.startswith(_LOADER_PREFIXES)}
    assign = {name: kept.pop(name) for name in _WITHHELD if name in kept and name not in env}
    bare = {name: variables.own[name] for name in BARE_NAMES if name in variables.own}
    return Carried({**bare, **kept, **env}, tuple(sorted(env)), assign if assigns else {})
