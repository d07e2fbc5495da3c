"""What many small arrays cost beside the loop: norms, clipping, making and loading an optimizer."""

import numpy as np
import pytest

import fastoptim as fo

ELEMENTS = 100
SIZES = [1_000, 10_000]


class Many:
    """An optimizer of many arrays, their gradients, and what people do with them at every step."""

    def __init__(self, count):
        self.params = [np.ones(ELEMENTS, np.float32) for _ in range(count)]
        self.grads = [np.full(ELEMENTS, 0.1, np.float32) for _ in range(count)]
        self.opt = fo.Adam(self.params)
        self.step()
        self.saved = self.opt.state_dict()

    def step(self):
        self.opt.step(self.grads)

    def global_norm(self):
        fo.global_norm(self.grads)

    def all_finite(self):
        fo.all_finite(self.grads)

    def clip_grad_norm_(self):
        fo.clip_grad_norm_(self.grads, 1e-3)

    def clip_grad_value_(self):
        fo.clip_grad_value_(self.grads, 0.1)

    def make(self):
        fo.Adam(self.params)

    def state_dict(self):
        self.opt.state_dict()

    def load_state_dict(self):
        self.opt.load_state_dict(self.saved)


CALLS = [name for name in vars(Many) if not name.startswith("__")]


@pytest.mark.parametrize("count", SIZES)
@pytest.mark.parametrize("call", CALLS)
def test_call(time_it, call, count):
    many = Many(count)
    time_it(f"{count:,} arrays of {ELEMENTS}", call, getattr(many, call))


@pytest.mark.parametrize("count", SIZES)
@pytest.mark.parametrize("call", ["save", "load"])
def test_file(time_it, tmp_path, call, count):
    many = Many(count)
    path = tmp_path / "saved"
    many.opt.save(path)
    time_it(f"{count:,} arrays of {ELEMENTS}", call, getattr(many.opt, call), path)
