"""Other libraries that tests hold fastoptim to, where it takes more than an import."""

from __future__ import annotations

import os
import sys
import warnings
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import pytest


def import_keras() -> ModuleType:
    """Return Keras, which computes in float64 here, with torch; skip the test without either."""
    pytest.importorskip("torch", reason="torch is not installed")
    os.environ.setdefault("KERAS_BACKEND", "torch")  # is read when Keras is first imported
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module: ModuleType = pytest.importorskip("keras", reason="Keras is not installed")
    module.config.set_floatx("float64")  # else it has rates and other numbers in float32
    return module


def import_from_timm(name: str) -> ModuleType:
    """Return a module of timm.optim, which needs torch alone, where timm needs a torchvision."""
    pytest.importorskip("torch", reason="torch is not installed")
    spec = find_spec("timm")
    if spec is None or spec.origin is None:
        pytest.skip("timm is not installed")
    folder = Path(spec.origin).parent
    for package, path in (("timm", folder), ("timm.optim", folder / "optim")):
        if package not in sys.modules:
            module = sys.modules[package] = ModuleType(package)
            module.__path__, module.__spec__ = [str(path)], spec
    return import_module(f"timm.optim.{name}")
