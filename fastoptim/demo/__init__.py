"""``fastoptim demo``: one network, some optimizers, each stepped by NumPy and by fastoptim.

`digits` loads the images, `network` has the forward and backward passes, `training` the trainings.
`examples` are smaller things to learn the methods from. `command` has the arguments, and what is
printed and drawn.
"""

from .command import add_arguments, main

__all__ = ["add_arguments", "main"]


def __dir__() -> list[str]:
    return __all__
