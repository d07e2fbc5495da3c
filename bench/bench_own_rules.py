"""Rules of one's own beside the built-in ones, and beside a loop of numba's by the low door.

``python bench/bench_own_rules.py`` shows instead how long the first use takes in a process: the
first time on a machine, and when the machine code is on disk; and how long numba takes.
"""

import math
import subprocess
import sys
import tempfile
import time

import numpy as np
import pytest

import fastoptim as fo
from fastoptim.typing import Betas, NonNegative


def adam_scalars(step, lr: NonNegative = 1e-3, betas: Betas = (0.9, 0.999), eps: float = 1e-8):
    b1, b2 = betas
    return b1, 1 - b1, b2, 1 - b2, lr / (1 - b1**step), 1 / math.sqrt(1 - b2**step), eps


@fo.rule(state=("m", "v"), scalars=adam_scalars)
def adam(p, g, m, v, b1, a1, b2, a2, lr, r2, eps):
    m = b1 * m + a1 * g
    v = b2 * v + (a2 * g) * g
    return p - (lr * m) / (fo.sqrt(v) * r2 + eps), m, v


@fo.rule(state=("v",), scalars=lambda lr=1e-3, momentum=0.9: (lr, momentum))
def sgd(p, g, v, lr, mu):
    v = mu * v + g
    return p - lr * v, v


def adam_by_numba():
    """Return the class of Adam with numba's loops; compiling them takes a while."""
    numba = pytest.importorskip("numba")
    types = numba.types

    def compiled(real):
        array = types.CPointer(real)
        signature = types.void(types.intp, array, array, types.CPointer(array), array)

        @numba.cfunc(signature, error_model="numpy")
        def loop(n, p, g, state, c):
            m, v = state[0], state[1]
            b1, a1, b2, a2, lr, r2, eps = c[0], c[1], c[2], c[3], c[4], c[5], c[6]
            for i in range(n):
                mi = b1 * m[i] + a1 * g[i]
                vi = b2 * v[i] + (a2 * g[i]) * g[i]
                m[i] = mi
                v[i] = vi
                p[i] = p[i] - (lr * mi) / (np.sqrt(vi) * r2 + eps)

        return loop

    loops = {"float32": compiled(types.float32), "float64": compiled(types.float64)}
    make = fo.rule(state=adam.state, scalars=adam_scalars, name="adam by numba", loops=loops)
    return fo.optimizer(make(adam.function), "AdamByNumba")


CONTENDERS = {
    "Adam": {
        "built-in": lambda: fo.Adam,
        "own": lambda: fo.optimizer(adam),
        "numba": adam_by_numba,
    },
    "SGD with momentum": {"built-in": lambda: fo.SGD, "own": lambda: fo.optimizer(sgd)},
}
CELLS = [(rule, contender) for rule, found in CONTENDERS.items() for contender in found]


@pytest.mark.parametrize(("rule", "contender"), CELLS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("size", [4_096, 65_536, 1_000_000], ids=str)
def test_step(time_it, rule, contender, dtype, size):
    g = np.full(size, 1e-3, dtype)
    options = {} if rule == "Adam" else {"momentum": 0.9}
    opts = [make()(np.ones_like(g), **options) for make in CONTENDERS[rule].values()]
    for opt in opts:
        opt.step(g)
    first, *others = (opt.param_groups[0]["params"][0] for opt in opts)
    assert all((p == first).all() for p in others)
    opt = opts[[*CONTENDERS[rule]].index(contender)]
    for _ in range(50):  # until the engine has found out how
        opt.step(g)
    time_it(f"{rule}, {size}, {dtype}", contender, opt.step, g)


FIRST_USE = """
import sys, time
import numpy as np
import fastoptim as fo
sys.path.insert(0, {folder!r})
import bench_own_rules as rules
start = time.perf_counter()
{make}(np.ones(10)).step(np.ones(10))
print(time.perf_counter() - start)
"""
USES = {
    "built-in": ["fo.Adam"],
    "own, first on a machine and again": ["fo.optimizer(rules.adam)"] * 2,
    "numba, by the low door": ["rules.adam_by_numba()"],
}


def seconds(make: str, cache: str) -> float:
    """Return how long the first optimizer and its first step take in a fresh process."""
    code = FIRST_USE.format(folder=sys.path[0], make=make)
    environment = {"PATH": "", "FASTOPTIM_CACHE_DIR": cache, "PYTHONPATH": ":".join(sys.path)}
    command = [sys.executable, "-c", code]
    return float(subprocess.check_output(command, env=environment, text=True))


def main() -> None:
    for name, makes in USES.items():
        found = []
        for _ in range(5):
            with tempfile.TemporaryDirectory() as cache:
                found.append([seconds(make, cache) for make in makes])
            time.sleep(0.2)
        middle = np.median(found, axis=0)
        print(f"{name}: {', '.join(f'{1000 * x:.3g} ms' for x in middle)}")


if __name__ == "__main__":
    main()
