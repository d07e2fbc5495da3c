"""The training loops of ``fastoptim bench --loop``: an iteration with the steps of each."""

import pytest

from fastoptim.bench.cases import CASES
from fastoptim.bench.loop import STEPPERS, trainings, turn_of


@pytest.mark.parametrize("contender", [*STEPPERS, None])  # None takes no steps
@pytest.mark.parametrize("training", trainings(CASES["Adam"], False), ids=str)
def test_iteration(time_it, training, contender):
    time_it(str(training), str(contender), turn_of(training, contender), 1)
