"""What a person attaches to a message: pictures as bytes, files by name."""

from __future__ import annotations

import base64
import os
import pwd
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from corral.backends.errors import InputError
from corral.process.bare import folders
from corral.workers import Workers

if TYPE_CHECKING:
    from corral.backends.backend import Input

MAX_IMAGE = 20 * 1024 * 1024  # bytes; the vendors' own bounds are lower, and their refusals say which
MAX_IMAGES = 20
MAX_ALL_IMAGES = 40 * 1024 * 1024  # bytes
MAX_TEXT = 8 * 1024 * 1024  # characters
READ_TIMEOUT = 30.0  # seconds for all pictures of a message
KINDS = {
    b"\x89PNG\r\n\x1a\n": "image/png",
    b"\xff\xd8\xff": "image/jpeg",
    b"GIF87a": "image/gif",
    b"GIF89a": "image/gif",
}


_READING = Workers("corral-pictures", usual=2, most=8)


@dataclass(frozen=True, slots=True)
class Image:
    """A picture as it is sent: `data` is base64."""

    media_type: str
    data: str


@dataclass(frozen=True, slots=True)
class Message:
    """A person's input, ready for any engine."""

    text: str
    images: tuple[Image, ...] = ()


async def read_input(message: Input, account: str | None = None) -> Message:
    """Read what is attached, in a thread. Raises InputError.

    account: whose agent gets it, if not this account's own. A picture that the account may not read is refused.
    """
    if not (message.text.strip() or message.images or message.files):
        raise InputError("the message is empty: say something, or attach something")
    if len(message.text) > MAX_TEXT:
        reason = f"the message has {len(message.text):,} characters, and {MAX_TEXT:,} are allowed"
        raise InputError(f"{reason}: put it into a file and attach that")
    if len(message.images) > MAX_IMAGES:
        raise InputError(f"the message has {len(message.images)} pictures, and {MAX_IMAGES} are allowed")
    images: tuple[Image, ...] = ()
    if message.images:
        try:
            images = await _READING.run(
                lambda: tuple(_read_image(path, account) for path in message.images), READ_TIMEOUT
            )
        except OSError as error:  # a TimeoutError too; those of the files are InputErrors already
            raise InputError(f"the pictures could not be read: {error}") from error
    if sum(len(image.data) for image in images) > MAX_ALL_IMAGES * 4 / 3:  # base64
        raise InputError(
            f"the pictures are larger than {MAX_ALL_IMAGES // 1024 // 1024} MiB together: send fewer at once"
        )
    return Message(_with_files(message), images)


def _with_files(message: Input) -> str:
    if not message.files:
        return message.text
    for path in message.files:
        try:
            str(path).encode()
        except UnicodeEncodeError:
            raise InputError(f"the name of the file {str(path)!r} is not UTF-8: rename it") from None
    names = "\n".join(f"- {path.absolute()}" for path in message.files)
    return f"{message.text}\n\nAttached files:\n{names}".lstrip()


def _read_image(path: Path, account: str | None) -> Image:
    try:
        with _opened(path, account) as file:
            data = file.read(MAX_IMAGE + 1)
    except (folders.ClosedError, folders.UnknownRightsError):
        raise InputError(f"the picture {path} cannot be read by {account}") from None
    except OSError as error:
        raise InputError(f"the picture {path} cannot be read: {error.strerror}") from error
    if len(data) > MAX_IMAGE:
        raise InputError(f"the picture {path} is larger than {MAX_IMAGE // 1024 // 1024} MiB: make it smaller")
    return Image(_media_type(path, data), base64.b64encode(data).decode())


def _opened(path: Path, account: str | None) -> BinaryIO:
    if account is not None:
        try:
            entry = pwd.getpwnam(account)
        except KeyError:
            raise InputError(f"the picture {path} cannot be read by {account}: there is no such account") from None
        return os.fdopen(folders.open_file(str(path.absolute()), entry), "rb")
    # Asked first: opening a pipe would wait until another process opens it for writing.
    if not path.is_file():
        raise InputError(f"the picture {path} is not a file")
    return path.open("rb")


def _media_type(path: Path, data: bytes) -> str:
    for start, kind in KINDS.items():
        if data.startswith(start):
            return kind
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    raise InputError(f"{path} is not a PNG, JPEG, GIF or WebP picture: attach it as a file")
