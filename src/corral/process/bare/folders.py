"""Entering folders and reading files only where a given account may: each step is checked by descriptor, links too.

The service changes the folder before sudo changes the account, so the kernel checks the service's rights and not the
person's. A path as text says nothing about that: a link in it leads past folders whose names the text does not hold.
"""

from __future__ import annotations

import errno
import os
import pwd
import stat
import struct
import sys
from collections.abc import Collection

from corral.process.bare.typed import NamedTuple

# O_DIRECTORY: with O_PATH alone an automount is not triggered. macOS has no O_PATH, and needs the right to read.
FLAGS = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
"""How a folder is opened to be entered."""
_FILE_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_MOST_LINKS = 40  # As the kernel: path_resolution(7).

# posix_acl_xattr.h: a version, then entries of tag, permissions, id.
_ACL = "system.posix_acl_access"
_ACL_ENTRY = struct.Struct("<HHI")
_ACL_HEADER = 4
_USER, _GROUP_OBJ, _GROUP, _MASK, _OTHER = 0x02, 0x04, 0x08, 0x10, 0x20
_READ, _SEARCH = 4, 1


class ClosedError(Exception):
    """The account may not go on at `place`: a folder that it may not enter, or a file that it may not read."""

    def __init__(self, place: str) -> None:
        super().__init__(place)
        self.place = place


class UnknownRightsError(Exception):
    """This process cannot tell whether the account may enter: it may not look itself, or not read who may."""


class _Account(NamedTuple):
    uid: int
    groups: Collection[int]


def why_not(error: Exception, path: str, account: str) -> str:
    """Why the account cannot work in the folder that `open_folder` did not open, and what to do."""
    if isinstance(error, ClosedError):
        return f"{account} may not enter {error.place}: give it the right to, or choose another folder than {path}"
    if isinstance(error, (FileNotFoundError, NotADirectoryError)):
        return f"{path} is not a folder: make it, or choose another"
    return f"the folder {path} cannot be entered: {error.strerror if isinstance(error, OSError) else error}"


def open_folder(path: str, entry: pwd.struct_passwd) -> int:
    """A descriptor of the folder at `path` (absolute), to which the account may go at each step; for fchdir.

    Resolves it as the kernel would for the account, one descriptor after the other: what was checked is what is
    opened, whatever is renamed or replaced meanwhile.

    Raises ClosedError, UnknownRightsError, and OSError (ENOENT, ENOTDIR, ELOOP) as chdir does.
    """
    account = _Account(entry.pw_uid, frozenset(os.getgrouplist(entry.pw_name, entry.pw_gid)))
    current, shown = os.open("/", FLAGS), "/"
    # The last "." is looked up in the folder itself: that takes the right to enter it, of both.
    names, links = f"{path}/.".split("/")[::-1], 0
    try:
        while names:
            name = names.pop()
            if not name:
                continue
            _check(account, current, shown)
            try:
                below = os.open(name, FLAGS, dir_fd=current)
            except OSError as error:
                if error.errno not in (errno.ENOTDIR, errno.ELOOP):
                    raise
                links += 1
                target = _target(account, name, current, shown)
                if links > _MOST_LINKS:
                    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP)) from None
                names += target.split("/")[::-1]
                if not target.startswith("/"):
                    continue
                below, name = os.open("/", FLAGS), "/"
            os.close(current)
            current, shown = below, os.path.normpath(os.path.join(shown, name))
    except PermissionError as error:
        os.close(current)
        raise UnknownRightsError(f"{shown}: {error.strerror}") from None
    except BaseException:
        os.close(current)
        raise
    return current


def open_file(path: str, entry: pwd.struct_passwd) -> int:
    """A descriptor of the regular file at `path` (absolute), for reading, if the account may read it too.

    Raises as `open_folder` does; IsADirectoryError, or OSError of EINVAL, for what is not a regular file.
    """
    account = _Account(entry.pw_uid, frozenset(os.getgrouplist(entry.pw_name, entry.pw_gid)))
    for _ in range(_MOST_LINKS):
        above, name = os.path.split(path)
        folder = open_folder(above, entry)
        try:
            kind = os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode
            if stat.S_ISLNK(kind):
                path = os.path.join(above, _target(account, name, folder, above))
                continue
            # Asked before it is opened: opening a pipe or a device can do something.
            if not stat.S_ISREG(kind):
                raise OSError(errno.EINVAL, "not a regular file")
            descriptor = os.open(name, _FILE_FLAGS, dir_fd=folder)
        except PermissionError as error:
            raise UnknownRightsError(f"{path}: {error.strerror}") from None
        finally:
            os.close(folder)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise OSError(errno.EINVAL, "not a regular file")
            if not _may(account, descriptor, _READ):
                raise ClosedError(path)
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor
    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))


def _target(account: _Account, name: str, folder: int, shown: str) -> str:
    """Where the link leads; raises OSError for what is not a link, ClosedError for one that must not be followed."""
    try:
        target = os.readlink(name, dir_fd=folder)
    except OSError as error:
        if error.errno == errno.EINVAL:
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR)) from None
        raise
    # As fs.protected_symlinks (proc_sys_fs(5)): in /tmp, nobody follows a link that somebody else has laid there.
    around = os.fstat(folder)
    if around.st_mode & stat.S_ISVTX and around.st_mode & stat.S_IWOTH:
        owner = os.stat(name, dir_fd=folder, follow_symlinks=False).st_uid
        if owner not in (account.uid, around.st_uid):
            raise ClosedError(os.path.join(shown, name))
    return target


def _check(account: _Account, folder: int, shown: str) -> None:
    if not _may(account, folder, _SEARCH):
        raise ClosedError(shown)


def _may(account: _Account, descriptor: int, right: int) -> bool:
    """As the kernel decides: acl(5), "Access check algorithm"."""
    about = os.fstat(descriptor)
    if account.uid == 0:
        return True
    if about.st_uid == account.uid:
        return bool(about.st_mode >> 6 & right)
    entries = _access_list(descriptor)
    if not entries:
        return bool(about.st_mode >> (3 if about.st_gid in account.groups else 0) & right)
    mask = next((rights for tag, rights, _ in entries if tag == _MASK), right)
    for tag, rights, number in entries:
        if tag == _USER and number == account.uid:
            return bool(rights & mask & right)
    of_groups = [
        rights
        for tag, rights, number in entries
        if (tag == _GROUP_OBJ and about.st_gid in account.groups) or (tag == _GROUP and number in account.groups)
    ]
    if of_groups:
        return any(rights & mask & right for rights in of_groups)
    return any(tag == _OTHER and rights & right for tag, rights, _ in entries)


def _access_list(descriptor: int) -> list[tuple[int, int, int]]:
    """The entries of its access list; none where the mode says all. Raises UnknownRightsError."""
    if sys.platform != "linux":
        return []
    there = f"/proc/self/fd/{descriptor}"  # The *xattr calls take no O_PATH descriptor.
    try:
        lists = [name for name in os.listxattr(there) if name.endswith("acl") or name == _ACL]
        value = os.getxattr(there, _ACL) if _ACL in lists else b""
    except OSError as error:
        if error.errno in (errno.ENOTSUP, errno.ENODATA):
            return []
        raise UnknownRightsError(f"its access list cannot be read: {error.strerror}") from None
    if other := [name for name in lists if name != _ACL]:
        raise UnknownRightsError(f"{other[0]} decides who may enter, and only the file server can read that")
    return [_ACL_ENTRY.unpack_from(value, place) for place in range(_ACL_HEADER, len(value), _ACL_ENTRY.size)]
