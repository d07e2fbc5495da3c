"""A plugin for pytest that runs scikit-learn's tests with fastoptim, and counts its steps.

PATCHED_SKLEARN says how: "patch", or "classes" to let ours stand in for scikit-learn's.
"""

import os

from sklearn import neural_network

import fastoptim.integrations.sklearn as ours

steps = 0


def pytest_configure(config):
    take_step = ours._FusedUpdate._step

    def counted(self, params, grads):
        global steps
        take_step(self, params, grads)
        steps += 1

    ours._FusedUpdate._step = counted
    if os.environ["PATCHED_SKLEARN"] == "patch":
        ours.patch()
    else:
        neural_network.MLPClassifier = ours.MLPClassifier
        neural_network.MLPRegressor = ours.MLPRegressor


def pytest_terminal_summary(terminalreporter):
    terminalreporter.write_line(f"fastoptim took {steps} steps")
