"""What versions before this one saved loads, and goes on as it did in them."""

from __future__ import annotations

import pickle
from importlib.util import find_spec

import numpy as np
import programs
import pytest
from programs import SAVED

VERSIONS = sorted(path.stem for path in SAVED.glob("*.safetensors"))
every_version = pytest.mark.parametrize("version", VERSIONS)


def saved_by(version):
    return pickle.loads((SAVED / f"{version}.pickle").read_bytes())


def other(params):
    """Return an optimizer as that of the program, with these parameters, that has not stepped."""
    named, optimizer = programs.adam()
    assert set(named) == {"w", "b"}
    for p, value in zip(all_params(optimizer), params, strict=True):
        p[...] = value
    return optimizer


def all_params(optimizer):
    return [p for group in optimizer.param_groups for p in group["params"]]


def test_there_are_versions():
    assert VERSIONS == ["0.1"]


@every_version
class TestOptimizers:
    def test_pickled_together_with_their_parameters(self, version):
        saved, expected = saved_by(version)
        params, optimizer = pickle.loads(saved["together"])
        programs.go_on_adam(optimizer, programs.STEPS)
        assert programs.arrays_of(optimizer) == expected["together"]
        assert params["w"] is optimizer.param_groups[0]["params"][0]

    def test_pickled_before_their_averages_began(self, version):
        saved, expected = saved_by(version)
        p, optimizer = pickle.loads(saved["unstarted"])
        programs.go_on_momentum(optimizer, 0)
        assert programs.arrays_of(optimizer) == expected["unstarted"]
        assert p is optimizer.param_groups[0]["params"][0]

    def test_pickled_again_by_this_version(self, version):
        saved, expected = saved_by(version)
        pair = pickle.loads(pickle.dumps(pickle.loads(saved["together"])))
        programs.go_on_adam(pair[1], programs.STEPS)
        assert programs.arrays_of(pair[1]) == expected["together"]

    def test_state_dicts(self, version):
        saved, expected = saved_by(version)
        optimizer = other(saved["params"])
        optimizer.load_state_dict(saved["state_dict"])
        programs.go_on_adam(optimizer, programs.STEPS)
        assert programs.arrays_of(optimizer) == expected["together"]

    @pytest.mark.skipif(not find_spec("safetensors"), reason="no safetensors here")
    def test_checkpoints(self, version):
        _, expected = saved_by(version)
        optimizer = other([np.zeros(())] * 4)
        optimizer.load(SAVED / f"{version}.safetensors")
        programs.go_on_adam(optimizer, programs.STEPS)
        assert programs.arrays_of(optimizer) == expected["together"]


@every_version
def test_optimizers_of_torch(version):
    pytest.importorskip("torch", reason="torch is not installed")
    saved, expected = pickle.loads((SAVED / f"{version}-torch.pickle").read_bytes())
    optimizer = pickle.loads(saved)
    programs.go_on_torch(optimizer, programs.STEPS)
    assert programs.tensors_of(optimizer) == expected


@every_version
def test_optimizers_of_thinc(version):
    thinc = pytest.importorskip("thinc", reason="thinc is not installed")
    if not thinc.__version__.startswith("8.3."):
        pytest.skip("pickled by thinc 8.3")
    saved, expected = pickle.loads((SAVED / f"{version}-thinc.pickle").read_bytes())
    weights, optimizer = pickle.loads(saved)
    assert programs.go_on_thinc(weights, optimizer, programs.STEPS) == expected
