"""A program with annotations that uses all that is public: right lines, and wrong ones.

tests/test_types.py lets mypy read it, which must object to the lines that end in ``# wrong`` and
to no other. Nobody runs it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

import fastoptim as fo
from fastoptim import functional, gradients, init, optimizers, prune, reference, schedules, threads
from fastoptim.schedules import Constant, CosineAnnealing, ReduceLROnPlateau, Schedule, WarmUp
from fastoptim.typing import (
    Array,
    Betas,
    Grads,
    Mask,
    Masks,
    NonNegative,
    Params,
    Scheduled,
    ScheduledPair,
    ScheduledTriple,
)


def rate(t: int) -> float:
    return 0.1 / (1 + t)


class Logged(fo.Adam):
    """A class with attributes of its own."""

    def __init__(self, params: Params, lr: Scheduled[float] = 1e-3) -> None:
        super().__init__(params, lr, nonfinite="raise", max_grad_norm=1.0)
        self.history: list[float] = []

    def step(self, grads: Grads, *, grad_scale: float = 1.0) -> None:
        super().step(grads, grad_scale=grad_scale)
        self.history.append(self.lr)


def schedule_of(base: float) -> Schedule:
    return WarmUp(CosineAnnealing(base, T_max=100), 10)


def every(params: dict[str, Array]) -> list[fo.Optimizer]:
    """Return one of each, with plain hyperparameters, schedules and functions."""
    betas: ScheduledPair = (rate, 0.999)
    three: ScheduledTriple = (0.9, 0.999, rate)
    return [
        fo.SGD(params, lr=rate, momentum=0.9, nesterov=True),
        fo.SGD(list(params.values()), 0.1, 0.9, 0.0, 0.0, True),
        fo.Momentum(params, lr=schedule_of(0.1), form="heavy_ball"),
        fo.RMSprop(params["w"], alpha=lambda t: 1 - 1 / (t + 1), centered=True),
        fo.Adagrad([{"params": params, "lr": 0.1}], initial_accumulator_value=0.1),
        fo.Adam(params, betas=betas, amsgrad=True, decoupled_weight_decay=True),
        fo.AdamW(params, lr=Constant(0.1), weight_decay=schedule_of(0.1), eps_hat=True),
        fo.Adadelta(params, rho=rate, eps=1e-6),
        fo.Adamax(params, betas=(0.9, schedules.Constant(0.999))),
        fo.NAdam(params, momentum_decay=4e-3),
        fo.RAdam(params, betas=lambda t: (0.9, 0.99)),
        fo.Rprop(params, etas=(0.5, 1.2), step_sizes=(1e-6, 50)),
        fo.ASGD(params, lambd=1e-4, alpha=0.75, t0=1e6),
        fo.Lion(params, maximize=True, backend="reference"),
        fo.AdaBelief(params, eps_root=1e-16, bounds=(0, np.inf), ema_decay=0.99),
        fo.Yogi(params, initial_accumulator_value=0.0),
        fo.AdEMAMix(params, betas=three, alpha=rate),
        fo.ADOPT(params, betas=betas, decoupled_weight_decay=True),
        fo.Adan(params, betas=three),
        fo.FTRL(params, lr=0.1, l1_regularization_strength=1.0, beta=1.0),
        fo.LAMB(params, l1=1e-5, max_grad_value=lambda t: 1.0, flush_denormals=True),
        fo.StableAdamW(params, lr=rate),
        fo.ScheduleFreeSGD(params, warmup_steps=100, r=1.0),
        fo.ScheduleFreeAdamW(params, betas=betas, weight_lr_power=0),
        fo.Lion(params, cautious=True),
        optimizers.LARS(params, trust_coefficient=rate, mask={"w": None, "b": params["b"] > 0}),
    ]


def several(table: Array, dense: dict[str, Array]) -> None:
    groups: list[dict[str, Any]] = [{"optimizer": fo.Adagrad, "params": table, "lr": 0.1}]
    groups.append({"optimizer": fo.AdamW, "params": dense})
    opt = fo.Mixed(groups, max_grad_norm=1.0, weight_decay=0.1, ema_decay=lambda t: 0.9)
    opt.step([table, dense])
    opt.step([fo.Rows(np.array([1, 2]), table), None])
    opt.step([fo.Rows.from_csr(table), dense])
    fo.Adam(table, lazy=True).lazy = False
    fo.Adam(table, lazy="always")  # wrong
    opt.lr = opt.lr * 0.5
    fo.Mixed(groups, lr=0.1)  # wrong


def none(params: dict[str, Array]) -> None:
    fo.SGD(params, learning_rate=0.1)  # wrong
    fo.SGD(params, amsgrad=True)  # wrong
    fo.SGD(params, lr="0.1")  # wrong
    fo.Adam(params, betas=(0.9, 0.99, 0.999))  # wrong
    fo.Adam(params, nonfinite="skipp")  # wrong
    fo.Momentum(params, form="averagedd")  # wrong


class Pair(NamedTuple):
    """Parameters, as people hold them."""

    w: Array
    b: Array


@dataclass
class Layer:
    """Parameters, as other people hold them."""

    w: Array
    inner: Pair


def nested(w: Array) -> None:
    layer = Layer(w, Pair(w, w))
    fo.SGD({"layers": [layer, {"w": w}], "b": (w, w)}, cast_grads=True)
    fo.SGD(layer, mask=Layer(w, Pair(w, w)))
    fo.SGD([[w], [w, [w]]])
    fo.SGD(x for x in [Pair(w, w)]).step(iter([None]))
    fo.SGD(layer).step(Layer(w, Pair(w, w)))
    fo.SGD([{"params": {"layers": [layer]}, "lr": 0.1}, {"params": w}])
    fo.SGD(1.0)  # wrong


def changed(opt: fo.AdamW, w: Array) -> None:
    """Read and set what an optimizer has."""
    first, second = opt.betas
    opt.lr *= 0.5 * (first + second)
    print(f"{opt.lr:.3g}", opt.lr.hex(), opt.lr.real_part)  # wrong
    opt.lr = schedule_of(0.1)
    opt.lr = rate
    lr = opt.lr
    if callable(lr):
        lr(3)
    opt.betas = 0.9, 0.99
    opt.betas = (rate, 0.99)
    opt.amsgrad = lambda t: t > 100
    opt.bounds = None
    opt.bounds = 0.0, 1.0
    opt.ema_decay = 0.99
    opt.max_grad_norm = None
    opt.nonfinite = "skip"
    opt.lrr = 1  # wrong
    opt.momentum = 0.9  # wrong
    opt.lr = "0.1"  # wrong
    opt.betas = 0.9  # wrong
    opt.amsgrad = lambda t: "yes"  # wrong
    opt.nonfinite = "skipp"  # wrong
    opt.stepp(w)  # wrong
    opt.steps = {}  # wrong

    opt.step(w)
    opt.step({"w": w, "b": None}, grad_scale=2.0)
    opt.step(0.5)
    opt.step([0.5, [1.0, 2.0]])
    opt.step(g for g in (w, w))
    opt.step({"w": w}.values())
    opt.rebind({"w": w})
    opt.rebind(w, w)  # wrong
    opt.cast_grads = True
    opt.cast_grads = "yes"  # wrong
    opt.step(w, gradscale=2.0)  # wrong
    norm = opt.grad_norm
    if norm is not None:
        norm.is_integer()
    taken: int = max(opt.steps.values()) + opt.skipped_steps
    range(taken)
    opt.state[0]["m"].sum()
    with opt.use_ema():
        opt.ema.sum()
    with opt.use_average():
        pass
    opt.add_param_group({"params": w})
    opt.param_groups[0]["lr"] = rate
    opt.param_groups[0].update(lr=0.1, eps=1e-6)
    opt.save("run.safetensors", params=False)
    opt.load("run.safetensors")
    opt.load_state_dict(opt.state_dict())
    plateau = ReduceLROnPlateau(opt, factor=0.5)
    plateau.step(0.5)
    opt.backend.upper()


def generic(opt: fo.Optimizer, group: fo.ParamGroup) -> list[Any]:
    opt.lr, opt.weight_decay, opt.maximize = rate, 0.1, False
    opt.eps = 1e-8  # wrong
    return list(group)


def functions(w: Array, g: Array, step: int) -> None:
    """Take steps on arrays that the program keeps."""
    m, v = np.zeros_like(w), np.zeros_like(w)
    functional.adam(w, g, m, v, step=step, lr=rate)
    functional.adam(w, g, m, v, None, step=step, betas=(rate, 0.99), l1=0.1)
    functional.adamw(w, g, m, v, step=step, weight_decay=0.1)
    functional.momentum(w, g, m, step=step, form="heavy_ball")
    functional.adamm(w, g, m, v, step=step)  # wrong
    functional.adam(w, g, m, v)  # wrong
    functional.adam(w, g, m, v, step=step, beta1=0.9)  # wrong
    fo.functional.rprop(w, g, m, v, step=step, etas=(0.5, 1.2))
    reference.adam(w, g, m, v, step=step, lr=0.1)


def own_scalars(step: int, lr: NonNegative = 0.1, betas: Betas = (0.9, 0.99)) -> tuple[float, ...]:
    return lr / step, betas[0]


@fo.rule(state=("m",), scalars=own_scalars)
def own(p: Any, g: Any, m: Any, lr: Any, b: Any) -> Any:
    m = b * m + fo.where(g > 0, fo.sqrt(fo.abs(g)), g)
    return p - lr * m, m


def own_rules(w: Array, g: Array) -> str:
    cls = fo.optimizer(own, name="Own")
    opt = cls(w, lr=rate, max_grad_norm=1.0)
    opt.step(g)
    opt.stepp(g)  # wrong
    fo.optimizer(own_scalars)  # wrong
    fo.rule(state="m", scalar=own_scalars)  # wrong
    own(w, g, np.zeros_like(w), step=1)
    fo.rules.optimizer(own)(w).step(g)
    return fo.get_include()


def others(w: Array, grads: dict[str, Array]) -> float:
    mask: Mask = prune.magnitude(w, 0.5)
    masks: Masks = fo.prune.magnitude(grads, 0.5)
    fo.SGD(w, mask=mask)
    fo.SGD(grads, mask=masks)
    fo.clip_grad_norm_(grads, 1.0)
    fo.clip_grad_value_(grads, clip_value=0.5)
    if not fo.all_finite([w, None]) or not gradients.all_finite(grads):
        return fo.global_norm(grads)
    rng = np.random.default_rng(0)
    gain = init.calculate_gain("relu")
    weights = fo.init.kaiming_normal((3, 4), rng=rng, dtype="float32")
    fo.SGD(weights, lr=abs(weights).max() + (weights @ weights.T).sum())
    fo.SGD(init.xavier_uniform((3, 4), gain=gain, rng=rng, dtype=np.float64))
    fo.set_num_threads(2)
    fo.set_num_threads(None)
    with fo.num_threads(1), fo.share_blas_threads():
        range(fo.get_num_threads() + threads.get_num_threads())
    fo.show_config()
    fo.shew_config()  # wrong
    schedules.Linearr(0.1)  # wrong
    chosen: Callable[[int], float] = schedules.Sequential([Constant(0.1), rate], milestones=[5])
    fo.__version__.split(".")
    return chosen(3)
