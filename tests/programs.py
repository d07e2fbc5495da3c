"""Programs that were stopped half way, with what they saved, and where they went from there.

Each file in `saved` was written once, by the version in its name, and stays as it is:

    python tests/programs.py 0.1 [thinc | torch]

All powers in them are exact, so that the bits do not depend on a library of mathematics.
"""

from __future__ import annotations

import pickle
import sys
from pathlib import Path

import numpy as np

import fastoptim as fo

SAVED = Path(__file__).parent / "saved"
STEPS = 3


def gradient(like, t):
    """Return a gradient of the t-th step, with a few zeros."""
    values = np.arange(like.size, dtype=like.dtype).reshape(like.shape)
    return (values - t) / 8


def adam():
    """Return an optimizer of two groups with a schedule, a mask, an average and all options."""
    w = np.asfortranarray(np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4))
    params = {"w": w, "b": np.array(0.5)}
    lr = fo.schedules.WarmUp(fo.schedules.Exponential(0.25, gamma=0.5), warmup_steps=2)
    first = {"params": params, "lr": lr, "mask": {"w": w > -0.5, "b": None}, "ema_decay": 0.5}
    second = {"params": [np.ones(5), np.ones(2)], "lr": 0.125, "amsgrad": True, "bounds": (-1, 2)}
    options = {"betas": (0.5, 0.75), "max_grad_norm": 2.0, "nonfinite": "skip"}
    return params, fo.Adam([first, second], **options)


def go_on_adam(optimizer, start):
    """Take three steps, of which one array misses some, and skip one of a NaN."""
    first, second = (group["params"] for group in optimizer.param_groups)
    for t in range(start, start + STEPS):
        grads = {name: gradient(p, t) for name, p in zip("wb", first, strict=True)}
        late = gradient(second[1], t) if t % 2 else None
        optimizer.step([grads, [gradient(second[0], t), late]])
    grads["b"] = np.array(np.nan)
    optimizer.step([grads, [None, None]])


def momentum():
    """Return an optimizer of one array whose average has not begun."""
    p = np.linspace(-2, 2, 9, dtype=np.float32)
    return p, fo.SGD(p, lr=0.25, momentum=0.5, nesterov=True, weight_decay=0.125, ema_decay=0.75)


def go_on_momentum(optimizer, start):
    (p,) = optimizer.param_groups[0]["params"]
    for t in range(start, start + STEPS):
        optimizer.step(gradient(p, t))


def arrays_of(optimizer):
    """Return the bytes of all arrays, the step counts and the steps not taken."""
    params = [p for group in optimizer.param_groups for p in group["params"]]
    state = {key: dict(arrays) for key, arrays in optimizer.state.items()}
    arrays = {(key, name): a for key, item in state.items() for name, a in item.items()}
    arrays |= {(key, "p"): p for key, p in zip(state, params, strict=True)}
    counts = list(optimizer.steps.values()), optimizer.skipped_steps
    return {place: a.tobytes(order="F") for place, a in arrays.items()}, counts


def write(version):
    """Save what the programs are after their first half, and the result of their second."""
    params, optimizer = adam()
    go_on_adam(optimizer, 0)
    p, unstarted = momentum()
    optimizer.save(SAVED / f"{version}.safetensors")
    saved = {
        "together": pickle.dumps((params, optimizer), 4),
        "unstarted": pickle.dumps((p, unstarted), 4),
        "state_dict": optimizer.state_dict(),
        "params": [p for group in optimizer.param_groups for p in group["params"]],
    }
    saved = pickle.loads(pickle.dumps(saved))
    go_on_adam(optimizer, STEPS)
    go_on_momentum(unstarted, 0)
    expected = {"together": arrays_of(optimizer), "unstarted": arrays_of(unstarted)}
    (SAVED / f"{version}.pickle").write_bytes(pickle.dumps((saved, expected), 4))


def torch_adam():
    import torch

    from fastoptim.integrations.torch import AdamW

    params = [
        torch.linspace(-1, 1, 6).reshape(2, 3).requires_grad_(),
        torch.ones(4, dtype=torch.float64).requires_grad_(),
    ]
    groups = [{"params": params[:1]}, {"params": params[1:], "lr": 0.25, "amsgrad": True}]
    options = {"betas": (0.5, 0.75), "ema_decay": 0.5, "max_grad_norm": 2.0, "nonfinite": "skip"}
    return AdamW(groups, lr=0.125, **options)


def go_on_torch(optimizer, start):
    import torch

    params = [p for group in optimizer.param_groups for p in group["params"]]
    for t in range(start, start + STEPS):
        for p in params:
            p.grad = torch.from_numpy(gradient(p.detach().numpy(), t))
        optimizer.step()


def tensors_of(optimizer):
    """Return the bytes of all tensors."""
    params = [p for group in optimizer.param_groups for p in group["params"]]
    found = [{"p": p.detach(), **optimizer.state[p]} for p in params]
    return [{name: t.numpy().tobytes() for name, t in item.items()} for item in found]


def write_torch(version):
    optimizer = torch_adam()
    go_on_torch(optimizer, 0)
    for p in optimizer.state:
        p.grad = None
    saved = pickle.dumps(optimizer, 4)
    go_on_torch(optimizer, STEPS)
    (SAVED / f"{version}-torch.pickle").write_bytes(pickle.dumps((saved, tensors_of(optimizer)), 4))


def thinc_adam():
    from fastoptim.integrations.thinc import Adam

    options = {"beta1": 0.5, "beta2": 0.75, "L2": 0.125, "grad_clip": 2.0, "use_averages": True}
    weights = np.linspace(-1, 1, 8, dtype=np.float32)
    return weights, Adam(0.25, **options)


def go_on_thinc(weights, optimizer, start):
    """Take three steps, and return the weights and the state."""
    for t in range(start, start + STEPS):
        weights, _ = optimizer((1, "W"), weights, gradient(weights, t))
    state = optimizer.mom1, optimizer.mom2, optimizer.averages
    return [weights.tobytes(), *(arrays[1, "W"].tobytes() for arrays in state)]


def write_thinc(version):
    weights, optimizer = thinc_adam()
    go_on_thinc(weights, optimizer, 0)
    saved = pickle.dumps((weights, optimizer), 4)
    expected = go_on_thinc(weights, optimizer, STEPS)
    (SAVED / f"{version}-thinc.pickle").write_bytes(pickle.dumps((saved, expected), 4))


if __name__ == "__main__":
    version, *more = sys.argv[1:]
    {"": write, "thinc": write_thinc, "torch": write_torch}["".join(more)](version)
