"""Subjects: what all ranks must have in common, of the groups of an optimizer and of a step."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..._engine.arrays import flat
from ..._groups import ParamGroup
from ._agreement import Subject, digest_of, subject

Words = list[tuple[str, str]]


def settings(values: Mapping[str, Any], **others: Any) -> Subject:
    """Return what belongs to the optimizer as a whole, and to a step."""
    return subject([(name, repr(value)) for name, value in {**values, **others}.items()])


def layout(groups: Sequence[ParamGroup]) -> Subject:
    """Return which parameters there are, and how they lie in memory."""
    words: Words = []
    for label, p in _labelled("params", groups):
        order = np.argsort([-s for s in p.strides], kind="stable").tolist()
        words.append((label, f"{p.dtype} of shape {p.shape}, axes in memory as {order}"))
    return subject([*words, ("the number of parameters", str(len(words)))])


def elements(groups: Sequence[ParamGroup]) -> Subject:
    """Return what the parameters hold."""
    words = [
        (label, f"elements with the checksum {zlib.crc32(flat(p).view(np.uint8)):08x}")
        for label, p in _labelled("params", groups)
    ]
    return subject(words)


def masks(groups: Sequence[ParamGroup]) -> Subject:
    """Return which elements are kept."""
    words = [
        (label.replace("params", "mask", 1), _told_of_mask(mask))
        for (label, _), mask in zip(
            _labelled("params", groups),
            (mask for group in groups for mask in group.masks),
            strict=True,
        )
    ]
    return subject(words)


def hyperparameters(groups: Sequence[ParamGroup]) -> Words:
    """Return the hyperparameters of each group in words."""
    words: Words = []
    for number, group in enumerate(groups):
        where = "{}" if len(groups) == 1 else f"param_groups[{number}][{{!r}}]"
        words.append((where.format("rule"), group.rule.name))
        words += [
            (where.format(name), "a schedule" if name in group.schedules else repr(value))
            for name, value in group.hyper.items()
        ]
    return words


def scalars(groups: Sequence[ParamGroup], lines: Sequence[tuple[Any, ...]]) -> Subject:
    """Return what the hyperparameters have become for a step."""
    numbers = [tuple(map(tuple, line[:3])) for line in lines]

    def words() -> Words:
        schedules = [name for group in groups for name in group.schedules]
        what = f"scalars of the step (of schedules for {', '.join(schedules) or 'nothing'})"
        return [*hyperparameters(groups), (what, str(numbers))]

    return Subject(digest_of(numbers), words)


def given(groups: Sequence[ParamGroup], stepped: Sequence[bool]) -> Subject:
    """Return which parameters have a gradient."""

    def words() -> Words:
        labels = [label for label, _ in _labelled("grads", groups)]
        return [
            (label, "a gradient" if one else "None")
            for label, one in zip(labels, stepped, strict=True)
        ]

    return Subject(digest_of(bytes(stepped)), words)


def _told_of_mask(mask: Any) -> str:
    return "None" if mask is None else f"a mask with the checksum {zlib.crc32(flat(mask)):08x}"


def _labelled(name: str, groups: Sequence[ParamGroup]) -> list[tuple[str, Any]]:
    """Return all parameters, with what messages call them or what belongs to them."""
    found = []
    for number, group in enumerate(groups):
        label = f"{name}[{number}]" if len(groups) > 1 else name
        labels = group.container.labels(label)
        found += [(labels[i], p) for i, p in enumerate(group.container.arrays)]
    return found
