"""Count the instructions of a call: ``python bench/count_instructions.py``.

Unlike times these repeat, on any machine with valgrind. Adam steps arrays of 16 float32 elements,
so that the path to the loop outweighs the loop. The count is the difference between a run with
few calls and one with many, divided by the number of calls between.

Another compiler or another Python makes other instructions of the same sources. There the counts
are shown without a budget, and none is too high.
"""

import os
import platform
import re
import shutil
import subprocess
import sys

from fastoptim._config import config

# Of a call, by the number of arrays. Who makes one cheaper, or has a reason to make it dearer,
# writes the new counts here, and the reason into the commit.
COUNTS = {
    ("opt.step(grads)", 1): 15_309,
    ("opt.step(grads)", 100): 49_819,
    ("opt.step(grads)", 10_000): 3_516_170,
    ("fo.global_norm(grads)", 1_000): 826_027,
    ("fo.clip_grad_value_(grads, 0.5)", 1_000): 1_357_693,
    ("fo.Adam(params)", 1_000): 24_899_721,
}
SLACK = 1.02
COUNTED_WITH = "gcc 12, Python 3.11, x86_64"
ELEMENTS = 16
PROGRAM = """
import sys, numpy as np, fastoptim as fo
arrays, elements, calls = map(int, sys.argv[1:])
params = [np.ones(elements, "float32") for _ in range(arrays)]
grads = [np.ones(elements, "float32") for _ in range(arrays)]
opt = fo.Adam(params)
for _ in range(calls):
    {call}
"""
QUIET = {"PYTHONHASHSEED": "0", "OPENBLAS_NUM_THREADS": "1", "FASTOPTIM_NUM_THREADS": "1"}


def environment() -> str:
    """Return what the number of instructions depends on, beside the sources."""
    compiler = re.sub(r"(\d+)\..*", r"\1", config()["compiler"])
    return f"{compiler}, Python {sys.version_info[0]}.{sys.version_info[1]}, {platform.machine()}"


def instructions(call: str, arrays: int, calls: int) -> int:
    """Return the instructions of a process that makes so many calls."""
    command = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={os.devnull}"]
    program = PROGRAM.format(call=call)
    command += [sys.executable, "-c", program, *map(str, (arrays, ELEMENTS, calls))]
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
    print(f"{'call':<32}{'arrays':>8}{'a call':>12}{'an array':>10}{'budget':>12}")
    for (call, arrays), counted in COUNTS.items():
        few, many = 10, 10 + max(20, 2000 // arrays)
        count = (instructions(call, arrays, many) - instructions(call, arrays, few)) // (many - few)
        budget = int(SLACK * counted)
        too_many = held and count > budget
        over += too_many
        print(
            f"{call:<32}{arrays:>8,}{count:>12,}{count // arrays:>10,}"
            f"{f'{budget:,}' if held else 'none':>12}" + ("  over the budget" if too_many else ""),
            flush=True,
        )
    return int(over > 0)


if __name__ == "__main__":
    sys.exit(main())
