"""Puts one file into a workspace, or reads one out of it: a program of its own, run as the account it belongs to.

`python -I -S files_as_account.py`: all that it is told comes by standard input, so that its rule of sudo allows this
one command line and no argument. A request is one line of JSON (`act`, `workspace`, and for `put` `name` and `most`,
for `get` `path` and `most`), the answer is one line too: `error` with a sentence, or for `put` `path` and for `get`
`name` and `size`, with the bytes of the file behind it. Without a request it does nothing, and has status 0.

It runs as the account and from inside the workspace: each folder below is opened by name from the descriptor of the one
above, and no symbolic link is followed. So there is no moment between a check and its use.

Standard library only: it starts in a bare interpreter, and imports nothing of Corral.
"""

from __future__ import annotations

import errno
import json
import os
import stat
import struct
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, BinaryIO

FOLDER, INBOX = ".corral", "inbox"
MOST_REQUEST = 1 << 16  # bytes of the line
MOST_COLLISIONS = 1000
MOST_SHOWN = 200  # characters of a path
PIECE = struct.Struct("!I")  # bytes of the piece that follows; 0 after the last one
PIECE_BYTES = 1 << 16

_FOLDER_FLAGS = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_CLOEXEC
_UNNAMED = getattr(os, "O_TMPFILE", 0)
_NO_UNNAMED = (errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT, errno.EINVAL)
_DESCRIPTORS = "/proc/self/fd"


class RefusedError(Exception):
    """The request cannot be done; the message is for the person."""


def main() -> int:
    """One request."""
    line = sys.stdin.buffer.readline(MOST_REQUEST)
    if not line:
        return 0
    os.umask(0o077)
    request = json.loads(line)
    try:
        workspace = _workspace(request["workspace"])
        if request["act"] == "put":
            _answer({"path": put(workspace, request, sys.stdin.buffer)})
        else:
            _send(*get(workspace, request))
    except RefusedError as error:
        _answer({"error": str(error)})
    except OSError as error:
        _answer({"error": error.strerror or str(error)})
    return 0


def put(workspace: int, request: dict[str, Any], source: BinaryIO) -> str:
    """Take a file from `source`, and give it a free name once it is whole; its path. Raises RefusedError, OSError."""
    name = request["name"]
    if not name or "/" in name or "\0" in name or name.startswith("."):
        raise RefusedError(f"{name!r} is not the name of a file")
    folder, path = _inbox(workspace)
    descriptor, hidden = _create(folder)
    try:
        _receive(source, descriptor, request["most"])
        os.fchmod(descriptor, 0o600)  # whatever a default access list of the folder says
        os.fsync(descriptor)
        source_folder = {"src_dir_fd": folder} if hidden else {}
        whole = hidden or f"{_DESCRIPTORS}/{descriptor}"
        for candidate in _numbered(name):
            try:
                os.link(whole, candidate, **source_folder, dst_dir_fd=folder, follow_symlinks=not hidden)
            except FileExistsError:
                continue
            return f"{path}/{candidate}"
        raise RefusedError(f"{MOST_COLLISIONS} files are called {name} there: remove some of {path}")
    finally:
        os.close(descriptor)
        if hidden:
            os.unlink(hidden, dir_fd=folder)


def get(workspace: int, request: dict[str, Any]) -> tuple[str, int, int]:
    """Open a file inside the workspace: its name, its size, and a descriptor. Raises RefusedError, OSError."""
    *folders, name = _components(workspace, request)
    folder = workspace
    for number, one in enumerate(folders):
        try:
            folder = os.open(one, _FOLDER_FLAGS | os.O_NOFOLLOW, dir_fd=folder)
        except OSError as error:
            raise RefusedError(_why_not(_shown("/".join(folders[: number + 1])), error)) from error
    path = _shown("/".join((*folders, name)))
    try:
        # Looked at first, because opening a device or a pipe can do something; and again, in case it was replaced.
        _check_regular(path, os.stat(name, dir_fd=folder, follow_symlinks=False))
        descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
        about = os.fstat(descriptor)
        _check_regular(path, about)
    except OSError as error:
        raise RefusedError(_why_not(path, error)) from error
    if about.st_size > request["most"]:
        raise RefusedError(f"{path} has {about.st_size:,} bytes, and at most {request['most']:,} are handed over")
    return name, about.st_size, descriptor


def _workspace(path: str) -> int:
    try:
        # Links on the way to it are followed: it is the folder that the conversation works in, whatever it is called.
        return os.open(path, _FOLDER_FLAGS)
    except OSError as error:
        raise RefusedError(f"the workspace {path} cannot be entered: {error.strerror}") from error


