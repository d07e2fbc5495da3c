"""Count the instructions of a step: ``python bench/count_instructions.py``.

Unlike times these repeat, on any machine with valgrind. The arrays have 16 elements, so that the
path to the loop outweighs the loop. The count is the difference between a run with few steps and
one with many, divided by the number of steps between.

Another compiler or another Python makes other instructions of the same sources. There the counts
are shown without a budget, and none is too high.
"""

import os
import platform
import re
import shutil
import subprocess
import sys
from typing import NamedTuple

from fastoptim._config import config

SLACK = 1.02
COUNTED_WITH = "gcc 12, Python 3.11, x86_64"
# Where arrays lie, and when Python looks for garbage, depends on all that the process has done
# before, and differs from one installation to the next: so arrays are in the order of their
# addresses, of which the engine makes a sorted list, and garbage stays.
PROGRAM = """
import gc, sys, numpy as np, fastoptim as fo
gc.disable()
def ones(arrays):
    return sorted((np.ones(16, "float32") for _ in range(arrays)), key=lambda a: a.ctypes.data)
{setup}
for t in range(1, 1 + int(sys.argv[1])):
    {step}
"""
QUIET = {
    "PYTHONHASHSEED": "0",
    "OPENBLAS_NUM_THREADS": "1",
    "FASTOPTIM_NUM_THREADS": "1",
    "FASTOPTIM_TUNING": "off",  # which would try other levels, as the time of steps suggests
}


class Case(NamedTuple):
    """What is counted: a statement for each step, t, and what comes before the first."""

    counted: int  # instructions of a step
    setup: str
    step: str = "opt.step(grads)"
    steps: int = 500


def of_arrays(counted: int, arrays: int) -> Case:
    """Return the case of an Adam on some arrays."""
    setup = f"opt, grads = fo.Adam(ones({arrays})), ones({arrays})"
    return Case(counted, setup, steps=max(20, 2000 // arrays))


def of_call(counted: int, step: str) -> Case:
    """Return the case of a call on 1,000 arrays."""
    return Case(counted, "params, grads = ones(1000), ones(1000)", step, steps=20)


GROUPS = "opt, grads = fo.Adam([{'params': p} for p in ones(2)]), ones(2)"
ROWS = (
    "p, g = np.zeros((1000, 8), 'float32'), np.ones((16, 8), 'float32'); "
    "rows = fo.Rows(np.arange(16) * 37 % 99, g)"
)
STATE = "(p, g, m), v = ones(3), np.zeros(16, 'float32')"

# Who makes a step cheaper, or has a reason to make it dearer, writes the new counts here, and the
# reason into the commit.
CASES = {
    "1 array": of_arrays(15_130, 1),
    "100 arrays": of_arrays(52_516, 100),
    "10,000 arrays": of_arrays(3_796_328, 10_000),
    "2 groups": Case(31_070, GROUPS),
    "lr is set": Case(51_197, of_arrays(0, 1).setup, "opt.lr = 0.1 / t; opt.step(grads)"),
    "lr is set, 2 groups": Case(93_386, GROUPS, "opt.lr = 0.1 / t; opt.step(grads)"),
    "lr is a schedule": Case(
        33_883, "opt, grads = fo.Adam(ones(1), lr=fo.schedules.Step(0.1, step_size=9)), ones(1)"
    ),
    "lr and weight_decay are": Case(
        59_296,
        "opt, grads = fo.Adam(ones(1), lr=fo.schedules.Step(0.1, step_size=9), "
        "weight_decay=fo.schedules.Step(0.1, step_size=9)), ones(1)",
    ),
    "16 rows, Adagrad": Case(23_924, f"{ROWS}; opt = fo.Adagrad(p)", "opt.step(rows)"),
    "16 rows, lazy Adam": Case(26_397, f"{ROWS}; opt = fo.Adam(p, lazy=True)", "opt.step(rows)"),
    "global_norm, 1,000": of_call(946_576, "fo.global_norm(grads)"),
    "clip_grad_value_, 1,000": of_call(1_058_768, "fo.clip_grad_value_(grads, 0.5)"),
    "making one of 1,000": of_call(25_416_342, "fo.Adam(params)"),
    "functional.adam": Case(65_656, STATE, "fo.functional.adam(p, g, m, v, step=t, lr=0.1)"),
    "functional.sgd": Case(58_784, STATE, "fo.functional.sgd(p, g, lr=0.1)"),
}


def environment() -> str:
    """Return what the number of instructions depends on, beside the sources."""
    compiler = re.sub(r"(\d+)\..*", r"\1", config()["compiler"])
    return f"{compiler}, Python {sys.version_info[0]}.{sys.version_info[1]}, {platform.machine()}"


def instructions(case: Case, steps: int) -> int:
    """Return the instructions of a process that takes so many steps."""
    program = PROGRAM.format(setup=case.setup, step=case.step)
    command = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={os.devnull}"]
    command += [sys.executable, "-c", program, str(steps)]
    run = subprocess.run(
        command, env=os.environ | QUIET, capture_output=True, text=True, check=False
    )
    found = re.search(r"Collected : (\d+)", run.stderr)
    if run.returncode != 0 or found is None:
        raise SystemExit(f"valgrind failed:\n{run.stderr}")
    return int(found[1])


def main() -> int:
    """Print the counts beside their budgets; return 1 if one is over it."""
    if shutil.which("valgrind") is None:
        raise SystemExit("count_instructions: valgrind is not installed")
    here = environment()
    held = here == COUNTED_WITH
    if not held:
        print(f"no budgets: they are those of {COUNTED_WITH}, and this is {here}")
    over = 0
    print(f"{'':24}{'a step':>12}{'budget':>12}")
    for name, case in CASES.items():
        few, many = 10, 10 + case.steps
        count = (instructions(case, many) - instructions(case, few)) // (many - few)
        budget = int(SLACK * case.counted)
        too_many = held and count > budget
        over += too_many
        print(
            f"{name:24}{count:>12,}{f'{budget:,}' if held else 'none':>12}"
            + ("  over the budget" if too_many else ""),
            flush=True,
        )
    return int(over > 0)


if __name__ == "__main__":
    sys.exit(main())
