"""Checkpoints: the file that `Optimizer.save` writes and `Optimizer.load` reads.

Every safetensors reader reads it. Its arrays are named ``m/w`` for the state m of the parameter w,
and ``p/w`` for the parameter itself. Its metadata has, under ``fastoptim``, the rest of
`state_dict` as JSON. Its last array, ``sha256``, is the SHA-256 of that JSON, of a list of the
name, type and shape of every other array, and of their bytes: nothing else tells a flipped bit from
a number.

Arrays need not be in memory as a whole: what is written may come range by range (`Ranged`), and
what is read may go range by range (`source`). Ranges are of elements in the order of a parameter's
memory, and the file has C order: an array of a parameter in another order is held in memory, one at
a time, while it is written or read.

The library checks and reads such files. It does not write this one, because it would copy all
arrays that are not in C order, give the file the mode 0600, and lose the system's error numbers.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, BinaryIO, NamedTuple, Protocol, runtime_checkable

import numpy as np

from ._files import NO_FILE, replace_file
from ._kinds import entry, expect, shown
from ._loading import matched

__all__ = [  # what optimizers call
    "blaming",
    "in_file_order",
    "path_of",
    "pieces",
    "read",
    "read_without_data",
    "source",
    "write",
]

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
DAMAGED = "expected what was saved, found a damaged file"
LONGEST_HEADER = 100_000_000  # bytes, of any safetensors file
SHORTEST_ENTRY = len('"m/":{"dtype":"F32","shape":[],"data_offsets":[0,0]},')
ROOM_OF_GROUP = 1 << 14  # bytes of a header for the hyperparameters of a param group
ROOM_OF_REST = 1 << 20  # and for all else, also in files of other optimizers, to name what differs

Spec = tuple[str, str, list[int]]  # the name, the type and the shape of an array in the file


@runtime_checkable
class Ranged(Protocol):
    """An array that is not all in memory, and can be read range by range."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    strides: tuple[int, ...]  # of its parameter

    def read(self, start: int, stop: int) -> np.ndarray[Any, Any]:
        """Return some elements in the order of its parameter's memory, in an array of one axis."""
        ...


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
    prove: Callable[[str], None],
) -> None:
    """Write what `state_dict` returned, and these parameters by their keys.

    Arrays of the state, and parameters, may be `Ranged`. Before the new file replaces the old one,
    `prove` is given its path, and raises what loading it would raise.
    """
    _library()
    state = saved["state"]
    arrays = in_file_order(saved, params)
    specs = list(map(_spec, arrays, arrays.values()))
    rest = {name: value for name, value in saved.items() if name != "state"}
    rest["steps"] = [item["step"] for item in state.values()]
    numbers = [_numbers_of(item) for item in state.values()]
    if any(numbers):  # of the rules that keep some
        rest["numbers"] = numbers
    text = json.dumps({"version": VERSION, **rest})
    header = _header(text, specs)

    def fill(file: BinaryIO) -> None:
        file.write(header)
        digest = _digest(text, specs)
        for array in arrays.values():
            for part in _bytes_of(array):
                digest.update(part)
                file.write(part)
        file.write(digest.digest())
        file.flush()
        with blaming(path):
            prove(file.name)

    replace_file(path, fill)


def in_file_order(saved: Mapping[str, Any], params: Mapping[Any, Any]) -> dict[str, Any]:
    """Return the arrays that `write` writes, by their names, in the order in which it does."""
    count = len(params) + sum(len(item) - 1 for item in saved["state"].values())
    _check_length(count, SHORTEST_ENTRY * count)  # before all names are made, which takes a while
    arrays = _by_name(saved["state"], params)
    specs = sorted(map(_spec, arrays, arrays.values()), key=_place)
    return {name: arrays[name] for name, _, _ in specs}


def pieces(array: Any) -> list[tuple[int, int]]:
    """Return the ranges of a `Ranged` array that `write` reads, in the order in which it does."""
    size = math.prod(array.shape)
    step = CHUNK if _is_in_c_order(array) else max(size, 1)
    return [(start, min(start + step, size)) for start in range(0, size, step)]


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
    arrays_of: Callable[[Source], list[Any]],
) -> tuple[dict[str, Any], list[Any]]:
    with source(path, like, params, states) as found:
        return found.with_arrays(arrays_of(found))


