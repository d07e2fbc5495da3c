"""How close steps with state on disk come to the disk: ``python bench/bench_state_on_disk.py``.

It is `fastoptim bench --disk` for waves of several lengths, of which `fastoptim._engine.disk` has
one, in the folder that is named (by default the current one), which should not be in memory.
"""

import sys
from pathlib import Path

from fastoptim._engine.disk import set_wave_bytes
from fastoptim.bench.cases import CASES
from fastoptim.bench.contenders import SUBJECT
from fastoptim.bench.disk import BUDGET, MEMORY, PLAIN, cells, measure
from fastoptim.bench.report import environment

WAVES = (1 << 20, 2 << 20, 4 << 20, 8 << 20, 16 << 20)
RULES = ("Adam", "SGD-momentum")

if __name__ == "__main__":
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else ".")
    print(*(f"{name}: {value}" for name, value in environment().items()), sep="\n")
    print(f"{'rule':>14}{'state':>10}{'wave':>10}{'GB/s':>8}{'loop':>8}{'of loop':>8}{'memory':>8}")
    for rule in RULES:
        for cell in cells(CASES[rule], quick=False):
            for size in WAVES:
                before = set_wave_bytes(size)
                try:
                    found = measure(cell, folder, BUDGET)
                finally:
                    set_wave_bytes(before)
                print(
                    f"{rule:>14}{found.nbytes / 1e6:>7.0f} MB{size >> 20:>7} MB"
                    f"{found.rate(SUBJECT):>8.2f}{found.rate(PLAIN):>8.2f}"
                    f"{found.ratio(PLAIN):>8.2f}{found.ratio(MEMORY):>8.3f}",
                    flush=True,
                )
