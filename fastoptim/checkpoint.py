"""Checkpoints: the file that `Optimizer.save` writes and `Optimizer.load` reads.

Every safetensors reader reads it. Its arrays are named ``m/w`` for the state m of the parameter w,
and ``p/w`` for the parameter itself. Its metadata has, under ``fastoptim``, the rest of
`state_dict` as JSON. Its last array, ``sha256``, is the SHA-256 of that JSON, of a list of the
name, type and shape of every other array, and of their bytes: nothing else tells a flipped bit from
a number.

The library checks and reads such files. It does not write this one, because it would copy all
arrays that are not in C order, give the file the mode 0600, and lose the system's error numbers.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import secrets
import stat
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, BinaryIO

import numpy as np

from ._kinds import entry, expect, shown
from ._loading import matched

__all__ = ["blaming", "path_of", "read", "read_without_data", "write"]  # what optimizers call

VERSION = 1  # of the layout of the file
METADATA = "fastoptim"
PARAM = "p"  # beside the names of state arrays, which are never p
ACL = "system.posix_acl_access"  # the attribute of a file that holds its access control list
NO_FILE = "expected a file, found a folder or a device"
DIGEST = ("sha256", "U8", [32])  # as one byte needs no alignment, safetensors has it last, too
CHUNK = 1 << 17  # elements that are hashed and written at a time
LONGEST_HEADER = 100_000_000  # bytes, of any safetensors file
SHORTEST_ENTRY = len('"m/":{"dtype":"F32","shape":[],"data_offsets":[0,0]},')
ROOM_OF_GROUP = 1 << 14  # bytes of a header for the hyperparameters of a param group
ROOM_OF_REST = 1 << 20  # and for whatever a file of another optimizer has, so that it can be named

Spec = tuple[str, str, list[int]]  # the name, the type and the shape of an array in the file


def __dir__() -> list[str]:
    return __all__


def path_of(path: Any) -> str:
    """Return a path as a string."""
    try:
        return os.fsdecode(path)
    except TypeError:
        raise TypeError(f"path: expected a path, found {type(path).__name__}") from None


@contextmanager
def blaming(path: str) -> Iterator[None]:
    """Put the path before what is wrong with the file."""
    try:
        yield
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error


def write(
    path: str,
    saved: Mapping[str, Any],
    params: Mapping[Any, Any],
    prove: Callable[[str], None],
) -> None:
    """Write what `state_dict` returned, and these parameters by their keys.

    Before the new file replaces the old one, `prove` is given its path, and raises what loading it
    would raise.
    """
    _library()
    state = saved["state"]
    count = len(params) + sum(len(item) - 1 for item in state.values())
    _check_length(count, SHORTEST_ENTRY * count)  # at once, where naming them all takes a while
    arrays = _by_name(state, params)
    specs = sorted(map(_spec, arrays, arrays.values()), key=_place)
    rest = {name: value for name, value in saved.items() if name != "state"}
    steps = [item["step"] for item in state.values()]
    text = json.dumps({"version": VERSION, **rest, "steps": steps})
    header = _header(text, specs)

    def fill(file: BinaryIO) -> None:
        file.write(header)
        digest = _digest(text, specs)
        for name, _, _ in specs:
            for part in _bytes_of(arrays[name]):
                digest.update(part)
                file.write(part)
        file.write(digest.digest())
        file.flush()
        with blaming(path):
            prove(file.name)

    _replace(path, fill)


def read(
    path: str, like: Mapping[str, Any], params: Mapping[Any, Any], states: Sequence[str]
) -> tuple[dict[str, Any], list[Any]]:
    """Return what `state_dict` returned, and the values of the parameters, or none.

    What `state_dict` would return now, the parameters by their keys and the names that their state
    arrays may have are what the file must fit. Nothing larger than these is read into memory.
    """
    return _read(path, like, params, states, _arrays_in)


def read_without_data(
    path: str, like: Mapping[str, Any], params: Mapping[Any, Any], states: Sequence[str]
) -> dict[str, Any]:
    """Return what `state_dict` returned, with arrays of zeros that take no memory.

    All that `read` checks is checked, but for the hash.
    """
    saved, _ = _read(path, like, params, states, _stand_ins)
    return saved


def _read(
    path: str,
    like: Mapping[str, Any],
    params: Mapping[Any, Any],
    states: Sequence[str],
    arrays_of: Callable[[Any, str, Sequence[Spec]], dict[str, Any]],
) -> tuple[dict[str, Any], list[Any]]:
    places = {
        f"{name}/{text}": (key, name)
        for key in params
        for text in (_text(key),)
        for name in (PARAM, *states)
    }
    expected = {place: _spec(place, params[key]) for place, (key, _) in places.items()}
    wanted = [group["params"] for group in like["param_groups"]]
    with _opened(path, _room(expected.values(), len(wanted))) as file:
        text, rest = _rest_of(file)
        expect("optimizer", like["optimizer"], rest.get("optimizer"))
        steps = _steps_in(rest, wanted)
        arrays = arrays_of(file, text, _specs_in(file, expected))
    state: dict[Any, dict[str, Any]] = {key: {"step": steps[key]} for key in params}
    for place, (key, name) in places.items():
        if place in arrays:
            state[key][name] = arrays[place]
    values = [item.pop(PARAM) for item in state.values() if PARAM in item]
    if values and len(values) < len(params):
        raise ValueError(f"expected {len(params)} parameters or none, found {len(values)}")
    return {**rest, "state": state}, values


def _library() -> Any:
    try:
        import safetensors
    except ModuleNotFoundError as error:
        found, name = "which is not installed", error.name
    else:
        if tuple(map(int, safetensors.__version__.split(".")[:2])) >= (0, 8):
            return safetensors
        found, name = f"found {safetensors.__version__}", "safetensors"
    raise ImportError(
        f"checkpoints need safetensors 0.8 or newer, {found}: "
        'python -m pip install "fastoptim[checkpoint]"',
        name=name,
    )


def _by_name(
    state: Mapping[Any, Mapping[str, Any]], params: Mapping[Any, Any]
) -> dict[str, np.ndarray[Any, Any]]:
    """Return all arrays by their names in the file."""
    found = {}
    for key, item in state.items():
        arrays = {name: array for name, array in item.items() if name != "step"}
        if key in params:
            arrays[PARAM] = params[key]
        text = _text(key)
        for name, array in arrays.items():
            label = f"{name}/{text}"
            if label in found:
                raise ValueError(f"params: expected names that differ as text, found two of {key}")
            found[label] = array
    return found


def _text(key: Any) -> str:
    """Return the name of a parameter as text, if JSON keeps it as it is."""
    try:
        text = json.dumps(key, ensure_ascii=False)
        text.encode()  # half of a surrogate pair is no text
        found = _with_tuples(json.loads(text))
    except (TypeError, ValueError, RecursionError):
        found = None
    if found != key:
        raise TypeError(
            "params: expected names that JSON can hold (text, numbers, None, and tuples of them), "
            f"found {key!r}"
        )
    return found if isinstance(found, str) else text


def _with_tuples(value: Any) -> Any:
    """Return what JSON made lists of as it was: nothing that is saved holds a list in its place."""
    if isinstance(value, dict):
        return {name: _with_tuples(item) for name, item in value.items()}
    return tuple(map(_with_tuples, value)) if isinstance(value, list) else value


def _spec(name: str, array: np.ndarray[Any, Any]) -> Spec:
    return name, f"F{8 * array.itemsize}", list(array.shape)


def _place(spec: Spec) -> tuple[bool, str]:
    """Return what the arrays are sorted by: so each is aligned, as safetensors has it."""
    return spec[1] != "F64", spec[0]


def _header(text: str, specs: Sequence[Spec]) -> bytes:
    """Return all that comes before the data, in a length that keeps the data aligned."""
    header: dict[str, Any] = {"__metadata__": {METADATA: text}}
    start = 0
    for name, kind, shape in (*specs, DIGEST):
        end = start + math.prod(shape) * int(kind[1:]) // 8
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [start, end]}
        start = end
    found = json.dumps(header, separators=(",", ":")).encode()
    found += b" " * (-len(found) % 8)
    _check_length(len(specs), len(found))
    return len(found).to_bytes(8, "little") + found


def _check_length(arrays: int, length: int) -> None:
    """Raise if the format has no room for a header of this length, or more."""
    if length > LONGEST_HEADER:
        raise ValueError(
            f"params: expected arrays whose names fit the {LONGEST_HEADER:,} bytes that a "
            f"safetensors file has for its header, found {arrays:,} arrays, parameters and state, "
            f"which take {length:,} at least; give the optimizer fewer and larger arrays"
        )


def _room(specs: Iterable[Spec], groups: int) -> int:
    """Return a length that the header of a file with these arrays and groups does not reach.

    A character of a name takes at most 12 bytes beside its array, and 14 in JSON within JSON. A
    length or a number of an array takes at most 22, with what stands between two of them.
    """
    arrays = sum(26 * len(name) + 22 * len(shape) + 160 for name, _, shape in specs)
    return arrays + groups * ROOM_OF_GROUP + ROOM_OF_REST


def _digest(text: str, specs: Sequence[Spec]) -> Any:
    """Return the hash of what is not in the arrays, which goes on with their bytes."""
    return hashlib.sha256(json.dumps([text, specs]).encode())


def _bytes_of(array: np.ndarray[Any, Any]) -> Iterator[bytes]:
    """Yield the bytes of an array of any layout, in C order and little-endian, in parts."""
    little = array.dtype.newbyteorder("<")
    parts: Any = np.nditer(
        array,
        ["external_loop", "buffered", "zerosize_ok"],
        ["readonly"],
        op_dtypes=[little],
        order="C",
        casting="equiv",
        buffersize=CHUNK,
    )
    for part in parts:
        yield part.tobytes()


@contextmanager
def _opened(path: str, room: int) -> Iterator[Any]:
    """Open a file with the library, which checks its header before it believes it.

    A header longer than `room` is not looked at: in memory, JSON takes many times its length.
    """
    library = _library()
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise ValueError(NO_FILE)
    with open(path, "rb") as file:  # an error of the system has its number here, not in the library
        length = int.from_bytes(file.read(8), "little")
    if length > room:
        raise ValueError(
            f"expected a checkpoint of this optimizer, whose header takes at most {room:,} bytes, "
            f"found one of {length:,}: another file, or damage"
        )
    try:
        # not a mapping of memory: that ends the process if the file shrinks
        with library.safe_open(path, framework="np", backend="pread") as file:
            yield file
    except library.SafetensorError as error:
        reason = str(error)[:200]  # it may quote the file
        raise ValueError(f"expected a safetensors file, found none, or damage: {reason}") from None


def _rest_of(file: Any) -> tuple[str, dict[str, Any]]:
    """Return what is not in the arrays, as text and as it was."""
    text = (file.metadata() or {}).get(METADATA)
    if text is None:
        raise ValueError("expected a checkpoint of fastoptim, found another safetensors file")
    try:
        rest = _with_tuples(json.loads(text))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"expected JSON in its metadata, found {error}") from None
    if not isinstance(rest, dict):
        raise ValueError(f"expected a mapping in its metadata, found {type(rest).__name__}")
    expect("version", VERSION, rest.get("version"))
    return text, rest


def _steps_in(rest: Mapping[str, Any], wanted: Sequence[Sequence[Any]]) -> dict[Any, Any]:
    """Return the step count of each parameter, if the groups are those wanted."""
    groups = entry("metadata", rest, "param_groups")
    matched("param_groups", wanted, groups)
    names = [name for group in groups for name in group["params"]]
    steps = entry("metadata", rest, "steps")
    if not isinstance(steps, tuple) or len(steps) != len(names):
        raise ValueError(
            f"steps: expected one for each of {len(names)} names, found {shown(steps)}"
        )
    return dict(zip(names, steps, strict=True))


def _specs_in(file: Any, expected: Mapping[str, Spec]) -> list[Spec]:
    """Return what the arrays are, in the order in which they were written, if they fit."""
    slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
    specs = [(name, part.get_dtype(), part.get_shape()) for name, part in slices.items()]
    if DIGEST not in specs:
        raise ValueError(f"expected an array {DIGEST[0]!r} of its contents, found none")
    specs.remove(DIGEST)
    for name, *found in specs:
        if name not in expected:
            raise ValueError(f"expected the arrays of this optimizer, found also {shown(name)}")
        expect(f"{name!r}", list(expected[name][1:]), found)
    return sorted(specs, key=_place)


def _arrays_in(file: Any, text: str, specs: Sequence[Spec]) -> dict[str, Any]:
    """Return the arrays by their names, if nothing in the file has changed since it was written."""
    digest = _digest(text, specs)
    arrays = {}
    for name, _, _ in specs:
        arrays[name] = file.get_tensor(name)
        for part in _bytes_of(arrays[name]):
            digest.update(part)
    if file.get_tensor(DIGEST[0]).tobytes() != digest.digest():
        raise ValueError("expected what was saved, found a damaged file")
    return arrays


def _stand_ins(file: Any, text: str, specs: Sequence[Spec]) -> dict[str, Any]:
    """Return arrays of zeros in the place of those in the file, over the memory of one element."""
    zeros = {kind: np.zeros((), f"f{int(kind[1:]) // 8}") for _, kind, _ in specs}
    return {name: np.broadcast_to(zeros[kind], shape) for name, kind, shape in specs}


def _replace(path: str, fill: Callable[[BinaryIO], None]) -> None:
    """Let fill write a file that takes the place of the one at path, or leave all as it was."""
    target = os.path.realpath(path) if os.path.islink(path) else path
    folder = os.path.dirname(target) or os.curdir
    temporary = os.path.join(folder, f".fastoptim-{secrets.token_hex(8)}")
    old = _status_of(target)
    # What replaces a file is nobody else's until it has the permissions of that file.
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
        if isinstance(error, OSError):  # it names the temporary file, or none
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

    Where the system refuses, nobody gets a permission beyond those of before, save the new owner,
    whose data these are: a new group and all others get what both the old group and all others
    had.
    """
    if sys.platform == "win32":  # which replaces no file that has other than the usual mode
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

    Return whether the bits of the mode then mean what they meant: with a list those of the group
    are the limit of all that it grants, and it may refuse to some what others have.
    """
    if sys.platform != "linux":
        return True
    with suppress(OSError):  # of whatever kind: then it is taken for lost
        acl = _acl_of(target)
        if acl is not None and may:
            os.setxattr(descriptor, ACL, acl)
        elif _acl_of(descriptor) is not None:  # which is that of its folder
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
    """Write to the disk, at the end, which files are in a folder."""
    if os.name == "nt":  # Windows has no such call
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        yield
        try:
            os.fsync(descriptor)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # a file system without it
                raise
    finally:
        os.close(descriptor)