@contextmanager
def source(
    path: str, like: Mapping[str, Any], params: Mapping[Any, Any], states: Sequence[str]
) -> Iterator[Source]:
    """Open a file that `read` would read, to read it range by range."""
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
        steps = {key: steps[key] for key in params}
        yield Source(file, params, text, rest, steps, _rows_in(file, places))


class Source:
    """An open file that fits an optimizer, whose arrays are read range by range."""

    def __init__(
        self,
        file: Opened,
        params: Mapping[Any, Any],
        text: str,
        rest: Mapping[str, Any],
        steps: Mapping[Any, Mapping[str, Any]],
        rows: Sequence[Row],
    ) -> None:
        self.file, self.text, self.rows = file, text, rows
        self._params, self._rest, self._steps = params, rest, steps
        self._places = {(row[-2], row[-1]): row[3] for row in rows}
        self._held: Any = None  # which array of a parameter that is not in C order
        self._elements: Any = None  # all of that array

    @property
    def has_params(self) -> bool:
        """Whether there are values of the parameters, whose name is `PARAM`."""
        return any(name == PARAM for _, name in self._places)

    @property
    def saved(self) -> dict[str, Any]:
        """What `state_dict` returned, with arrays of zeros that take no memory."""
        return self.with_arrays(_stand_ins(self))[0]

    def with_arrays(self, arrays: Sequence[Any]) -> tuple[dict[str, Any], list[Any]]:
        """Return what `state_dict` returned, and parameters or none, made of these arrays."""
        state = {key: {**steps} for key, steps in self._steps.items()}
        for row, array in zip(self.rows, arrays, strict=True):
            state[row[-2]][row[-1]] = array
        values = [item.pop(PARAM) for item in state.values() if PARAM in item]
        if values and len(values) < len(state):
            raise ValueError(f"expected {len(state)} parameters or none, found {len(values)}")
        return {**self._rest, "state": state}, values

    def check(self) -> None:
        """Read all of the file, and raise if anything in it has changed since it was written."""
        digest, room = self.digest(), np.empty(PART, np.uint8)
        for start, end in _runs_of(self.rows):
            for at in range(start, end, PART):
                part = room[: min(PART, end - at)]
                self.file.read_into(part, at)
                digest.update(part)
        kept = room[: DIGEST[2][0]]
        self.file.read_into(kept, self.place_of_digest())
        _expect_digest(digest, kept)

    def read(self, key: Any, name: str, start: int, stop: int) -> np.ndarray[Any, Any]:
        """Return some elements of an array of a parameter, in the order of the parameter's memory.

        The array is a state array, or (`PARAM`) the parameter itself. What is read is what was
        saved if `check` has been called, here or elsewhere: it raises if the file has changed since
        it was opened.
        """
        p = self._params[key]
        if _is_in_c_order(p):
            return self._in_file_order(key, name, start, stop)
        if self._held != (key, name):
            self._held = self._elements = None
            elements = np.empty(p.size, p.dtype)
            array = self._in_file_order(key, name, 0, p.size).reshape(p.shape)
            _laid_out(elements, p)[...] = array
            self._held, self._elements = (key, name), elements
        return np.array(self._elements[start:stop])

    def _in_file_order(self, key: Any, name: str, start: int, stop: int) -> np.ndarray[Any, Any]:
        dtype = self._params[key].dtype.newbyteorder("<")
        array = np.empty(stop - start, dtype)
        self.file.read_into(array.view(np.uint8), self._places[key, name] + start * dtype.itemsize)
        return array.astype(dtype.newbyteorder("="), copy=False)

    def digest(self) -> Any:
        """Return the hash of what is not in the arrays, which goes on with their bytes."""
        return _digest(self.text, [row[:3] for row in self.rows])

    def place_of_digest(self) -> int:
        """Return where in the data the hash begins."""
        return self.file.header[DIGEST[0]]["data_offsets"][0]  # type: ignore[no-any-return]


def _expect_digest(digest: Any, kept: np.ndarray[Any, Any]) -> None:
    if kept.tobytes() != digest.digest():
        raise ValueError(DAMAGED)


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
        arrays = {name: array for name, array in item.items() if _is_array(array)}
        if key in params:
            arrays[PARAM] = params[key]
        text = _text(key)
        for name, array in arrays.items():
            label = f"{name}/{text}"
            if label in found:
                raise ValueError(f"params: expected names that differ as text, found two of {key}")
            found[label] = array
    return found


