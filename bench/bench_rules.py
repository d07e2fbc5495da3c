"""Every rule beside its rivals: ``python -m pytest bench --benchmark-only``.

One group for each rule, dtype and size, one row for each contender. A contender that disagrees
with the reference fails and is not timed. The rows of a group are timed one after another; where a
ratio is to be quoted, ``fastoptim bench`` lets the contenders take turns.
"""

import pytest

from fastoptim.bench.cases import CASES, DTYPES, SIZES, Cell
from fastoptim.bench.sections import COMMON


@pytest.mark.parametrize("contender", ["fastoptim", *COMMON])  # varies fastest: a group in one go
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_step(time_step, case, dtype, size, contender):
    time_step(Cell(case, size, dtype), contender)
