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

import hashlib
import json
import math
import os
import stat
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from ._files import NO_FILE, replace_file
from ._kinds import entry, expect, shown
from ._loading import matched

__all__ = ["blaming", "path_of", "read", "read_without_data", "write"]  # what optimizers call

VERSION = 1  # of the layout of the file
METADATA = "fastoptim"
PARAM = "p"  # what a parameter is called beside its state arrays, none of which has that name
DIGEST = ("sha256", "U8", [32])  # comes last, as safetensors sorts arrays by alignment, too
LARGE = "F64"  # the type whose arrays come first in the file, so that each array is aligned
CHUNK = 1 << 17  # elements that are hashed and written at a time
PART = 8 * CHUNK  # bytes, where no element has to be looked at
# The types of arrays in the file, and on this machine.
LITTLE: dict[str, Any] = {"F32": np.dtype("<f4"), "F64": np.dtype("<f8")}
NATIVE: dict[str, Any] = {"F32": np.dtype("f4"), "F64": np.dtype("f8")}
LONGEST_HEADER = 100_000_000  # bytes, of any safetensors file
SHORTEST_ENTRY = len('"m/":{"dtype":"F32","shape":[],"data_offsets":[0,0]},')
ROOM_OF_GROUP = 1 << 14  # bytes of a header for the hyperparameters of a param group
ROOM_OF_REST = 1 << 20  # and for all else, also in files of other optimizers, to name what differs

Spec = tuple[str, str, list[int]]  # the name, the type and the shape of an array in the file


class Place(NamedTuple):
    """Where an array in the file belongs, and what it must be."""

    key: Any  # of its parameter
    state: str
    kind: str
    shape: list[int]
    nbytes: int


# An array in a file that is read: its spec, where its bytes begin and end in the data, the key of
# its parameter, and its name in the state.
Row = tuple[str, str, list[int], int, int, Any, str]


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
    """Put the path before the messages of errors, and make them ValueErrors."""
    try:
        yield
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error


def write(
    path: str,
    saved: Mapping[str, Any],
    params: Mapping[Any, Any],
    numbers: Sequence[Collection[str]],
    prove: Callable[[str], None],
) -> None:
    """Write what `state_dict` returned, and these parameters by their keys.

    What `numbers` names for each parameter is no array of its state, but a number that its rule
    keeps. Before the new file replaces the old one, `prove` is given its path, and raises what
    loading it would raise.
    """
    _library()
    state = saved["state"]
    count = len(params) + sum(len(item) - 1 for item in state.values())
    _check_length(count, SHORTEST_ENTRY * count)  # before all names are made, which takes a while
    kept = [
        {name: item[name] for name in n} for n, item in zip(numbers, state.values(), strict=True)
    ]
    arrays = _by_name(state, params, kept)
    specs = sorted(map(_spec, arrays, arrays.values()), key=_place)
    rest = {name: value for name, value in saved.items() if name != "state"}
    rest["steps"] = [item["step"] for item in state.values()]
    if any(kept):
        rest["numbers"] = kept
    text = json.dumps({"version": VERSION, **rest})
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

    replace_file(path, fill)