def _numbers_of(item: Mapping[str, Any]) -> dict[str, float]:
    """Return what the state of a parameter has beside arrays and the step count."""
    return {k: v for k, v in item.items() if k != "step" and not _is_array(v)}


def _is_array(value: Any) -> bool:
    return isinstance(value, (np.ndarray, Ranged))


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


def _spec(name: str, array: Any) -> Spec:
    return name, f"F{8 * array.dtype.itemsize}", list(array.shape)


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


def _bytes_of(array: Any) -> Iterator[Any]:
    """Yield the bytes of an array of any layout, in C order and little-endian, in parts."""
    if not isinstance(array, np.ndarray):
        in_order = _is_in_c_order(array)
        for start, stop in pieces(array):
            part = array.read(start, stop)
            yield from _bytes_of(part if in_order else _laid_out(part, array))
        return
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


def _is_in_c_order(array: Any) -> bool:
    """Tell whether the elements of a dense array follow each other as they do in the file."""
    expected = array.dtype.itemsize
    for length, stride in zip(reversed(array.shape), reversed(array.strides), strict=True):
        if length != 1 and stride != expected:
            return False
        expected *= length
    return True


def _laid_out(elements: np.ndarray[Any, Any], like: Any) -> np.ndarray[Any, Any]:
    """Return all elements of an array, which are in the order of its memory, in its shape."""
    return np.ndarray(like.shape, elements.dtype, elements, strides=like.strides)


def _parts_of(data: np.ndarray[Any, Any]) -> list[np.ndarray[Any, Any]]:
    """Return some bytes in parts, between which an interrupt is noticed."""
    if data.size <= PART:
        return [data]
    return [data[start : start + PART] for start in range(0, data.size, PART)]


class Opened(NamedTuple):
    """A file whose header the library has found to be right."""

    header: Mapping[str, Any]
    file: BinaryIO  # at the beginning of the data
    start: int  # of the data
    status: os.stat_result  # as it was opened

    def read_into(self, room: np.ndarray[Any, Any], at: int) -> None:
        """Read bytes of the data from a place on, if the file is still as it was."""
        self.file.seek(self.start + at)
        if self.file.readinto(room) < room.size:  # type: ignore[attr-defined]
            raise ValueError(DAMAGED)
        now = os.fstat(self.file.fileno())
        if (now.st_size, now.st_mtime_ns) != (self.status.st_size, self.status.st_mtime_ns):
            raise ValueError("expected a file that nobody writes to, found it changed meanwhile")


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
        yield Opened(header, file, 8 + length, os.fstat(file.fileno()))


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
                raise ValueError(DAMAGED)
            rows = large if kind == LARGE else small
            rows.append((name, expected, like, start, end, key, state))
    if digest != DIGEST:
        raise ValueError(f"expected an array {DIGEST[0]!r} of its contents, found none")
    return [*sorted(large), *sorted(small)]


def _arrays_in(found: Source) -> list[Any]:
    """Return the arrays, if nothing in the file has changed since it was written."""
    rows = found.rows
    size = sum(end - start for _, _, _, start, end, _, _ in rows)
    data = np.empty(size + DIGEST[2][0], np.uint8)
    if found.file.file.readinto(data) < data.size:  # type: ignore[attr-defined]
        raise ValueError(DAMAGED)
    arrays = [
        np.asarray(np.ndarray(shape, LITTLE[kind], data, start), NATIVE[kind])
        for _, kind, shape, start, _, _, _ in rows
    ]
    digest = found.digest()
    for start, end in _runs_of(rows):
        for part in _parts_of(data[start:end]):
            digest.update(part)
    start = found.place_of_digest()
    _expect_digest(digest, data[start : start + DIGEST[2][0]])
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


def _stand_ins(found: Source) -> list[Any]:
    """Return arrays of zeros in the place of those in the file, over the memory of one element."""
    zeros = {kind: np.zeros((), dtype) for kind, dtype in NATIVE.items()}
    return [np.broadcast_to(zeros[kind], shape) for _, kind, shape, *_ in found.rows]
