"""Machine code on disk, for other processes: files named by the digest of what they were made from.

A file is believed if it lies in a folder that nobody else can write to, and holds the digest of its
own name and content: so neither a file that was cut short nor one of another program is run. Where
there is no such folder, nothing is kept. What is in the folder may be deleted at any time.
"""

from __future__ import annotations

import hashlib
import os
import stat
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import BinaryIO

from .._files import replace_file
from .._kinds import environment

DIGEST = hashlib.sha256
DIGEST_BYTES = 32


def kept(source: str, make: Callable[[], bytes]) -> bytes:
    """Return what is on disk for a source, or else what is made now, which is put there."""
    folder = cache_folder()
    name = DIGEST(source.encode()).digest()
    path = folder / f"{name.hex()}.o" if folder else None
    found = path and _read(path, name)
    if found:
        return found
    made = make()
    if path:
        with suppress(OSError, ValueError):  # the disk may be full
            replace_file(os.fspath(path), partial(_write, content=_signed(name, made)))
    return made


def cache_folder() -> Path | None:
    """Return the folder of the files, made if it was missing; None without a safe one."""
    given = environment("FASTOPTIM_CACHE_DIR")
    try:
        folder = Path(given) if given else _usual_folder()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return folder if _is_safe(folder) else None
    except (OSError, RuntimeError):  # it cannot be made, or there is no home
        return None


def _usual_folder() -> Path:
    """Return the folder in which programs of this system keep what they can make again."""
    if sys.platform == "win32":
        local = environment("LOCALAPPDATA")
        return Path(local) / "fastoptim" if local else Path.home() / "fastoptim"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "fastoptim"
    shared = environment("XDG_CACHE_HOME")
    return Path(shared or Path.home() / ".cache") / "fastoptim"


def _is_safe(folder: Path) -> bool:
    """Tell whether nobody but the user of this process can write to a folder."""
    if os.name == "nt":  # where the folders of users are theirs alone
        return True
    found = folder.stat()
    return found.st_uid == os.geteuid() and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _signed(name: bytes, content: bytes) -> bytes:
    return DIGEST(name + content).digest() + content


def _write(file: BinaryIO, content: bytes) -> None:
    file.write(content)


def _read(path: Path, name: bytes) -> bytes | None:
    """Return what is kept in a file, None if it is not as it was written."""
    try:
        found = path.read_bytes()
    except OSError:
        return None
    content = found[DIGEST_BYTES:]
    return content if content and found == _signed(name, content) else None
