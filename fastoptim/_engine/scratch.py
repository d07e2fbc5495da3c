"""The scratch file: a file for the state of one optimizer, while it lives.

What is in it is of use to the process that made it, and to nobody else: it is no checkpoint, and
says so in its first block. It is locked, and removed when it is closed. Room is reserved before
anything is written, so that a full disk is an error before the first step. Arrays are unknown here.
"""

from __future__ import annotations

import errno
import mmap
import os
import stat
import sys
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from .ring import punch

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

BLOCK = 4096  # bytes: what direct I/O begins at and ends with a multiple of
WINDOW = 1 << 20  # bytes that are read at once where fewer are asked for
ZEROS = 1 << 22  # bytes that are written at once where the system cannot reserve room otherwise
MAGIC = b"fastoptim scratch, version "
TEXT = MAGIC + (
    b"1\n\nThe state of an optimizer that runs now, as long as it runs. It is no checkpoint, and\n"
    b"nothing can be loaded from it. If the process is gone, this file may be removed.\n"
)
DIRECT = getattr(os, "O_DIRECT", 0)  # Linux and FreeBSD have it


class Scratch:
    """A scratch file.

    Parameters
    ----------
    path : str
        Where it is made. What an optimizer that is gone has left there is replaced.

    Attributes
    ----------
    path : str
        The same, from the root.
    fd : int
        The open file.
    direct : bool
        Whether reads and writes go past the page cache, and must begin and end at blocks.

    Raises
    ------
    ValueError
        If there is something else at that path.
    RuntimeError
        If another optimizer has the file, here or in another process.
    OSError
        If the system refuses.
    """

    def __init__(self, path: str) -> None:
        self.path = os.path.realpath(path)
        self.fault: str | None = None  # why the state in it is of no use any more
        self._taken: list[tuple[int, int]] = [(0, BLOCK)]  # where what is in use begins and ends
        self._end = BLOCK  # of the file
        self._has_holes = True  # whether there are zeros where nothing is in use
        self._pid = os.getpid()
        with self._blamed():
            fd, made = _opened(self.path)
        owned = None  # the path, once what is there is ours to remove
        try:
            _lock(fd, self.path)
            if not made:
                _check_scratch(fd, self.path)
            owned = self.path
            with self._blamed():
                os.ftruncate(fd, 0)
                _write_header(fd)
                self.direct = _goes_past_the_cache(fd)
        except BaseException:
            _close(fd, owned, self._pid)
            raise
        self.fd = fd
        # Also at the end of the process, but not in a child, which would take it from its parent.
        self.close = weakref.finalize(self, _close, fd, self.path, self._pid)

    def reserve(self, size: int) -> int:
        """Return where so many bytes, whole blocks of zeros, can be kept from now on."""
        at = self._place_for(size)
        try:
            with self._blamed(size):
                _reserve(self.fd, at, size, at >= self._end or self._has_holes)
        except BaseException:
            with suppress(OSError):
                os.ftruncate(self.fd, self._end)
            raise
        self._taken = sorted([*self._taken, (at, at + size)])
        self._end = max(self._end, at + size)
        return at

    def release(self, at: int, size: int) -> None:
        """Let others have the room of so many bytes."""
        if os.getpid() != self._pid or not self.close.alive:
            return
        self._taken.remove((at, at + size))
        self._end = max(end for _, end in self._taken)
        with suppress(OSError):  # then the room is not free before the file is closed
            os.ftruncate(self.fd, self._end)
        if at + size <= self._end and size > 0:
            self._has_holes = punch(self.fd, at, size)

    def lend(self, at: int, size: int) -> None:
        """Let the file system have the room of bytes that are all zeros, which they stay."""
        if size > 0:
            self._has_holes = punch(self.fd, at, size)

    def take_back(self, at: int, size: int) -> None:
        """Reserve the room of bytes again that was lent."""
        try:
            with self._blamed(size):
                _reserve(self.fd, at, size, self._has_holes)
        except OSError as error:
            self.fail(f"{error.strerror} ([Errno {error.errno}])")
            raise

    def read(self, at: int, size: int, limit: int) -> memoryview:
        """Return some bytes, and as many behind them as are read along with them, up to a limit."""
        self.check()
        first = at - at % BLOCK
        end = min(max(at + size, first + WINDOW), limit)
        room = mmap.mmap(-1, -(-(end - first) // BLOCK) * BLOCK)  # begins at a page, as it must
        with self._blamed():
            _read_into(self.fd, room, first)
        return memoryview(room)[at - first : end - first]

    def fail(self, fault: str) -> None:
        """Give up the file: what is in it is of no use any more."""
        if self.fault is None:
            self.fault = fault
            self.close()

    def failed(self, number: int, text: str) -> OSError:
        """Give up the file after an error of the system, and return what to raise."""
        self.fail(text)
        return OSError(number, f"state_path: {text}", self.path)

    def check(self) -> None:
        """Raise if nobody may use the file any more, or not here."""
        if self.fault is not None:
            raise RuntimeError(
                f"state_path: {self.path}: {self.fault}; parameters and state may be partly those "
                "of the step before: make another optimizer, and load a checkpoint into it"
            )
        if os.getpid() != self._pid:
            raise RuntimeError(
                f"state_path: {self.path}: expected the process that made the optimizer, found a "
                "child of fork(), which would write into the state of its parent: make an "
                "optimizer with another state_path in the child"
            )

    def _place_for(self, size: int) -> int:
        """Return where the first gap of so many bytes begins."""
        at = 0
        for begin, end in self._taken:
            if begin - at >= size:
                return at
            at = end
        return at

    @contextmanager
    def _blamed(self, size: int = 0) -> Iterator[None]:
        """Put the path into what the system says, and how many bytes were to be had."""
        try:
            yield
        except OSError as error:
            found = ""
            if size and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                found = f": state_path: expected room for {size:,} bytes of state"
                with suppress(OSError, AttributeError):  # Windows has no such call
                    free = os.statvfs(os.path.dirname(self.path))
                    found += f", found {free.f_bavail * free.f_frsize:,} free"
            raise OSError(error.errno, f"{error.strerror}{found}", self.path) from error


def _opened(path: str) -> tuple[int, bool]:
    """Open a file, and tell whether it was made now; refuse what is no file before it is opened."""
    flags = os.O_RDWR | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise ValueError(f"state_path: {path}: expected a file, found a folder or a device")
        return os.open(path, flags), False
    except FileNotFoundError:
        try:
            return os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o600), True
        except FileExistsError:
            return os.open(path, flags), False  # somebody was faster


def _lock(fd: int, path: str) -> None:
    """Lock a file; the lock ends with the process, however that ends."""
    try:
        if sys.platform == "win32":
            os.lseek(fd, 1 << 40, os.SEEK_SET)  # what is locked cannot be read by others
            msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        same = os.path.exists(path) and os.path.samestat(os.stat(path), os.fstat(fd))
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EAGAIN, errno.EDEADLK):
            raise OSError(error.errno, f"{error.strerror}: cannot lock the file", path) from error
        same = False
    if not same:  # it is locked, or its owner has just removed it
        raise RuntimeError(
            f"state_path: {path}: expected a file that no optimizer has, found one that another "
            "optimizer uses, here or in another process: give each a path of its own, or del the "
            "other one first"
        )


