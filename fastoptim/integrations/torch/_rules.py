"""Rules of which torch keeps more in its state than arrays and a count of steps.

fastoptim makes the numbers of a step of the hyperparameters of that step alone. Torch makes some of
them of what they were before, too: so where a hyperparameter changes, or a scheduler changes it,
the steps that follow are others. These rules go on from torch's numbers as torch does. They come in
the type of torch's tensors, so that what is made of them is rounded as there.
"""

from __future__ import annotations

from typing import Any

import torch

import fastoptim as fo
from fastoptim import reference
from fastoptim._kinds import Betas, NonNegative, Switch
from fastoptim._rule import Rule


def _nadam_scalars(
    step: int,
    mu_product: NonNegative,
    lr: NonNegative = 2e-3,
    betas: Betas = (0.9, 0.999),
    eps: NonNegative = 1e-8,
    weight_decay: NonNegative = 0.0,
    momentum_decay: NonNegative = 4e-3,
    decoupled_weight_decay: Switch = False,
) -> Any:
    mu_product = mu_product * reference.nadam_momentum(step, betas[0], momentum_decay)
    own = reference.nadam.scalars(
        step, lr, betas, eps, weight_decay, momentum_decay, decoupled_weight_decay
    )
    lr_g, lr_m = reference.nadam_rates(step, lr, betas[0], momentum_decay, float(mu_product))
    return reference.nadam.named(own)._replace(lr_g=lr_g, lr_m=lr_m), (mu_product,)


class NAdam(fo.NAdam):
    """NAdam with the product of the momenta that its steps had, whatever they would be now."""

    rule = Rule(
        reference.nadam.update,
        _nadam_scalars,
        decoupled=reference.nadam.decoupled,
        numbers={"mu_product": 1.0},
    )


def _asgd_scalars(
    step: int,
    eta: NonNegative,
    mu: NonNegative,
    lr: NonNegative = 1e-2,
    lambd: NonNegative = 1e-4,
    alpha: NonNegative = 0.75,
    t0: NonNegative = 1e6,
) -> Any:
    eta, mu = float(eta), float(mu)
    _, *following = reference.asgd.scalars(step + 1, lr, lambd, alpha, t0)
    # Torch makes tensors of them, in its default type, whatever type they are kept in: that is
    # another one where torch has loaded them for parameters of another type.
    return (1 - lambd * eta, eta, mu), tuple([torch.as_tensor(x).item() for x in following])


class ASGD(fo.ASGD):
    """ASGD whose step has the rates that the step before it has made."""

    rule = Rule(
        reference.asgd.update,
        _asgd_scalars,
        starts={"eta": "lr"},
        numbers={"eta": 0.0, "mu": 1.0},
    )