def _inbox(workspace: int) -> tuple[int, str]:
    """The folder for what is handed over, made if need be, and its path in the workspace."""
    # Where several accounts share a workspace, the first has the plain name.
    for name in (FOLDER, f"{FOLDER}-{os.geteuid()}"):
        top = _own_folder(workspace, name, name)
        if os.fstat(top).st_uid == os.geteuid():
            _keep_out_of_git(top)
            return _own_folder(top, INBOX, f"{name}/{INBOX}"), f"{name}/{INBOX}"
        os.close(top)
    raise RefusedError(f"{name} in the workspace belongs to another account: remove it")


def _own_folder(parent: int, name: str, path: str) -> int:
    try:
        os.mkdir(name, 0o700, dir_fd=parent)
    except FileExistsError:
        pass
    except OSError as error:
        raise RefusedError(f"{path} cannot be made in the workspace: {error.strerror}") from error
    try:
        return os.open(name, _FOLDER_FLAGS | os.O_NOFOLLOW, dir_fd=parent)
    except OSError as error:
        raise RefusedError(f"{path} in the workspace is a link or no folder: remove it ({error.strerror})") from error


def _keep_out_of_git(folder: int) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        descriptor = os.open(".gitignore", flags, 0o600, dir_fd=folder)
    except FileExistsError:
        return
    try:
        os.write(descriptor, b"*\n")
    finally:
        os.close(descriptor)


def _create(folder: int) -> tuple[int, str]:
    """A new file, and its hidden name; an empty one for a file without a name, which vanishes if this process dies."""
    if _UNNAMED and os.path.isdir(_DESCRIPTORS):
        try:
            return os.open(".", _UNNAMED | os.O_WRONLY | os.O_CLOEXEC, 0o600, dir_fd=folder), ""
        except OSError as error:
            if error.errno not in _NO_UNNAMED:  # of file systems that have no such files
                raise
    hidden = f".{os.urandom(8).hex()}.part"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.open(hidden, flags, 0o600, dir_fd=folder), hidden


def _receive(source: BinaryIO, descriptor: int, most: int) -> None:
    """Write the pieces. A source that ends before the last one was cut off: nothing of it is kept."""
    taken = 0
    while length := PIECE.unpack(_exactly(source, PIECE.size))[0]:
        taken += length
        if taken > most:
            raise RefusedError(f"it is larger than {most:,} bytes, and at most that is handed over")
        left = memoryview(_exactly(source, length))
        while left:
            left = left[os.write(descriptor, left) :]


def _exactly(source: BinaryIO, length: int) -> bytes:
    data = source.read(length)
    if len(data) < length:
        raise RefusedError("it was cut off before its end")
    return data


def _numbered(name: str) -> list[str]:
    stem, ending = os.path.splitext(name)
    return [name, *(f"{stem}-{number}{ending}" for number in range(2, MOST_COLLISIONS + 1))]


def _components(workspace: int, request: dict[str, Any]) -> list[str]:
    path = request["path"]
    if path.startswith("/"):
        # As the agent writes it: by the name that the conversation has for the workspace, or by its real one.
        for root in (request["workspace"], _real_path(workspace, request["workspace"])):
            if path.startswith(root.rstrip("/") + "/"):
                path = path[len(root.rstrip("/")) :]
                break
        else:
            raise RefusedError(f"{_shown(path)} is not in the workspace {request['workspace']}")
    found = [one for one in path.split("/") if one not in ("", ".")]
    if not found or ".." in found or "\0" in path:
        raise RefusedError(f"{_shown(path)!r} is not the path of a file in the workspace")
    return found


def _real_path(workspace: int, path: str) -> str:
    try:
        return os.readlink(f"{_DESCRIPTORS}/{workspace}")
    except OSError:
        return os.path.realpath(path)


def _shown(path: str) -> str:
    """The path for a sentence, whose reason must not be lost behind it."""
    return path if len(path) <= MOST_SHOWN else f"{path[:MOST_SHOWN]}…"


def _check_regular(path: str, about: os.stat_result) -> None:
    if stat.S_ISLNK(about.st_mode):
        raise RefusedError(f"{path} is a symbolic link, which is not followed: name the file itself")
    if not stat.S_ISREG(about.st_mode):
        raise RefusedError(f"{path} is not a regular file")


def _why_not(path: str, error: OSError) -> str:
    if error.errno == errno.ENOENT:
        return f"{path} does not exist in the workspace"
    if error.errno in (errno.ELOOP, errno.ENOTDIR):
        return f"{path} is a symbolic link, which is not followed, or not a folder: name the file itself"
    return f"{path} cannot be read: {error.strerror}"


def _answer(message: dict[str, Any]) -> None:
    sys.stdout.buffer.write(json.dumps(message).encode() + b"\n")
    sys.stdout.buffer.flush()


def _send(name: str, size: int, descriptor: int) -> None:
    """The file as it was when it was opened: of one that grows meanwhile, no more than its size then."""
    _answer({"name": name, "size": size})
    while size > 0 and (data := os.read(descriptor, min(size, PIECE_BYTES))):
        size -= len(data)
        sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    sys.exit(main())
