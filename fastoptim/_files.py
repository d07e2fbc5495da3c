"""Replacing a file: in one moment, by one that has its owner and its permissions.

What is in the file is of no matter here.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import BinaryIO

ACL = "system.posix_acl_access"  # the attribute of a file that holds its access control list
NO_FILE = "expected a file, found a folder or a device"


def replace_file(path: str, fill: Callable[[BinaryIO], None]) -> None:
    """Replace the file at path by what fill writes; if that fails, leave all as it was."""
    target = os.path.realpath(path) if os.path.islink(path) else path
    folder = os.path.dirname(target) or os.curdir
    temporary = os.path.join(folder, f".fastoptim-{secrets.token_hex(8)}")
    old = _status_of(target)
    # Nobody else may open what is to replace a file until it has the permissions of that file.
    mode = 0o666 if old is None else 0o600
    try:
        with _synced(folder):
            with open(temporary, "xb", opener=partial(os.open, mode=mode)) as file:
                if old is not None:
                    _take_permissions(file.fileno(), target, old)
                fill(file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, target)
    except BaseException as error:
        with suppress(OSError):
            os.unlink(temporary)
        if isinstance(error, OSError):  # whose message has another path than the caller's, or none
            raise OSError(error.errno, error.strerror, path) from error
        raise


def _status_of(path: str) -> os.stat_result | None:
    """Return the status of the file that is to be replaced, if there is one."""
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(found.st_mode):
        raise ValueError(f"{path}: {NO_FILE}")
    return found


def _take_permissions(descriptor: int, target: str, old: os.stat_result) -> None:
    """Give a new file the owner, the group and the permissions of the one that it replaces.

    Where the system refuses, the file belongs to whom writes it. Then nobody but the new owner gets
    a permission that he had not before: a new group and all others get what both the old group and
    all others had.
    """
    if sys.platform == "win32":  # where a file without the usual permissions cannot be replaced
        return
    for owner in (old.st_uid, -1):  # -1 leaves the owner, whom only root may change
        new = os.fstat(descriptor)
        if (new.st_uid, new.st_gid) != (old.st_uid, old.st_gid):
            with suppress(OSError):
                os.fchown(descriptor, owner, old.st_gid)
    new = os.fstat(descriptor)
    mode = stat.S_IMODE(old.st_mode)
    if (new.st_uid, new.st_gid) != (old.st_uid, old.st_gid):
        mode &= ~(stat.S_ISUID | stat.S_ISGID)
    if new.st_gid != old.st_gid:
        both = mode >> 3 & mode & 0o7
        mode = mode & ~0o77 | both << 3 | both
    if not _took_acl(descriptor, target, new.st_gid == old.st_gid):
        mode &= ~0o77
    os.fchmod(descriptor, mode)


def _took_acl(descriptor: int, target: str, may: bool) -> bool:
    """Give a new file the access control list of the one that it replaces, or no list.

    Tell whether the bits of the mode mean for the new file what they meant for the old one. With a
    list the bits of the group are the most that it grants to anybody, and it may refuse to some
    what all others have; so without it they would grant more.
    """
    if sys.platform != "linux":
        return True
    with suppress(OSError):  # whatever it is: the list counts as lost then
        acl = _acl_of(target)
        if acl is not None and may:
            os.setxattr(descriptor, ACL, acl)
        elif _acl_of(descriptor) is not None:  # a new file may get one from its folder
            os.removexattr(descriptor, ACL)
        return acl is None or may
    return False


def _acl_of(file: str | int) -> bytes | None:
    """Return the access control list of a file, if it has one."""
    if sys.platform != "linux":
        return None
    try:
        return os.getxattr(file, ACL)
    except OSError as error:
        if error.errno in (errno.ENODATA, errno.ENOTSUP):  # a file or a file system without any
            return None
        raise


@contextmanager
def _synced(folder: str) -> Iterator[None]:
    """Make sure, when the body is done, that the disk knows which files are in a folder."""
    if os.name == "nt":  # Windows has no such call
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        yield
        try:
            os.fsync(descriptor)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some file systems cannot
                raise
    finally:
        os.close(descriptor)
