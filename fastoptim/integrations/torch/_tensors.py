"""Tensors as arrays over the same memory, and which tensors there is none for.

Nothing here knows an optimizer or its state; a key is what stands for a parameter in messages.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import methodcaller
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastoptim._containers import Array
from fastoptim._engine.arrays import array_at
from fastoptim._kinds import Kind, checked
from fastoptim._rows import Rows

DTYPES: dict[torch.dtype, np.dtype[Any]] = {
    torch.float32: np.dtype(np.float32),
    torch.float64: np.dtype(np.float64),
}
# Of a sparse tensor, also where it says of a row several times what is to be added up
INDICES, VALUES = methodcaller("_indices"), methodcaller("_values")
COUNTS = DTYPES | {torch.int64: np.dtype(np.int64)}  # of a step count that the user has put there


def keyed(groups: Sequence[Mapping[str, Any]], first: int = 0) -> list[list[tuple[Any, Tensor]]]:
    """Return the tensors of each group with their names, else their numbers from the first on."""
    total = sum(len(group["params"]) for group in groups)
    names = [name for group in groups for name in group.get("param_names", ())]
    keys = iter(names if len(names) == len(set(names)) == total else range(first, first + total))
    return [[(next(keys), p) for p in group["params"]] for group in groups]


def arrays_of(groups: Sequence[Mapping[str, Any]], first: int = 0) -> list[dict[Any, Array]]:
    """Return arrays over the memory of the tensors of each group, by their keys."""
    return [{key: array_of(p, "params", key) for key, p in pairs} for pairs in keyed(groups, first)]


def array_of(tensor: Tensor, label: str, key: Any = None) -> Array:
    """Return an array over the memory of a tensor, or say why there is none.

    The tensor's own method would leave a storage that can no longer be resized.
    """
    if tensor.dtype in DTYPES and has_memory(tensor):
        array: Array = view_of(tensor, DTYPES[tensor.dtype], tensor.detach())
        return array
    index = "" if key is None else f"[{key!r}]"
    negative = ", with the negative bit (see torch.resolve_neg)" if tensor.is_neg() else ""
    raise TypeError(
        f"{label}{index}: expected a dense tensor of float32 or float64 on the CPU, "
        f"found {tensor.dtype}, {tensor.layout}, on {tensor.device}{negative}"
    )


def gradient_of(tensor: Tensor, key: Any) -> Array | Rows:
    """Return an array of the numbers of a gradient, over its memory if they stand there.

    That of an embedding with ``sparse=True`` is returned as its rows.
    """
    dtype = DTYPES.get(tensor.dtype)
    if dtype is not None and has_memory(tensor):
        # The tensor owns the array, not a tensor detached from it, which takes longer to make: the
        # array lives for a step, and no one gives the tensor another storage meanwhile.
        array: Array = view_of(tensor, dtype, tensor)
        return array
    if tensor.layout is torch.sparse_coo and tensor.is_cpu and tensor.sparse_dim() == 1:
        indices, values = INDICES(tensor), VALUES(tensor)
        numbers = view_of(indices[0], np.dtype(np.int64), indices)
        return Rows(numbers, array_of(resolved(values), "grads", key))
    return array_of(resolved(tensor), "grads", key)


def state_of(tensor: Any, label: str, p: Tensor) -> Array:
    """Return an array over the memory of a state tensor that fits its parameter."""
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{label}: expected a tensor, found {type(tensor).__name__}")
    for name in ("dtype", "shape"):
        expected, found = getattr(p, name), getattr(tensor, name)
        if found != expected:
            raise ValueError(
                f"{label}: expected {name} {expected} as its parameter has, found {found}"
            )
    return array_of(resolved(tensor), label)


def count_of(value: Any) -> Any:
    """Return an array over the memory of a step count, or a new one of what has none."""
    if isinstance(value, Tensor) and value.numel() == 1:
        if value.dtype in COUNTS and has_memory(value):
            return view_of(value, COUNTS[value.dtype], value.detach())
        value = value.item()
    return np.array(value, np.float32)


def number_of(value: Any, label: str, kind: Kind) -> Any:
    """Return an array over the memory of a number of the state, or a new one of what has none."""
    tensor = value
    if isinstance(value, Tensor) and value.numel() == 1:
        value = value.item()
    number = checked(label, kind, value)
    if value is not tensor and tensor.dtype in DTYPES and has_memory(tensor):
        return view_of(tensor, DTYPES[tensor.dtype], tensor.detach())
    return np.array(number, scalar_dtype())


def scalar_dtype() -> np.dtype[Any]:
    """Return the type in which torch makes numbers of the state."""
    return np.dtype(np.float64 if torch.get_default_dtype() == torch.float64 else np.float32)


def resolved(tensor: Tensor) -> Tensor:
    """Return a tensor whose numbers stand in memory: with the negative bit, minus them do."""
    return tensor.resolve_neg() if tensor.is_neg() else tensor


def has_memory(tensor: Tensor) -> bool:
    """Tell whether a tensor's numbers stand in memory, as NumPy has them."""
    if tensor.layout is not torch.strided or not tensor.is_cpu or tensor.is_nested:
        return False
    try:
        return not tensor.is_neg() and (tensor.data_ptr() != 0 or tensor.numel() == 0)
    except RuntimeError:  # such as a tensor of a subclass without storage
        return False


def view_of(tensor: Tensor, dtype: np.dtype[Any], owner: Tensor) -> Any:
    """Return an array over the memory of a tensor, whose storage the owner keeps."""
    return array_at(tensor.data_ptr(), tensor.shape, tensor.stride(), dtype, owner)


def fits(array: Array, p: Array) -> bool:
    """Tell whether an array of a parameter's shape runs through memory as the parameter does."""
    strides = zip(array.shape, array.strides, p.strides, strict=True)
    same = all(ours == theirs for length, ours, theirs in strides if length != 1)
    return array.flags.aligned and (same or array.size == 0)
