"""What a comparison shows, unless the command line says otherwise; and where it was made."""

import pytest

from fastoptim.bench import environment

SHOWN = {"benchmark_columns": ["median", "iqr", "min", "rounds"], "benchmark_sort": "median"}


def pytest_configure(config):
    given = " ".join(config.invocation_params.args)
    for option, value in SHOWN.items():
        if f"--{option.replace('_', '-')}" not in given:
            setattr(config.option, option, value)


def pytest_report_header():
    return [f"{name}: {value}" for name, value in environment().items()]


@pytest.hookimpl(optionalhook=True)
def pytest_benchmark_update_machine_info(machine_info):
    machine_info["fastoptim"] = environment()