def read(
    path: str, like: Mapping[str, Any], params: Mapping[Any, Any], states: Sequence[str]
) -> tuple[dict[str, Any], list[Any]]:
    """Return what `state_dict` returned, and the values of the parameters, or none.

    The file must fit what `state_dict` would return now (`like`), the parameters by their keys, and
    the names that state arrays may have. Nothing larger than these is read into memory.
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
    arrays_of: Callable[[Opened, str, Sequence[Row]], list[Any]],
) -> tuple[dict[str, Any], list[Any]]:
    texts = {key: _text(key) for key in params}
    places = {
        f"{name}/{texts[key]}": Place(key, name, kind, shape, p.nbytes)
        for key, p in params.items()
        for _, kind, shape in (_spec("", p),)
        for name in (PARAM, *states)
    }
    wanted = [group["params"] for group in like["param_groups"]]
    with _opened(path, _room(places, len(wanted))) as file:
        text, rest = _rest_of(file)
        expect("optimizer", like["optimizer"], rest.get("optimizer"))
        steps = _steps_in(rest, wanted)
        rows = _rows_in(file, places)
        arrays = arrays_of(file, text, rows)
    state: dict[Any, dict[str, Any]] = {key: steps[key] for key in params}
    for row, array in zip(rows, arrays, strict=True):
        state[row[-2]][row[-1]] = array
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
    state: Mapping[Any, Mapping[str, Any]],
    params: Mapping[Any, Any],
    numbers: Sequence[Mapping[str, Any]],
) -> dict[str, np.ndarray[Any, Any]]:
    """Return all arrays by their names in the file."""
    found = {}
    for (key, item), kept in zip(state.items(), numbers, strict=True):
        arrays = {name: item[name] for name in item if name != "step" and name not in kept}
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
    if type(key) is int:
        return str(key)
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
    """Return a value from JSON, which makes lists of tuples, as it was: no lists are saved."""
    if isinstance(value, dict):
        return {name: _with_tuples(item) for name, item in value.items()}
    return tuple(map(_with_tuples, value)) if isinstance(value, list) else value


def _spec(name: str, array: np.ndarray[Any, Any]) -> Spec:
    return name, f"F{8 * array.itemsize}", list(array.shape)


def _place(spec: Spec) -> tuple[bool, str]:
    """Return what arrays are sorted by: larger elements first, so that each is aligned."""
    return spec[1] != LARGE, spec[0]


def _header(text: str, specs: Sequence[Spec]) -> bytes:
    """Return what comes before the data, of a length that keeps these aligned."""
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


def _room(places: Mapping[str, Place], groups: int) -> int:
    """Return a length that the header of a file with these arrays and groups does not reach.

    A character of a name takes at most 12 bytes beside its array, and 14 in JSON within JSON. A
    length or a number of an array takes at most 22, with what stands between two of them.
    """
    arrays = sum(26 * len(name) + 22 * len(place.shape) + 160 for name, place in places.items())
    return arrays + groups * ROOM_OF_GROUP + ROOM_OF_REST


def _digest(text: str, specs: Sequence[Spec]) -> Any:
    """Return the hash of what is not in the arrays, which goes on with their bytes."""
    return hashlib.sha256(json.dumps([text, specs]).encode())


def _bytes_of(array: np.ndarray[Any, Any]) -> Iterator[Any]:
    """Yield the bytes of an array of any layout, in C order and little-endian, in parts."""
    if array.flags.c_contiguous and array.dtype.str[0] == "<":
        yield from _parts_of(array.reshape(-1).view(np.uint8))
        return
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


def _parts_of(data: np.ndarray[Any, Any]) -> list[np.ndarray[Any, Any]]:
    """Return some bytes in parts, between which an interrupt is noticed."""
    if data.size <= PART:
        return [data]
    return [data[start : start + PART] for start in range(0, data.size, PART)]


class Opened(NamedTuple):
    """A file whose header the library has found to be right."""

    header: Mapping[str, Any]
    file: BinaryIO  # at the beginning of the data


@contextmanager
def _opened(path: str, room: int) -> Iterator[Opened]:
    """Open a file, once the library has checked its header.

    A header longer than `room` is not looked at: in memory, JSON takes many times its length.
    """
    library = _library()
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise ValueError(NO_FILE)
    with open(path, "rb") as file:  # raises OSErrors with their numbers, which the library loses
        length = int.from_bytes(file.read(8), "little")
        if length > room:
            raise ValueError(
                f"expected a checkpoint of this optimizer, whose header takes at most {room:,} "
                f"bytes, found one of {length:,}: another file, or damage"
            )
        try:
            # Memory that is mapped, the library's default, ends the process if the file shrinks.
            with library.safe_open(path, framework="np", backend="pread"):
                pass
        except library.SafetensorError as error:
            reason = str(error)[:200]  # it may quote the file
            raise ValueError(
                f"expected a safetensors file, found none, or damage: {reason}"
            ) from None
        # The library takes some 10 us for each array. Somebody may have put another file in the
        # place of the one that it has seen, so that nothing here relies on what it has found.
        header = json.loads(file.read(length))
        if not (isinstance(header, dict) and all(isinstance(x, dict) for x in header.values())):
            raise ValueError("expected a safetensors file, found none, or damage")
        yield Opened(header, file)


def _rest_of(file: Opened) -> tuple[str, dict[str, Any]]:
    """Return what is not in the arrays, as JSON and as it was saved."""
    text = file.header.get("__metadata__", {}).get(METADATA)
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
    """Return step count and numbers of each parameter, if the groups are those wanted."""
    groups = entry("metadata", rest, "param_groups")
    matched("param_groups", wanted, groups)
    names = [name for group in groups for name in group["params"]]
    steps = entry("metadata", rest, "steps")
    if not isinstance(steps, tuple) or len(steps) != len(names):
        raise ValueError(
            f"steps: expected one for each of {len(names)} names, found {shown(steps)}"
        )
    numbers = rest.get("numbers", ({},) * len(names))
    if not (
        isinstance(numbers, tuple)
        and len(numbers) == len(names)
        and all(isinstance(item, dict) for item in numbers)
    ):
        raise ValueError(
            f"numbers: expected a mapping for each of {len(names)} names, found {shown(numbers)}"
        )
    return {
        name: {**more, "step": step} for name, step, more in zip(names, steps, numbers, strict=True)
    }


def _rows_in(file: Opened, places: Mapping[str, Place]) -> list[Row]:
    """Return the arrays in the order in which they were written, if they are those expected."""
    large: list[Row] = []
    small: list[Row] = []
    digest = None
    for name, item in file.header.items():
        kind, shape = item.get("dtype"), item.get("shape")
        if name == DIGEST[0]:
            digest = name, kind, shape
        elif name != "__metadata__":
            if name not in places:
                raise ValueError(f"expected the arrays of this optimizer, found also {shown(name)}")
            key, state, expected, like, nbytes = places[name]
            if kind != expected or shape != like:
                expect(f"{name!r}", [expected, like], [kind, shape])
            start, end = item["data_offsets"]
            if end - start != nbytes:
                raise ValueError("expected what was saved, found a damaged file")
            rows = large if kind == LARGE else small
            rows.append((name, expected, like, start, end, key, state))
    if digest != DIGEST:
        raise ValueError(f"expected an array {DIGEST[0]!r} of its contents, found none")
    return [*sorted(large), *sorted(small)]


def _arrays_in(file: Opened, text: str, rows: Sequence[Row]) -> list[Any]:
    """Return the arrays, if nothing in the file has changed since it was written."""
    size = sum(end - start for _, _, _, start, end, _, _ in rows)
    data = np.empty(size + DIGEST[2][0], np.uint8)
    if file.file.readinto(data) < data.size:  # type: ignore[attr-defined]
        raise ValueError("expected what was saved, found a damaged file")
    arrays = [
        np.asarray(np.ndarray(shape, LITTLE[kind], data, start), NATIVE[kind])
        for _, kind, shape, start, _, _, _ in rows
    ]
    digest = _digest(text, [row[:3] for row in rows])
    for start, end in _runs_of(rows):
        for part in _parts_of(data[start:end]):
            digest.update(part)
    start, end = file.header[DIGEST[0]]["data_offsets"]
    if data[start:end].tobytes() != digest.digest():
        raise ValueError("expected what was saved, found a damaged file")
    return arrays


def _runs_of(rows: Sequence[Row]) -> list[tuple[int, int]]:
    """Return where the data of arrays begin and end that follow each other without a gap."""
    runs: list[tuple[int, int]] = []
    first = last = 0
    for _, _, _, start, end, _, _ in rows:
        if start != last:
            runs.append((first, last))
            first = start
        last = end
    return [*runs, (first, last)]


def _stand_ins(file: Opened, text: str, rows: Sequence[Row]) -> list[Any]:
    """Return arrays of zeros in the place of those in the file, over the memory of one element."""
    zeros = {kind: np.zeros((), dtype) for kind, dtype in NATIVE.items()}
    return [np.broadcast_to(zeros[kind], shape) for _, kind, shape, *_ in rows]
