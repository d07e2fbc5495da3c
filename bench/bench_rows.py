"""Steps by gradients that have but some rows: of tables of every size, and beside others."""

import pytest

from fastoptim.bench import rows


@pytest.mark.parametrize("cell", rows.cells(False), ids=str)
def test_rows(time_it, cell):
    """The step alone; `fastoptim bench --rows` compares it with others."""
    grads = cell.table.gradients(rows.IN_TURN)
    opt = rows.optimizer(cell.rule, rows.zeros(cell.table))
    following = rows.cycle(grads)
    time_it("rows", str(cell), lambda: opt.step(next(following)))
