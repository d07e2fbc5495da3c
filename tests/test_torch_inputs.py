"""The inputs, good and bad, of torch's own optimizer tests, which are installed with torch."""

from __future__ import annotations

import copy

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
common = pytest.importorskip(
    "torch.testing._internal.common_optimizers",
    reason="expecttest is not installed, which torch's test helpers need",
    exc_type=ImportError,
)

from fastoptim.integrations import torch as integration  # noqa: E402

INFOS = [info for info in common.optim_db if info.name in integration.__all__]
# torch has no Lion
assert {info.name for info in INFOS} == set(integration.__all__) - {"Lion", "optimizer_of"}
INPUTS = [(info, given) for info in INFOS for given in info.optim_inputs_func(device="cpu")]
ERRORS = [
    (info, given)
    for info in INFOS
    for given in info.optim_error_inputs_func(device="cpu", dtype=torch.float32)
]
NOT_OURS = (
    "lr as Tensor doesn't work with foreach & not capturable",
    "betas must be either both floats or both Tensors",
    r"betas\[0\] as a Tensor is not supported for capturable=False and foreach=True",
)  # of torch's implementations; here both are numbers


def name_of(value):
    return getattr(value, "name", None) or getattr(value, "desc", None) or "errors"


every_input = pytest.mark.parametrize(("info", "given"), INPUTS, ids=name_of)


def make(library, info, given, params):
    return getattr(library, info.name)(params, **copy.deepcopy(given.kwargs))


def problem(dtype):
    """Return weights, a bias and the loss of a line through noise."""
    rng = torch.Generator().manual_seed(11)
    weight = torch.nn.Parameter(torch.randn(10, 5, generator=rng, dtype=dtype))
    bias = torch.nn.Parameter(torch.randn(10, generator=rng, dtype=dtype))
    x = torch.randn(5, generator=rng, dtype=dtype)
    return [weight, bias], lambda: (weight.mv(x) + bias).square().sum()


def run(optimizer, loss, steps, scheduler=None):
    def closure():
        optimizer.zero_grad()
        value = loss()
        value.backward()
        return value

    losses = []
    for _ in range(steps):
        losses.append(optimizer.step(closure).item())
        if scheduler is not None:
            scheduler.step(*[losses[-1]] * isinstance(scheduler, PLATEAU))
    return losses


PLATEAU = torch.optim.lr_scheduler.ReduceLROnPlateau


@every_input
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_goes_where_torch_goes_in_the_right_direction(info, given, dtype):
    found = []
    for library in (integration, torch.optim):
        params, loss = problem(dtype)
        losses = run(make(library, info, given, params), loss, 20)
        assert (losses[-1] > losses[0]) == given.kwargs.get("maximize", False)
        found.append(params)
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("info", INFOS, ids=name_of)
def test_schedulers(info):
    for schedulers in info.scheduler_inputs:
        found = []
        for library in (integration, torch.optim):
            params, loss = problem(torch.float64)
            optimizer = getattr(library, info.name)(params, lr=0.01)
            chained = [make_scheduler(optimizer) for make_scheduler in schedulers]
            for _ in range(12):
                value = run(optimizer, loss, 1)[0]
                for s in chained:
                    s.step(*[value] * isinstance(s, PLATEAU))
            found.append(params)
        torch.testing.assert_close(*found, rtol=1e-9, atol=1e-9)


@every_input
def test_state_goes_to_torch_and_back_also_from_a_file(info, given, tmp_path):
    params, loss = problem(torch.float64)
    optimizer = make(integration, info, given, params)
    run(optimizer, loss, 3)
    torch.save(optimizer.state_dict(), tmp_path / "state.pt")
    twin, twin_loss = problem(torch.float64)
    for p, q in zip(twin, params, strict=True):
        p.data.copy_(q.data)
    peer = getattr(torch.optim, info.name)(twin)
    peer.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    run(optimizer, loss, 3)
    run(peer, twin_loss, 3)
    torch.testing.assert_close(params, twin, rtol=1e-9, atol=1e-9)
    assert optimizer.state_dict()["param_groups"] == peer.state_dict()["param_groups"]


@every_input
def test_no_gradients_do_nothing_and_zero_ones_at_most_decay(info, given):
    params, _ = problem(torch.float64)
    optimizer = make(integration, info, given, params)
    before = [p.detach().clone() for p in params]
    optimizer.step()
    for p, q in zip(params, before, strict=True):
        assert torch.equal(p, q)
        p.grad = torch.zeros_like(p)
    optimizer.step()
    decays = given.kwargs.get("weight_decay", 0) or info.name in ("AdamW", "ASGD")
    assert decays or all(map(torch.equal, params, before))


@every_input
def test_parameters_without_elements(info, given):
    empty = torch.nn.Parameter(torch.empty(0, 3))
    optimizer = make(integration, info, given, [empty])
    empty.grad = torch.empty(0, 3)
    optimizer.step()
    assert info.name in repr(optimizer)


@pytest.mark.parametrize(("info", "given"), ERRORS, ids=name_of)
def test_errors(info, given):
    """Of torch's types; where torch's base class has found them, with its words."""
    wanted = given.optimizer_error_input
    if wanted.desc in NOT_OURS:
        pytest.skip("concerns torch's implementations")
    params = [torch.nn.Parameter(torch.zeros(1))] if wanted.params is None else wanted.params
    of_the_class = given.error_regex.startswith(("Invalid", "Tensor lr must be 1-element"))
    message = None if of_the_class else given.error_regex
    with pytest.raises(given.error_type, match=message):
        getattr(integration, info.name)(params, **wanted.kwargs)
