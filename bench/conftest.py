"""How a contender is timed, what a comparison shows, and where it was made."""

import time
from decimal import Decimal

import pytest

from fastoptim.bench.contenders import prepare
from fastoptim.bench.report import environment
from fastoptim.bench.rivals import UnavailableError
from fastoptim.bench.timing import PAUSE, is_slow

OPTIONS = {  # unless the command line says otherwise
    "benchmark_columns": ["median", "iqr", "rounds"],  # with one more, 80 columns are too few
    "benchmark_sort": "median",
    "benchmark_min_rounds": 5,
    "benchmark_min_time": Decimal("0.002"),
    "benchmark_max_time": Decimal(1),
    "benchmark_disable_gc": True,
}


@pytest.fixture
def time_it(benchmark):
    def time_it(group, name, function, *args):
        benchmark.group, benchmark.name = group, name
        time.sleep(PAUSE)  # until the workers of the previous contender have stopped spinning
        benchmark(function, *args)

    return time_it


@pytest.fixture
def time_step(benchmark, time_it):
    def time_step(cell, contender):
        if is_slow(contender, cell.size):
            pytest.skip(f"{contender}, {cell}: slow")
        try:
            step = prepare(contender, cell)
        except UnavailableError as why:
            pytest.skip(f"{contender}, {cell.case.name}: {why}")
        benchmark.extra_info["bytes"] = cell.traffic
        time_it(str(cell), contender, step)

    return time_step


def pytest_configure(config):
    given = " ".join(config.invocation_params.args)
    for option, value in OPTIONS.items():
        if f"--{option.replace('_', '-')}" not in given:
            setattr(config.option, option, value)


def pytest_report_header():
    return [f"{name}: {value}" for name, value in environment().items()]


@pytest.hookimpl(optionalhook=True)
def pytest_benchmark_update_machine_info(machine_info):
    machine_info["fastoptim"] = environment()
