"""A module with a rule of its own, as a program has one: for pickles and checkpoints."""

from __future__ import annotations

import fastoptim as fo
from fastoptim.typing import NonNegative


def my_scalars(step, lr: NonNegative = 0.5, decay: NonNegative = 0.5):
    return lr / step, decay


@fo.rule(state=("m",), scalars=my_scalars)
def my_rule(p, g, m, lr, decay):
    """Go down an average of the gradients."""
    m = decay * m + g
    return p - lr * m, m


Chosen = fo.optimizer(my_rule)  # a name that the class does not know of


class Derived(fo.optimizer(my_rule)):
    """A class that has more."""

    def twice(self, grads):
        self.step(grads)
        self.step(grads)
