"""``fastoptim bench``: a step beside the memory limit, NumPy and other libraries, on this machine.

`cases` says what is compared: rules, sizes, dtypes. `contenders` are those who compute it, each
checked against the reference before anyone may time it: `numpy_plain` and `numpy_in_place` have
the rules as people write them, `rivals` the other libraries. `_yardsticks` has the memory limit and
rules by hand in C, of which the fastest of all `variants` counts. `timing` lets them take turns.
`sections` lists the cells of each part of the benchmark, `loop` is the one in which matrix
products and steps alternate, `choice` sets the engine's own choice of level and threads beside
fixed ones. `command` has the arguments, `report` and `plot` what comes out.
"""

from .command import add_arguments, main

__all__ = ["add_arguments", "main"]


def __dir__() -> list[str]:
    return __all__
