"""Every rule beside its rivals: ``python -m pytest bench --benchmark-only``.

One group for each rule, dtype and size, one row for each contender. A contender that disagrees
with the reference fails and is not timed. The rows of a group are timed one after another; where a
ratio is to be quoted, ``fastoptim bench`` lets the contenders take turns.
"""

import time

import pytest

from fastoptim.bench import PAUSE
from fastoptim.contenders import (
    CASES,
    CONTENDERS,
    DTYPES,
    SIZES,
    Cell,
    UnavailableError,
    prepare,
)


@pytest.mark.parametrize("contender", CONTENDERS)  # varies fastest: a group is run in one go
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
@pytest.mark.benchmark(min_rounds=5, min_time=0.002, max_time=1, disable_gc=True)
def test_step(benchmark, case, dtype, size, contender):
    cell = Cell(case, size, dtype)
    try:
        step = prepare(contender, cell)
    except UnavailableError as why:
        pytest.skip(f"{contender}, {case.name}: {why}")
    benchmark.group, benchmark.name = str(cell), contender
    benchmark.extra_info["bytes"] = cell.traffic
    time.sleep(PAUSE)  # until the workers of the previous contender have stopped spinning
    benchmark(step)