def _check_scratch(fd: int, path: str) -> None:
    """Raise unless a file is scratch that somebody has left."""
    os.lseek(fd, 0, os.SEEK_SET)
    if os.read(fd, len(MAGIC)) != MAGIC:
        raise ValueError(
            f"state_path: {path}: expected no file, or scratch of fastoptim, found another file: "
            "choose another path, or remove the file (a checkpoint is loaded by load)"
        )


def _write_header(fd: int) -> None:
    os.lseek(fd, 0, os.SEEK_SET)
    left = memoryview(TEXT.ljust(BLOCK, b"\0"))
    while left:
        left = left[os.write(fd, left) :]


def _goes_past_the_cache(fd: int) -> bool:
    """Have reads and writes go past the page cache, if the file system can do so."""
    if not DIRECT:
        return False
    flags = fcntl.fcntl(fd, fcntl.F_GETFL)
    room = mmap.mmap(-1, BLOCK)
    try:
        os.fsync(fd)  # the header went through the cache
        fcntl.fcntl(fd, fcntl.F_SETFL, flags | DIRECT)
        if os.preadv(fd, [room], 0) == BLOCK and os.pwritev(fd, [room], 0) == BLOCK:
            return True
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
            raise
    fcntl.fcntl(fd, fcntl.F_SETFL, flags)
    return False


def _reserve(fd: int, at: int, size: int, is_hole: bool) -> None:
    """Have the system give room for some bytes, zeros all of them, in a hole or elsewhere."""
    if size == 0:
        return
    if not is_hole or not hasattr(os, "posix_fallocate"):
        _write_zeros(fd, at, size)
        return
    try:
        os.posix_fallocate(fd, at, size)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS):
            raise
        _write_zeros(fd, at, size)


def _write_zeros(fd: int, at: int, size: int) -> None:
    zeros = memoryview(mmap.mmap(-1, min(size, ZEROS)))
    os.lseek(fd, at, os.SEEK_SET)
    while size > 0:
        size -= os.write(fd, zeros[: min(size, len(zeros))])


def _read_into(fd: int, room: mmap.mmap, at: int) -> None:
    """Read as many bytes as there is room for; behind the end of the file there are none."""
    view = memoryview(room)
    done = 0
    while done < len(view):
        if sys.platform == "win32":
            os.lseek(fd, at + done, os.SEEK_SET)
            data = os.read(fd, len(view) - done)
            n = len(data)
            view[done : done + n] = data
        else:
            n = os.preadv(fd, [view[done:]], at + done)
        n -= n % BLOCK
        if n == 0:
            raise OSError(errno.EIO, "the file ends too soon: somebody has cut it short")
        done += n


def _close(fd: int, path: str | None, pid: int) -> None:
    """Close a file, and remove it if it is that of this process."""
    is_ours = False
    with suppress(OSError):
        is_ours = path is not None and os.path.samestat(os.stat(path), os.fstat(fd))
    is_ours = is_ours and pid == os.getpid()
    if is_ours and sys.platform != "win32":  # while it is locked, so that nobody else takes it up
        with suppress(OSError):
            os.unlink(str(path))
    with suppress(OSError):
        os.close(fd)
    if is_ours and sys.platform == "win32":  # which cannot remove an open file
        with suppress(OSError):
            os.unlink(str(path))
