"""What one key alone does not tell: people who are confused with each other, accounts and files that the host lacks."""

from __future__ import annotations

import os
import pwd
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from corral.backends.errors import SecretError
from corral.backends.secret_files import read_secret
from corral.config.faults import person_key
from corral.config.models import SOCKET
from corral.values.written import shown

LONGEST_SOCKET = 103 if sys.platform == "darwin" else 107
"""Bytes of the path of a Unix socket."""

NOBODY = (
    "people: nobody may talk with an agent yet. Add a table for each person, for example these three lines: "
    '[[people]], name = "daniel", os_user = "daniel"'
)


def faults(document: Mapping[str, Any]) -> Iterator[str]:
    """Each fault as `KEY: what is wrong`. Values of a wrong type are passed over: they have their fault already."""
    yield from _long_socket(document)
    if document.get("people", []) == []:
        yield NOBODY
        return
    people = [
        (index, person) for index, person in enumerate(_of_type(list, document, "people")) if isinstance(person, dict)
    ]
    yield from _twice(people, "name")
    yield from _twice(people, "telegram")
    for index, person in people:
        for fault in _of_person(person):
            yield f"{person_key(document, index)}.{fault}"


def _twice(people: list[tuple[int, dict[str, Any]]], key: str) -> Iterator[str]:
    first: dict[object, int] = {}
    for index, person in people:
        value = person.get(key)
        if not isinstance(value, str | int) or isinstance(value, bool):
            continue
        # Names that differ in their case only are confused by readers, and by some file systems.
        same = value.casefold() if isinstance(value, str) else value
        if same in first:
            other = f"people[{first[same] + 1}]"
            yield f"people[{index + 1}].{key}: {shown(value)} is taken by {other} already: each person needs another"
        else:
            first[same] = index


def _of_person(person: dict[str, Any]) -> Iterator[str]:
    user = person.get("os_user")
    if isinstance(user, str) and user.strip() and not _is_account(user):
        yield f"os_user: {shown(user)} is no account of this machine: make it, or name another"
    yield from _variables_given_twice(person)
    for variable, file in _of_type(dict, person, "secrets").items():
        if isinstance(file, str) and Path(file).is_absolute() and "\0" not in file:
            try:
                read_secret(Path(file))
            except SecretError as error:
                yield f"secrets.{variable}: {error}"


def _variables_given_twice(person: dict[str, Any]) -> Iterator[str]:
    seen: dict[str, str] = {}
    for key in ("env", "secrets", "keep_env"):
        for variable in _of_type(list if key == "keep_env" else dict, person, key):
            if isinstance(variable, str) and variable in seen:
                yield f"{key}: {variable} is given by {seen[variable]} already: keep one of the two"
            elif isinstance(variable, str):
                seen[variable] = key


def _long_socket(document: Mapping[str, Any]) -> Iterator[str]:
    service = _of_type(dict, document, "service")
    state_dir, socket = service.get("state_dir"), service.get("socket")
    key, path = ("socket", socket) if socket is not None else ("state_dir", f"{state_dir}/{SOCKET}")
    if isinstance(path, str) and len(os.fsencode(path)) > LONGEST_SOCKET:
        hint = "" if key == "socket" else ", or name another socket with the key socket"
        yield f"service.{key}: {shown(path)} is too long for a Unix socket ({LONGEST_SOCKET} bytes): shorten it{hint}"


def _is_account(name: str) -> bool:
    try:
        pwd.getpwnam(name)
    except (KeyError, ValueError):
        return False
    return True


def _of_type(kind: type[Any], table: Mapping[str, Any], key: str) -> Any:
    value = table.get(key)
    return value if isinstance(value, kind) else kind()
