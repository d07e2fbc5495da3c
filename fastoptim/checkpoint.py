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
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, BinaryIO

import numpy as np

__all__ = ["blaming", "path_of", "read", "write"]  # what optimizers call

VERSION = 1  # of the layout of the file
METADATA = "fastoptim"
PARAM = "p"  # beside the names of state arrays, which are never p
NO_FILE = "expected a file, found a folder or a device"
DIGEST = ("sha256", "U8", [32])  # as one byte needs no alignment, safetensors has it last, too
CHUNK = 1 << 17  # elements that are hashed and written at a time

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


def write(path: str, saved: Mapping[str, Any], params: Mapping[Any, Any]) -> None:
    """Write what `state_dict` returned, and these parameters by their keys."""
    _library()
    state = saved["state"]
    arrays = _by_name(state, params)
    specs = sorted(map(_spec, arrays, arrays.values()), key=_place)
    rest = {name: value for name, value in saved.items() if name != "state"}
    steps = [entry["step"] for entry in state.values()]
    text = json.dumps({"version": VERSION, **rest, "steps": steps})

    def fill(file: BinaryIO) -> None:
        file.write(_header(text, specs))
        digest = _digest(text, specs)
        for name, _, _ in specs:
            for part in _bytes_of(arrays[name]):
                digest.update(part)
                file.write(part)
        file.write(digest.digest())
        file.flush()
        with blaming(path), _opened(file.name):
            pass  # what nobody could load does not replace the old file

    _replace(path, fill)


def read(
    path: str, like: Mapping[str, Any], params: Mapping[Any, Any], states: Sequence[str]
) -> tuple[dict[str, Any], list[Any]]:
    """Return what `state_dict` returned, and the values of the parameters, or none.

    What `state_dict` would return now, the parameters by their keys and the names that their state
    arrays may have are what the file must fit. Nothing larger than these is read into memory.
    """
    places = {
        f"{name}/{text}": (key, name)
        for key in params
        for text in (_text(key),)
        for name in (PARAM, *states)
    }
    expected = {place: _spec(place, params[key]) for place, (key, _) in places.items()}
    with _opened(path) as file:
        text, rest = _rest_of(file)
        _expect("optimizer", like["optimizer"], rest.get("optimizer"))
        groups, steps = _matched(like["param_groups"], rest)
        arrays = _arrays_in(file, text, _specs_in(file, expected))
    state: dict[Any, dict[str, Any]] = {key: {"step": steps[key]} for key in params}
    for place, (key, name) in places.items():
        if place in arrays:
            state[key][name] = arrays[place]
    values = [entry.pop(PARAM) for entry in state.values() if PARAM in entry]
    if values and len(values) < len(params):
        raise ValueError(f"expected {len(params)} parameters or none, found {len(values)}")
    return {**rest, "param_groups": groups, "state": state}, values


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
    for key, entry in state.items():
        arrays = {name: array for name, array in entry.items() if name != "step"}
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


def _expect(label: str, expected: Any, found: Any) -> None:
    if found != expected:
        raise ValueError(f"{label}: expected {expected}, found {found}")


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
    return len(found).to_bytes(8, "little") + found


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
def _opened(path: str) -> Iterator[Any]:
    """Open a file with the library, which checks its header before it believes it."""
    library = _library()
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise ValueError(NO_FILE)
    with open(path, "rb"):
        pass  # an error of the system has its number here, which the library leaves out
    try:
        # not a mapping of memory: that ends the process if the file shrinks
        with library.safe_open(path, framework="np", backend="pread") as file:
            yield file
    except library.SafetensorError as error:
        raise ValueError(f"expected a safetensors file, found none, or damage: {error}") from error


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
    _expect("version", VERSION, rest.get("version"))
    return text, rest


def _matched(
    groups: Sequence[Mapping[str, Any]], rest: Mapping[str, Any]
) -> tuple[list[dict[str, Any]], dict[Any, Any]]:
    """Return the saved groups and step counts, for the names as the optimizer has them in order."""
    saved: dict[frozenset[Any], dict[str, Any]] = {}
    steps: dict[Any, Any] = {}
    try:
        for group in rest["param_groups"]:
            saved[frozenset(group["params"])] = group
        names = [name for group in rest["param_groups"] for name in group["params"]]
        steps = dict(zip(names, rest["steps"], strict=True))
    except (TypeError, LookupError, ValueError):
        raise ValueError(
            "expected param groups of names, and a step count of each, found others"
        ) from None
    wanted = {frozenset(group["params"]): group["params"] for group in groups}
    if saved.keys() != wanted.keys() or len(saved) != len(rest["param_groups"]):
        raise ValueError(
            f"param_groups: expected groups of {[group['params'] for group in groups]}, "
            f"found {[list(group['params']) for group in rest['param_groups']]}"
        )
    return [{**saved[names], "params": order} for names, order in wanted.items()], steps


def _specs_in(file: Any, expected: Mapping[str, Spec]) -> list[Spec]:
    """Return what the arrays are, in the order in which they were written, if they fit."""
    slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
    specs = [(name, part.get_dtype(), part.get_shape()) for name, part in slices.items()]
    if DIGEST not in specs:
        raise ValueError(f"expected an array {DIGEST[0]!r} of its contents, found none")
    specs.remove(DIGEST)
    for name, *found in specs:
        if name not in expected:
            raise ValueError(f"expected the arrays of this optimizer, found also {name!r}")
        _expect(f"{name!r}", list(expected[name][1:]), found)
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


def _replace(path: str, fill: Callable[[BinaryIO], None]) -> None:
    """Let fill write a file that takes the place of the one at path, or leave all as it was."""
    target = os.path.realpath(path) if os.path.islink(path) else path
    folder = os.path.dirname(target) or os.curdir
    temporary = os.path.join(folder, f".fastoptim-{secrets.token_hex(8)}")
    mode = _mode_of(target)
    try:
        with _synced(folder):
            with open(temporary, "xb") as file:  # its mode is what the umask leaves
                if mode is not None:
                    os.chmod(temporary, mode)
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


def _mode_of(path: str) -> int | None:
    """Return the permissions of the file that is to be replaced, if there is one."""
    try:
        found = os.stat(path).st_mode
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(found):
        raise ValueError(f"{path}: {NO_FILE}")
    return stat.S_IMODE(found)


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
