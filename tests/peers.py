"""Other libraries that tests hold fastoptim to, where it takes more than an import."""

from __future__ import annotations

import os
import warnings
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
