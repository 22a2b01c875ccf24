"""What the reaper needs of `typing`, without its cost.

Importing typing takes a bare interpreter 0.8 MB and a fifth of its start-up (re, contextlib and itself), and there is
one reaper a job. To a type checker these are typing's own; at run time they are the little that is used of them.
"""

from __future__ import annotations

TYPE_CHECKING = False

if TYPE_CHECKING:
    from typing import Any, NamedTuple, NoReturn, Protocol
else:
    from collections import namedtuple

    class _NamedTupleMeta(type):
        """Makes `class Point(NamedTuple): x: int = 0` a namedtuple, as typing.NamedTuple does."""

        def __new__(cls, name, bases, body):
            if not bases:
                return super().__new__(cls, name, bases, body)
            fields = list(body.get("__annotations__", ()))
            made = namedtuple(  # noqa: PYI024
                name, fields, defaults=[body[field] for field in fields if field in body], module=body["__module__"]
            )
            for key, value in body.items():
                if key not in fields and key not in ("__slots__", "__annotations__", "__classcell__"):
                    setattr(made, key, value)
            return made

    class NamedTuple(metaclass=_NamedTupleMeta):
        """A frozen record with named fields."""

    class Protocol:
        """A seam; it is only ever checked before the program runs."""

    Any = NoReturn = object

__all__ = ["Any", "NamedTuple", "NoReturn", "Protocol"]
