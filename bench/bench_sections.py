"""The cells of ``fastoptim bench --rivals --many --scale --sizes``, one row a contender."""

import pytest

from fastoptim.bench import sections
from fastoptim.bench.cases import CASES

ADAM = CASES["Adam"]
SECTIONS = [make(ADAM, False) for make in (sections.rivals, sections.many, sections.scale)]
SECTIONS.append(sections.sizes(sections.default_cases(), False))
STEPS = [
    pytest.param(cell, contender, id=f"{section.name}-{cell}-{contender}")
    for section in SECTIONS
    for cell in section.cells
    for contender in ("fastoptim", *section.rivals)
]


@pytest.mark.parametrize(("cell", "contender"), STEPS)
def test_step(time_step, cell, contender):
    time_step(cell, contender)
