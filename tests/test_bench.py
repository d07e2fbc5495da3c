"""The benchmarks: contenders are right or refused, and the record holds what it promises."""

import argparse
import errno
import json
import os
import pkgutil
import re
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import numpy as np
import pytest

import fastoptim as fo
from fastoptim import _engine, bench, cli, optimizers
from fastoptim._engine import tuning
from fastoptim._engine.disk import set_wave_bytes
from fastoptim.bench import (
    _yardsticks,
    choice,
    clients,
    contenders,
    disk,
    loop,
    numpy_plain,
    report,
    rivals,
    rows,
    sections,
    timing,
    variants,
)
from fastoptim.bench.cases import AHEAD, CASES, DTYPES, Cell, Size
from fastoptim.bench.clients import Client, Programs
from fastoptim.bench.contenders import CONTENDERS, FACTORS
from fastoptim.bench.loop import Training
from fastoptim.bench.rivals import BY_HAND, RIVALS, Run, UnavailableError
from fastoptim.bench.variants import Variant

try:
    import torch
except ImportError:  # it comes with the extra `torch`
    torch = None

ROOT = Path(__file__).parents[1]
SMALL = Size(3, 1001)
ADAM = Cell(CASES["Adam"], SMALL, "float32")
TINY = Training(CASES["Adam"], (5, 4, 3), 2)
NUMPY = ["NumPy plain", "NumPy in place"]
# What is imported for each rival.
MODULES = {
    **dict.fromkeys(("torch default", "torch foreach", "torch fused"), "torch"),
    "torch-optimi": "optimi",
    "schedulefree": "schedulefree",
    "DeepSpeed": "deepspeed",
    "numba": "numba",
    "numexpr": "numexpr",
    "optax": "optax",
    "thinc": "thinc",
    "scikit-learn": "sklearn",
}


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch):
    monkeypatch.setattr(timing, "PAUSE", 0)
    monkeypatch.setattr(timing, "TURN", 0)
    monkeypatch.setattr(timing, "SETTLING", 0)


@pytest.fixture(autouse=True)
def without_idling(monkeypatch):
    monkeypatch.setattr(loop, "PAUSE", 0)
    monkeypatch.setattr(clients, "PAUSE", 0)


@pytest.fixture
def tiny(monkeypatch):
    """Make the benchmark so small that no one minds waiting for it."""
    monkeypatch.setattr(sections, "SIZES", (Size(1, 64), SMALL))
    monkeypatch.setattr(sections, "MILLION", Size(1, 5000))
    monkeypatch.setattr(sections, "MANY", [Size(t, n) for n in (16, 1000) for t in (1, 3, 100)])
    monkeypatch.setattr(sections, "SCALE", [Size(1, 100), Size(1, 1000), Size(1, 10_000)])
    monkeypatch.setattr(sections, "LENGTHS", [Size(1, 64), Size(1, 5000)])
    monkeypatch.setattr(choice, "SIZES", [Size(1, 16), Size(1, 4096)])
    monkeypatch.setattr(loop, "WIDTHS", [TINY.widths])
    monkeypatch.setattr(loop, "BATCH_SIZES", [2, 3])


@pytest.fixture
def without_rivals(monkeypatch):
    for module in MODULES.values():
        monkeypatch.setitem(sys.modules, module, None)

    def version(package):
        raise PackageNotFoundError(package)

    monkeypatch.setattr(rivals, "version", version)


def run(*argv):
    parser = argparse.ArgumentParser()
    bench.add_arguments(parser)
    return bench.main(parser.parse_args(argv))


def test_every_optimizer_has_a_case():
    assert [name for name in optimizers.__all__ if name not in CASES] == []


@pytest.mark.parametrize("name", optimizers.__all__)
def test_every_rule_is_written_in_plain_numpy(name):
    rule = getattr(optimizers, name).rule
    assert hasattr(numpy_plain, rule.name), (
        "fastoptim/bench/numpy_plain.py: expected a generator "
        f"{rule.name}(p, g, {', '.join(rule.own)}), which may leave out what stays at its default"
    )


@pytest.mark.parametrize(
    "name", [n for n in optimizers.__all__ if getattr(optimizers, n).rule.initial.measured]
)
def test_what_a_trust_ratio_reads_ahead_is_counted(name):
    assert name in AHEAD, f"fastoptim/bench/cases.py, AHEAD: expected the arrays that {name} reads"


def torch_has(name):
    """Tell whether torch has a rule under our name, or in other words, or is not here to ask."""
    return torch is None or name == "Momentum" or hasattr(torch.optim, name)


def test_optax_is_a_rival_for_the_rules_that_torch_has_not():
    pytest.importorskip("torch")
    optax = pytest.importorskip("optax")
    theirs = {
        name
        for name in optimizers.__all__
        if hasattr(optax, name.lower()) or hasattr(optax.contrib, name.lower())
        if name != "Adan"  # of another formula there
    }
    missing = sorted(name for name in theirs if not (torch_has(name) or name in rivals.OPTAX))
    assert not missing, f"fastoptim/bench/rivals.py, OPTAX: expected {missing} there, too"
    assert {"SGD", "SGD-momentum", "RMSprop", "Adam", "AdamW"} <= {*rivals.OPTAX}
    assert {"Lion", "AdaBelief", "LAMB", "LARS"} <= {*rivals.OPTAX}


ADAMS = {"Adam", "AdamW", "AdamW-clip-EMA"}
TORCH = {name for name, case in CASES.items() if torch_has(case.optimizer.__name__)}
TORCH -= {name for name, case in CASES.items() if case.hyper.get("cautious")}
SGDS = {"SGD", "SGD-momentum"}
# The cases that each has; in float64, only the first four and those of torch and optax.
HAVE = {
    "fastoptim": CASES.keys(),
    "reference": CASES.keys(),
    "NumPy plain": CASES.keys(),
    "NumPy in place": {*ADAMS, *SGDS, "Momentum", "RMSprop", "Adagrad"},
    "torch default": TORCH,
    "torch foreach": TORCH,
    "torch fused": {*ADAMS, *SGDS, "Momentum", "Adagrad"},
    "torch-optimi": {"Adan", "StableAdamW"},
    "schedulefree": {*rivals.SCHEDULE_FREE},
    "DeepSpeed": {"Adam", "AdamW", "Adagrad"},
    "numba": {*SGDS, "Adam", "AdamW", "Adagrad"},
    BY_HAND: {"SGD-momentum", "Adam"},
    "numexpr": {"SGD", "Adam"},
    "optax": {*rivals.OPTAX},
    "thinc": {"Adam"},
    "scikit-learn": {*SGDS, "Adam"},
}
ONLY_FLOAT32 = ("DeepSpeed", "thinc", BY_HAND)
AGREE = [
    (case, dtype, name)
    for name, cases in HAVE.items()
    for case in sorted(cases)
    for dtype in DTYPES
    if dtype == "float32" or name not in ONLY_FLOAT32
]


@pytest.mark.parametrize(("case", "dtype", "name"), AGREE)
def test_every_contender_agrees_with_the_reference(case, dtype, name):
    if name in MODULES:
        pytest.importorskip(MODULES[name])
    step = contenders.prepare(name, Cell(CASES[case], SMALL, dtype))
    step()


@pytest.mark.parametrize("name", CONTENDERS)
def test_what_a_library_has_not_is_said(name):
    if name in MODULES:
        pytest.importorskip(MODULES[name])
    for case in CASES.keys() - HAVE[name]:
        with pytest.raises(UnavailableError, match="none"):
            contenders.prepare(name, Cell(CASES[case], SMALL, "float32"))
    if name in ONLY_FLOAT32:
        with pytest.raises(UnavailableError, match="none"):
            contenders.prepare(name, Cell(CASES["Adam"], SMALL, "float64"))


@pytest.mark.parametrize("name", RIVALS.keys() & MODULES.keys())
def test_what_is_not_installed_is_said(without_rivals, name):
    with pytest.raises(UnavailableError, match="absent"):
        contenders.prepare(name, Cell(CASES[min(HAVE[name])], SMALL, "float32"))


def scaled(case, params, grads):
    hyper = {**case.hyper, "lr": case.hyper["lr"] * 1.001}
    return Run(partial(fo.Adam(params, **hyper).step, grads))


def with_other_betas(case, params, grads):  # which a gradient that never changes would not show
    return Run(partial(fo.Adam(params, **{**case.hyper, "betas": (0.8, 0.999)}).step, grads))


def without_the_last(case, params, grads):
    return Run(partial(fo.Adam(params[:-1], **case.hyper).step, grads[:-1]))


def with_a_nan(case, params, grads):
    params[-1][-1] = np.nan
    return Run(partial(fo.Adam(params, **case.hyper).step, grads))


@pytest.mark.parametrize("wrong", [scaled, with_other_betas, without_the_last, with_a_nan])
def test_a_wrong_contender_is_refused(monkeypatch, wrong):
    monkeypatch.setitem(CONTENDERS, "wrong", wrong)
    with pytest.raises(contenders.WrongResultError, match=r"^wrong result of wrong: after 7 steps"):
        contenders.prepare("wrong", ADAM)


@pytest.mark.parametrize("more", [[], ["--rivals"], ["--many"], ["--scale"], ["--loop"]])
def test_nobody_is_timed_beside_a_wrong_contender(tiny, monkeypatch, capsys, more):
    name = "NumPy in place"  # of all sections
    monkeypatch.setitem(CONTENDERS, name, scaled)
    for module in (timing, loop):
        monkeypatch.setattr(module, "take_turns", lambda *_: pytest.fail("timed"))
    assert run("--quick", *more) == 1
    out, err = capsys.readouterr()
    assert "fastoptim bench: failed: Adam" in err
    out = " ".join(out.split())
    assert re.search(rf"failed: Adam \S.*?: wrong result of {name}: after 7 steps the param", out)


def test_what_fails_does_not_take_the_rest_with_it(tiny, monkeypatch, tmp_path, capsys):
    real = timing.measure

    def measure(cell, *args):
        if cell.size.elements == 1000:
            raise MemoryError("1 TB [sic]")
        return real(cell, *args)

    monkeypatch.setattr(timing, "measure", measure)
    file = tmp_path / "record.json"
    assert run("--quick", "--scale", "--loop", "--json", str(file)) == 1
    record = json.loads(file.read_text())
    assert [result["elements"] for result in record["results"]] == [100]
    assert len(record["loops"]) == 3
    assert record["failed"] == {"Adam float32 1,000": "MemoryError: 1 TB [sic]"}
    out, err = capsys.readouterr()
    assert "failed: Adam float32 1,000: MemoryError: 1 TB [sic]\n" in out
    assert "in measure\n" in err, "the traceback"
    assert err.endswith("\nfastoptim bench: failed: Adam float32 1,000\n")


def test_an_interrupt_shows_what_was_measured(tiny, monkeypatch, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    real = timing.measure

    def measure(cell, *args):
        if cell.size.elements == 1000:
            raise KeyboardInterrupt
        return real(cell, *args)

    monkeypatch.setattr(timing, "measure", measure)
    file, image = tmp_path / "record.json", tmp_path / "scale.png"
    argv = ["bench", "--quick", "--scale", "--loop", "--json", str(file), "--plot", str(image)]
    assert cli.main(argv) == 130
    record = json.loads(file.read_text())
    assert [result["elements"] for result in record["results"]] == [100]
    assert record["loops"] == []
    assert record["failed"] == {"Adam float32 1,000": "interrupted"}
    assert image.read_bytes().startswith(b"\x89PNG")
    assert "failed: Adam float32 1,000: interrupted" in capsys.readouterr().out

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(timing, "measure", interrupted)
    assert cli.main([*argv[:-1], str(tmp_path / "nothing.png")]) == 130
    assert "nothing was measured" in capsys.readouterr().out
    assert not (tmp_path / "nothing.png").exists()


def test_a_rival_that_does_not_run_is_broken(monkeypatch):
    def broken(case, params, grads):
        raise SystemError("no\n  compiler")

    name = next(iter(RIVALS))
    monkeypatch.setitem(CONTENDERS, name, broken)
    result = timing.measure(ADAM, [name, "NumPy plain"], 0)
    assert result.left_out == {name: "broken: SystemError: no compiler"}
    assert result.seconds.keys() == {"fastoptim", "probe", "NumPy plain"}
    monkeypatch.setitem(CONTENDERS, "NumPy plain", broken)  # which is ours
    with pytest.raises(SystemError):
        timing.measure(ADAM, ["NumPy plain"], 0)


def test_a_rival_that_fails_late_is_broken(monkeypatch):
    def late(case, params, grads):
        def step():
            raise OSError("library not found")

        return Run(step)

    monkeypatch.setitem(CONTENDERS, "numba", late)
    with pytest.raises(UnavailableError, match=r"^broken: OSError: library not found"):
        contenders.prepare("numba", ADAM)


def test_the_generation_of_the_cpu_is_told(monkeypatch, tmp_path):
    monkeypatch.setattr(report, "CPU_INFO", tmp_path / "cpuinfo")
    assert report.environment()["CPU"]
    lines = "processor : 0", "cpu family : 26", "model : 2", "model name : AMD EPYC", "", "flags :"
    report.CPU_INFO.write_text("\n".join(lines))
    assert report.environment()["CPU"] == "AMD EPYC (family 26 model 2)"
    report.CPU_INFO.write_text("Processor : ARMv8\n")
    assert report.environment()["CPU"]


def test_a_torch_that_cannot_be_imported_stops_nothing(monkeypatch):
    def needed(module):
        raise OSError("libtorch.so: not found")

    monkeypatch.setattr(rivals, "needed", needed)
    assert report.environment()["CPU"]


def test_a_rule_that_changes_late_is_checked_late(monkeypatch):
    """RAdam begins to divide by the root of v at its sixth step."""

    def never_divides(case, params, grads):
        p, g, t = params[0], grads[0], 0
        optimizer = fo.RAdam(p, **case.hyper)

        def step():
            nonlocal t
            t += 1
            if t < 6:
                optimizer.step(g)

        return Run(step)

    monkeypatch.setitem(CONTENDERS, "wrong", never_divides)
    with pytest.raises(contenders.WrongResultError):
        contenders.prepare("wrong", Cell(CASES["RAdam"], Size(1, 100), "float32"))
    assert FACTORS[-1] == 1


def test_the_check_leaves_the_gradients_as_they_were(monkeypatch):
    seen = []

    def keep(case, params, grads):
        seen.extend(grads)
        return CONTENDERS["fastoptim"](case, params, grads)

    monkeypatch.setitem(CONTENDERS, "kept", keep)
    contenders.prepare("kept", ADAM)
    np.testing.assert_array_equal(seen, ADAM.arrays()[1], strict=True)


def around(averages_from=lambda optimizer: optimizer.ema, **changed):
    """Return a contender that does something else around the rule."""

    def contender(case, params, grads):
        optimizer = fo.AdamW(params, **case.hyper, **{**case.around, **changed})
        averages = averages_from(optimizer)
        return Run(partial(optimizer.step, grads), lambda: [*params, *averages])

    return contender


@pytest.mark.parametrize(
    "wrong",
    [
        around(max_grad_norm=None),
        around(max_grad_norm=1e6),  # never reached: the case must clip
        around(ema_decay=0.99),
        around(lambda optimizer: optimizer.param_groups[0]["params"]),
    ],
)
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_wrong_average_or_no_clipping_is_refused(monkeypatch, wrong, dtype):
    monkeypatch.setitem(CONTENDERS, "right", around())
    monkeypatch.setitem(CONTENDERS, "wrong", wrong)
    cell = Cell(CASES["AdamW-clip-EMA"], SMALL, dtype)
    contenders.prepare("right", cell)
    with pytest.raises(contenders.WrongResultError, match="the parameters or their averages"):
        contenders.prepare("wrong", cell)


@pytest.mark.parametrize("name", ["fastoptim", *NUMPY])
def test_every_step_clips_anew(monkeypatch, name):
    seen = []

    def keep(case, params, grads):
        seen.extend(grads)
        return CONTENDERS[name](case, params, grads)

    monkeypatch.setitem(CONTENDERS, "kept", keep)
    cell = Cell(CASES["AdamW-clip-EMA"], Size(1, 64), "float32")  # the smallest norm of all
    step = contenders.prepare("kept", cell)
    step()
    assert fo.global_norm(seen) > 2
    np.testing.assert_array_equal(seen, cell.arrays()[1], strict=True)


LEVELS = _yardsticks.levels()
THREADS = [1, 2, 3]


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("threads", THREADS)
@pytest.mark.parametrize("n", [0, 1, 2, 31, 1001])
def test_the_probe_reads_all(n, threads, level):
    words = np.random.default_rng(0).integers(0, 1 << 63, n, np.uint64)
    assert _yardsticks.Read(words, level, threads).step() == sum(map(int, words)) % (1 << 64)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("threads", THREADS)
@pytest.mark.parametrize("changed", [1, 2, 3, 4])
@pytest.mark.parametrize("n", [0, 1, 31, 1001])
def test_the_probe_changes_all(n, changed, threads, level):
    rng = np.random.default_rng(0)
    g, *arrays = (rng.integers(0, 1 << 62, n, np.uint64) for _ in range(1 + changed))
    before = [g.copy(), *(a + g for a in arrays)]
    _yardsticks.Stream(g, arrays, level, threads).step()
    np.testing.assert_equal([g, *arrays], before)


def test_what_the_probe_cannot_move_is_refused():
    ones, level = np.ones(64), LEVELS[0]
    with pytest.raises(ValueError, match="g: expected a contiguous array"):
        _yardsticks.Read(np.ones((2, 3)).T, level, 1)
    with pytest.raises(ValueError, match="expected contiguous arrays of as many bytes"):
        _yardsticks.Stream(ones, [ones[1:]], level, 1)
    for arrays in ([], [ones] * 6):
        with pytest.raises(ValueError, match="changed: expected 1 to 5 arrays"):
            _yardsticks.Stream(ones, arrays, level, 1)
    with pytest.raises(ValueError, match=f"level: expected one of {', '.join(LEVELS)}, found v9"):
        _yardsticks.Read(ones, "v9", 1)
    for threads in (0, 257):
        with pytest.raises(ValueError, match="threads: expected 1 to 256, found"):
            _yardsticks.Read(ones, level, threads)


def test_a_thread_that_cannot_be_started_is_an_error(monkeypatch):
    words = np.arange(1000, dtype=np.uint64)
    read = _yardsticks.Read(words, LEVELS[0], 4)
    time.sleep(0.1)  # until the threads of other tests have left

    class Thread:
        def __init__(self, target, args, daemon):
            self.begin = partial(threading.Thread, target=target, args=args, daemon=daemon)
            self.number = args[0]

        def start(self):
            if self.number == 3:
                raise RuntimeError("can't start new thread")
            self.begin().start()

    monkeypatch.setattr(_yardsticks, "Thread", Thread)
    with pytest.raises(RuntimeError, match="can't start"):
        read.step()
    monkeypatch.undo()
    assert read.step() == 499_500


def test_memory_for_the_probe_is_there_already():
    for offset in (0, 16):
        array = _yardsticks.touched(1001, "float32", offset)
        assert array.ctypes.data % 64 == offset
        np.testing.assert_array_equal(array, np.zeros(1001, "float32"), strict=True)


@pytest.mark.parametrize("name", ["Adam", "AdamW-clip-EMA", "LARS", "LAMB"])
def test_the_probe_moves_the_bytes_of_the_step(monkeypatch, name):
    moved = []

    class Stream:
        def __init__(self, g, changed, *variant):
            self.bytes = g.nbytes + 2 * sum(a.nbytes for a in changed)

        def step(self):
            moved.append(self.bytes)

    monkeypatch.setattr(_yardsticks, "Stream", Stream)
    monkeypatch.setattr(_yardsticks, "Read", lambda g, *variant: Stream(g, [], *variant))
    cell = Cell(CASES[name], SMALL, "float32")
    for step in timing.probes(cell).values():
        moved.clear()
        step()
        assert sum(moved) == cell.traffic


def test_the_fastest_of_all_probes_counts(monkeypatch):
    """Every level on every number of threads, whatever fastoptim runs on."""
    monkeypatch.setattr(variants, "explain_limit", lambda: (6, "a test"))
    tried = [Variant(level, threads) for level in LEVELS for threads in (1, 2, 4, 6)]
    assert [*timing.probes(ADAM)] == tried
    seconds = {v: [3.0, 2.0 + k] for k, v in enumerate(reversed(tried))}

    def take_turns(turns, budget, pause):
        return {key: seconds.get(key[1], [6.0, 5.0]) for key in turns}

    monkeypatch.setattr(timing, "take_turns", take_turns)
    result = timing.measure(ADAM, [], 0)
    assert result.seconds == {"fastoptim": [6.0, 5.0], "probe": [3.0, 2.0]}
    assert [*result.medians["probe"]] == [*map(str, tried)]
    assert result.record()["variants"]["probe"][str(tried[-1])] == 2.5


def test_the_engine_has_tried_what_there_is_before_it_is_timed(monkeypatch):
    taken, at_start = [], []
    ours = CONTENDERS["fastoptim"]

    def counted(case, params, grads):
        run = ours(case, params, grads)
        return replace(run, step=lambda: (taken.append(1), run.step()))

    def take_turns(turns, budget, pause):
        at_start.append(len(taken))
        return {key: [1.0] for key in turns}

    monkeypatch.setitem(CONTENDERS, "fastoptim", counted)
    monkeypatch.setattr(timing, "take_turns", take_turns)
    timing.measure(ADAM, [], 0)
    assert at_start == [len(FACTORS) + timing.SETTLING_STEPS]


def test_no_thread_is_tried_that_is_not_allowed():
    with fo.num_threads(1):
        assert variants.thread_counts() == [1]
    with fo.num_threads(8):
        assert variants.thread_counts() == [1, 2, 4, 8]


@pytest.mark.parametrize("name", [name for name in CASES if name.endswith("-cautious")])
def test_cautious_steps_in_plain_numpy(name):
    """The gradients of the benchmarks are all positive, so that nothing is left out there."""
    rng, case = np.random.default_rng(0), CASES[name]
    p, g = rng.standard_normal((2, 50))
    ours = p.copy()
    opt = case.optimizer(ours, **case.hyper)
    plain = getattr(numpy_plain, case.optimizer.rule.name)(p, g, **case.hyper)
    for _ in range(5):
        next(plain)
        opt.step(g)
        np.testing.assert_allclose(p, ours, rtol=1e-12)
        g[...] = rng.standard_normal(50)


BY_HAND_LENGTHS = (0, 1, 15, 16, 17, 100, 1001, 20_000)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("threads", THREADS)
@pytest.mark.parametrize("case", sorted(HAVE[BY_HAND]))
def test_loops_by_hand_have_the_bits_of_the_reference(case, threads, level):
    rng, case = np.random.default_rng(0), CASES[case]
    params = [rng.standard_normal(n + 3, np.float32)[3:] for n in BY_HAND_LENGTHS]
    grads = [rng.standard_normal(n, np.float32) for n in BY_HAND_LENGTHS]
    grads[-1][:8] = 0.0, -0.0, np.inf, -np.inf, np.nan, 1e-40, 3e38, -1e-45
    ours = [p.copy() for p in params]
    run = RIVALS[BY_HAND](case, params, grads, Variant(level, threads))
    reference = case.optimizer(ours, backend="reference", **case.hyper)
    with np.errstate(all="ignore"):
        for _ in range(5):
            run.step()
            reference.step(grads)
            for theirs, p in zip(params, ours, strict=True):
                np.testing.assert_array_equal(theirs.view(np.uint32), p.view(np.uint32))


def test_the_threads_of_loops_by_hand_come_back_after_a_rest():
    words = np.arange(1000, dtype=np.uint64)
    for wait in (0, 0, 0.1, 0):
        time.sleep(wait)
        assert _yardsticks.Read(words, LEVELS[-1], 3).step() == 499_500


@pytest.mark.parametrize(
    ("case", "arrays"),
    [
        ("SGD", 3),
        ("Momentum", 5),
        ("Adam", 7),
        ("AdamW-clip-EMA", 10),
        ("LARS", 7),
        ("LAMB", 11),
        ("AdamW-cautious", 9),
    ],
)
def test_traffic(case, arrays):
    assert Cell(CASES[case], Size(2, 10), "float32").traffic == 2 * 10 * 4 * arrays


def test_contenders_take_turns():
    turns = []

    def turn(name, repetitions):
        turns.append(name)
        return len(turns), repetitions

    found = timing.take_turns({name: partial(turn, name) for name in ("fastoptim", "other")}, 0, 0)
    assert turns[-20:] == ["fastoptim", "fastoptim", "other", "other"] * 5  # to warm up, to time
    n = len(turns)
    assert found == {
        "fastoptim": [(n - k, 1) for k in (18, 14, 10, 6, 2)],
        "other": [(n - k, 1) for k in (16, 12, 8, 4, 0)],
    }


def test_a_ratio_is_the_median_of_the_ratios_of_each_round():
    seconds = {"fastoptim": [1.0, 2.0, 4.0], "NumPy plain": [10.0, 10.0, 10.0]}
    assert timing.Result(ADAM, 1, seconds, {}).ratio("NumPy plain") == 5


def test_what_would_take_minutes_is_not_timed(monkeypatch):
    monkeypatch.setitem(timing.MOST_TENSORS, "NumPy plain", 9)
    monkeypatch.setitem(timing.MOST_ELEMENTS, "NumPy in place", 99)
    cell = Cell(CASES["SGD"], Size(10, 10), "float32")
    result = timing.measure(cell, NUMPY, 0)
    assert result.seconds.keys() == {"fastoptim", "probe"}
    assert result.left_out == dict.fromkeys(NUMPY, "slow")


def test_a_large_step_uses_more_threads():
    before = _engine.threads.set_limit(2)
    try:
        assert _engine.threads.threads_for(1000) == 1
        assert _engine.threads.threads_for(1 << 30) == fo.get_num_threads()
    finally:
        _engine.threads.set_limit(before)


def recorded(*argv, file):
    assert run("--quick", "--json", str(file), *argv) == 0
    return json.loads(file.read_text())


MACHINE = {"date", "CPU", "CPUs", "fastoptim", "Python", "NumPy", "levels", "compiler", "workers"}


def test_the_record(tiny, without_rivals, tmp_path, capsys):
    record = recorded(file=tmp_path / "record.json")
    out = capsys.readouterr().out
    assert "Adam, float32" in out
    after = out[out.index("\n\n") :]  # what is said of the machine
    assert after.count("absent") == 1
    assert "\nabsent, since they are not installed: torch default, torch fused\n" in after
    assert all(name in out for name in CASES)  # in 80 columns

    machine = record["machine"]
    assert machine["CPU"]
    assert machine["threads"] == fo.get_num_threads()
    assert machine.keys() >= MACHINE
    assert [machine[package] for package in rivals.PACKAGES] == ["absent"] * len(rivals.PACKAGES)

    results = record["results"]
    assert {result["section"] for result in results} == {"steps", "rules"}
    assert {result["optimizer"] for result in results} == CASES.keys()
    adam = {(r["dtype"], r["tensors"], r["elements"]) for r in results if r["optimizer"] == "Adam"}
    assert adam == {(dtype, *size) for dtype in DTYPES for size in [(1, 64), (3, 3003)]}
    assert record["loops"] == record["clients"] == []
    for result in results:
        assert_complete(result, {"reference", *NUMPY}, {"torch default", "torch fused"})


def assert_complete(result, timed, absent):
    """Assert that a cell's record has every field, about these contenders."""
    assert result["rounds"] >= 5
    assert result["threads"] >= 1
    medians = result["median_seconds"]
    unwritten = ONLY_FLOAT32 if result["dtype"] == "float64" else ()
    written = {name for name in timed if result["optimizer"] in HAVE[name]} - {*unwritten}
    assert medians.keys() == {"fastoptim", "probe"} | written
    assert result["speedup_over"].keys() == written
    assert all(ratio > 0 for ratio in result["speedup_over"].values())
    left_out = dict.fromkeys(timed - written, "none")
    for name in absent:  # what its library has not written is "none" wherever that is known
        left_out[name] = result["left_out"][name]
        assert left_out[name] in ("absent", "none")
    assert result["left_out"] == left_out
    assert result["gb_per_second"]["fastoptim"] == pytest.approx(
        result["bytes"] / medians["fastoptim"] / 1e9
    )
    assert result["nanoseconds_per_tensor"] == pytest.approx(
        {name: 1e9 * seconds / result["tensors"] for name, seconds in medians.items()}
    )
    assert result["share_of_probe"] > 0
    assert result["speedup_of_probe_over"].keys() == written
    assert result["variants"].keys() == {"probe"} | ({BY_HAND} & written)
    for name, times in result["variants"].items():
        assert min(times.values()) == medians[name]


def test_the_record_of_the_other_sections(tiny, without_rivals, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    plot = tmp_path / "plot.png"
    record = recorded(
        *("--rivals", "--many", "--scale", "--sizes", "--loop", "--choice", "--plot", str(plot)),
        file=tmp_path / "record.json",
    )
    out = capsys.readouterr().out
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert all(name in out for name in (*RIVALS, *NUMPY, "Training loops"))
    assert out[out.index("\n\n") :].count("absent") == 1
    assert max(map(len, out.splitlines())) <= 80

    sizes = {}
    for result in record["results"]:
        name = result["section"]
        theirs = getattr(sections, {"rivals": "RIVALS"}.get(name, f"FOR_{name.upper()}"))
        assert_complete(result, {*theirs} - MODULES.keys(), {*theirs} & MODULES.keys())
        sizes.setdefault(name, []).append(
            (result["optimizer"], result["dtype"], result["tensors"], result["elements"])
        )
    tiny_sizes = [(1, 64), (3, 3003)]
    assert sizes["rivals"] == [
        *(("Adam", "float32", *size) for size in tiny_sizes),
        ("Adam", "float64", 1, 5000),
        ("SGD", "float32", 1, 5000),
    ]
    assert [size[2:] for size in sizes["many"]] == [(t, 16 * t) for t in (1, 3, 100)] + [
        (t, 1000 * t) for t in (1, 3)
    ]
    assert [size[3] for size in sizes["scale"]] == [100, 1000]
    assert [(size[0], size[3]) for size in sizes["sizes"]] == [
        (case, n) for case in ("Adam", "AdamW", "SGD-momentum", "Adagrad") for n in (64, 5000)
    ]
    assert record["left_out"] == {
        "Adam float32 100 x 1,000": "more than 5,000 elements",
        "Adam float32 10,000": "more than 5,000 elements",
    }
    assert "left out: Adam float32 10,000: more than 5,000 elements" in out

    assert {r["measured"] for r in record["choices"]} == {
        *(choice.BACK_TO_BACK, choice.ITERATIONS, choice.BETWEEN, choice.NEIGHBOUR)
    }
    assert {(r["optimizer"], r["elements"]) for r in record["choices"]} == {
        (case, n) for case in choice.RULES for n in (16, 4096)
    }
    for result in record["choices"]:
        fixed = {str(v) for v in variants.variants(choice.levels())}
        assert result["rounds"] >= 5
        assert result["median_seconds"].keys() == {choice.OWN, *fixed}
        assert result["ratio"].keys() == fixed
        assert result["of_best_fixed"] == result["ratio"][result["best_fixed"]]
        assert result["ran"] in fixed

    loops = [(r["network"], r["batch"], r["scheduled"]) for r in record["loops"]]
    assert loops == [("5-4-3", 2, False), ("5-4-3", 2, True), ("5-4-3", 3, False)]
    for result in record["loops"]:
        others = {
            "reference",
            *NUMPY,
            *({loop.SHARED} if loop.can_share() else ()),
        }
        assert result["rounds"] >= 5
        assert result["threads"] >= 1
        assert result["iteration_seconds"].keys() == {"fastoptim", *others}
        assert result["matrix_seconds"].keys() == {"no step", "fastoptim", *others}
        assert result["matrix_slowdown"].keys() == {"fastoptim", *others}
        assert result["speedup_over"].keys() == others


@pytest.mark.parametrize("with_torch", [False, True])
def test_the_record_of_rows(monkeypatch, with_torch, tmp_path, capsys):
    if with_torch:
        pytest.importorskip("torch")
    else:
        monkeypatch.setitem(sys.modules, "torch", None)
    tables = [rows.Table(50, 8, 16), rows.Table(3000, 66, 40, skewed=True)]
    monkeypatch.setattr(rows, "TABLES", tables)
    monkeypatch.setattr(rows, "MOST_DENSE", tables[0].nbytes)
    record = recorded("--rows", file=tmp_path / "record.json")
    found = {(r["optimizer"], r["rows"]): r for r in record["rows"]}
    assert [*found] == [(rule, table.rows) for rule in rows.RULES for table in tables]
    for (rule, count), result in found.items():
        dense = {"Adagrad": {50: None, 3000: "slow"}}.get(rule, {}).get(count, "none")
        without = {rows.NUMPY: dense} if dense else {}
        without |= {} if with_torch else {rows.TORCH: "absent"}
        assert result["left_out"] == without
        others = {"probe", rows.NUMPY, rows.TORCH} - without.keys()
        assert result["ratio"].keys() == others
        assert result["median_seconds"].keys() == {"fastoptim", *others}
        assert result["rounds"] >= 5
        assert result["bytes"] > 0
        # values of rows that are given twice must be read, and the probe does not read them
        assert result["share_of_probe"] > result["ratio"]["probe"]
    out = capsys.readouterr().out
    assert "Some rows, lazy Adam, float32" in out
    assert "40 skewed of 3,000 x 66" in out
    monkeypatch.setattr(rows, "free_memory", lambda: 100_000)
    assert [cell.table for cell in rows.cells(False)] == [tables[0]] * 2
    assert [*rows.left_out()] == ["rows: 40 skewed of 3,000 x 66"]


def test_wrong_rows_are_not_timed(monkeypatch):
    make = rows.optimizer
    monkeypatch.setattr(rows, "optimizer", lambda rule, p: make("Adagrad", p))
    cell = rows.RowsCell("lazy Adam", rows.Table(50, 8, 16))
    with pytest.raises(contenders.WrongResultError, match=r"^fastoptim, lazy Adam, 16 of 50 x 8"):
        rows.measure(cell, 0)


def test_the_probe_of_rows_adds_to_the_rows():
    for level in _yardsticks.levels():
        for threads in (1, 3):
            a, b = (np.zeros((20, 4), np.uint64) for _ in range(2))
            values = np.arange(12, dtype=np.uint64).reshape(3, 4)
            _yardsticks.RowStream(values, np.array([3, 7, 19]), [a, b], level, threads).step()
            for changed in (a, b):
                assert changed[[3, 7, 19]].tolist() == values.tolist()
                assert changed.sum() == values.sum()
    with pytest.raises(ValueError, match=r"^numbers: "):
        _yardsticks.RowStream(values, np.array([3, 7, 20]), [a], level, 1)
    with pytest.raises(ValueError, match="rows of whole words"):
        _yardsticks.RowStream(values, np.array([3]), [a], level, 1)


def test_what_does_not_fit_into_memory_is_left_out(tiny, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(sections, "free_memory", lambda: 150_000)
    record = recorded("--scale", file=tmp_path / "record.json")
    assert [result["elements"] for result in record["results"]] == [100, 1000]
    monkeypatch.setattr(sections, "free_memory", lambda: 20_000)
    record = recorded("--scale", file=tmp_path / "record.json")
    assert [result["elements"] for result in record["results"]] == [100]
    assert "Adam float32 1,000: needs 0.0 GB of memory" in capsys.readouterr().out


def test_the_memory_of_a_cell():
    cell = Cell(CASES["Adam"], Size(1, 1000), "float32")
    # fastoptim, the probe and one more, the reference and its temporaries, of 4 bytes an element
    assert sections.memory(cell, ["NumPy plain"]) == 4000 * (4 * 4 + 4)
    assert sections.free_memory() > 1e6


def test_the_gradients_of_a_loop_are_those_of_its_loss():
    training = Training(CASES["Adam"], (5, 4, 4, 3), 7, "float64")
    params, grads = training.arrays()
    x, y = training._batches[0]

    def loss():
        z = x
        for i in range(0, len(params), 2):
            z = (np.maximum(z, 0) if i else z) @ params[i] + params[i + 1]
        return np.mean(np.log(np.exp(z).sum(axis=1)) - z[np.arange(len(y)), y])

    for p, g in zip(params, grads, strict=True):
        for index in np.ndindex(p.shape):
            old = p[index]
            p[index] = old + 1e-6
            above = loss()
            p[index] = old - 1e-6
            below = loss()
            p[index] = old
            assert g[index] == pytest.approx((above - below) / 2e-6, abs=1e-8)


def test_a_loop_takes_its_steps():
    params = {}
    for name in ("fastoptim", "reference"):
        turn = loop.turn_of(TINY, name)
        matrices, step = turn(3)
        assert matrices > 0
        assert step > 0
        params[name], start = turn.args[1], turn.args[3]
    np.testing.assert_equal(params["fastoptim"], params["reference"])
    assert not np.array_equal(params["fastoptim"][0], start[0])
    alone = loop.turn_of(TINY, None)
    alone(3)
    np.testing.assert_equal(alone.args[1], alone.args[3])


SCHEDULED = replace(TINY, case=loop.scheduled(TINY.case))


@pytest.mark.parametrize("name", loop.STEPPERS)
def test_a_scheduled_training_takes_its_steps(name):
    assert str(SCHEDULED) == f"{TINY}, cosine"
    turn = loop.turn_of(SCHEDULED, name)
    assert min(turn(3)) > 0


def test_a_rate_that_stays_is_refused_in_a_scheduled_training(monkeypatch):
    def constant(case, params, grads):
        return Run(partial(fo.Adam(params, **TINY.case.hyper).step, grads))

    monkeypatch.setitem(CONTENDERS, "wrong", constant)
    with pytest.raises(contenders.WrongResultError):
        contenders.prepare("wrong", SCHEDULED)


def test_the_figures_of_a_loop():
    seconds = {
        "fastoptim": [(1.0, 1.0), (2.0, 1.0), (3.0, 1.0)],
        "reference": [(2.0, 4.0), (2.0, 4.0), (1.0, 1.0)],
        "no step": [(1.0, 0.0), (1.0, 0.0), (2.0, 0.0)],
    }
    result = loop.LoopResult(TINY, 1, seconds)
    assert result.iteration("fastoptim") == 3
    assert result.matrices("no step") == 1
    assert result.ratio("reference") == 2
    assert result.slowdown("fastoptim") == 1.5


def test_a_loop_shares_threads_where_that_is_possible(monkeypatch):
    inside = []

    @contextmanager
    def share():
        inside.append(True)
        yield

    monkeypatch.setattr(fo, "share_blas_threads", share)
    assert loop.SHARED in loop.measure(TINY, 0).seconds
    assert inside


def test_one_optimizer_beside_torch(tiny, capsys):
    pytest.importorskip("torch")
    assert run("--quick", "--optimizer", "RMSprop") == 0
    out = capsys.readouterr().out
    assert "RMSprop, float64" in out
    assert "Other rules" not in out
    assert "none" in out  # torch fused
    assert "absent" not in out[out.index("\n\n") :]


# Tables


def result_of(cell, rivals, seconds, ratio, left_out=None, shares=(1.0,) * 5):
    """Return a result whose shares of the probe are these, and in which all rivals are as slow."""
    found = {"fastoptim": [seconds] * 5, "probe": [seconds * share for share in shares]}
    found |= {name: [seconds * ratio] * 5 for name in rivals if name not in (left_out or {})}
    return timing.Result(cell, 2, found, left_out or {})


def all_sections():
    """Return all that can be asked for, with the longest names."""
    adam, longest = CASES["Adam"], max(CASES.values(), key=lambda case: len(case.name))
    found = [sections.rules(adam)]
    for case in (adam, longest):
        found += sections.steps(case, False)
        found += [make(case, False) for make in (sections.rivals, sections.many, sections.scale)]
        found.append(sections.sizes([case], False))
    return found


@pytest.mark.parametrize("nanoseconds", [1, 6, 999])  # of an element
def test_no_table_is_wider_than_80_columns(capsys, nanoseconds):
    asked = all_sections()
    noisy = (0.5, 0.5, 1.0, 2.0, 2.0)
    results = {
        (s.name, cell): result_of(
            cell, s.rivals, 1e-9 * nanoseconds * cell.size.elements, 99_999, shares=noisy
        )
        for s in asked
        for cell in s.cells
    }
    names = (*loop.STEPPERS, loop.ALONE, loop.SHARED)
    loops = [
        loop.LoopResult(training, 2, {name: [(0.12345, seconds)] for name in names})
        for training in loop.trainings(CASES["AdamW-clip-EMA"], False)
        for seconds in (1e-4, 1.0)
    ]
    fixed = [str(v) for v in variants.variants(["base", "v3", "v4"])]
    choices = [
        choice.ChoiceResult(
            cell, measured, {name: [seconds] for name in (choice.OWN, *fixed)}, "v4 x 16"
        )
        for measured in (choice.BACK_TO_BACK, choice.ITERATIONS, choice.NEIGHBOUR)
        for cell in choice.cells(choice.default_cases(), False)
        for seconds in [1e-9 * nanoseconds * cell.size.elements]
    ]
    report.show({"CPU": "c" * 100}, asked, results, {})
    report.show_loops(loops, {})
    report.show_choices(choices)
    out = capsys.readouterr().out
    assert "99999x" in out
    assert "~1.00" in out
    assert "250,000,000" in out
    assert max(map(len, out.splitlines())) <= 80
    assert "\N{HORIZONTAL ELLIPSIS}" not in out


CHOICE = choice.ChoiceResult(
    Cell(CASES["Adam"], Size(1, 4096), "float32"),
    choice.BACK_TO_BACK,
    {choice.OWN: [1.0, 2.0, 4.0], "v3 x 1": [1.0, 9.0, 8.0], "v3 x 2": [1.5, 1.8, 2.0]},
    "v3 x 2",
)


def test_the_own_choice_is_held_to_the_best_fixed_one(capsys):
    assert CHOICE.best == "v3 x 2"
    assert CHOICE.ratio("v3 x 1") == 2
    record = CHOICE.record()
    assert record["of_best_fixed"] == record["ratio"]["v3 x 2"] == 0.9
    report.show_choices([CHOICE])
    lines = capsys.readouterr().out.splitlines()
    rows = {line[:12].strip(): line[12:].split() for line in lines}
    assert rows["v3 x 1"] == ["2.00x"]
    assert rows["of the best"] == ["0.90"]


def test_fixed_choices_are_fixed_and_the_own_one_is_not(monkeypatch):
    cell = Cell(CASES["SGD-momentum"], Size(1, 16), "float32")
    seen = {}
    real = tuning.fixed

    @contextmanager
    def fixed(level, threads):
        with real(level=level, threads=threads):
            yield
        seen.setdefault((level, threads), 0)
        seen[level, threads] += 1

    monkeypatch.setattr(tuning, "fixed", fixed)
    results = choice.measure(cell, 0)
    assert [*seen] == variants.variants(choice.levels())
    assert [r.measured for r in results] == [
        *(choice.BACK_TO_BACK, choice.ITERATIONS, choice.BETWEEN, choice.NEIGHBOUR)
    ]
    _, iterations, between, _ = results
    for name, whole in iterations.seconds.items():
        assert all(a > b > 0 for a, b in zip(whole, between.seconds[name], strict=True))


def test_a_neighbour_keeps_a_core_busy_and_then_is_gone(monkeypatch):
    started = []
    real = subprocess.Popen

    def popen(*args, **options):
        started.append(real(*args, **options))
        return started[0]

    monkeypatch.setattr(subprocess, "Popen", popen)
    with choice.neighbour():
        assert started[0].poll() is None
    assert started[0].poll() is not None


def test_absent_rivals_take_one_line_and_broken_ones_a_reason(capsys):
    names = ["NumPy plain", *RIVALS]
    left_out = dict.fromkeys(RIVALS, "absent") | {"numba": "broken: ImportError: old [NumPy]"}
    section = sections.Section("rivals", "Rivals", [ADAM], names)
    result = result_of(ADAM, names, 1e-6, 2.0, left_out)
    report.show({}, [section], {("rivals", ADAM): result}, {})
    lines = capsys.readouterr().out.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("absent"))
    rows = [line.split("  ")[0].strip() for line in lines[:start]]
    assert [row for row in rows if row in names] == ["NumPy plain", "numba"]
    assert "numba is broken: ImportError: old [NumPy]" in lines
    absent = " ".join(" ".join(lines[start : start + 3]).split())  # wherever lines were broken
    assert absent.split(": ")[1].split(", ") == [name for name in RIVALS if name != "numba"]


@pytest.mark.parametrize(
    ("shares", "shown"),
    [
        ((1.0, 1.0, 1.0, 1.0, 1.0), "1.00"),
        ((0.5, 0.96, 1.0, 1.05, 3.0), "1.00"),  # one round at either end is no noise
        ((0.5, 0.9, 1.0, 1.05, 3.0), "~1.00"),
        ((0.94, 0.94, 1.0, 1.06, 1.06), "~1.00"),
    ],
)
@pytest.mark.parametrize("name", ["steps", "rivals"])
def test_a_share_of_the_probe_says_whether_the_run_was_noisy(
    monkeypatch, capsys, shares, shown, name
):
    monkeypatch.setattr(report, "_cache_bytes", lambda: ADAM.held)
    section = sections.Section(name, "A title", [ADAM], NUMPY)
    result = result_of(ADAM, NUMPY, 1e-6, 2.0, shares=shares)
    report.show({}, [section], {(name, ADAM): result}, {})
    assert shown in capsys.readouterr().out.split()
    low, high = shares[1], shares[3]
    assert result.record()["spread_of_share"] == pytest.approx(high - low)


@pytest.mark.parametrize("name", ["steps", "rivals"])
def test_a_share_of_the_probe_in_cache_is_in_parentheses(monkeypatch, capsys, name):
    monkeypatch.setattr(report, "_cache_bytes", lambda: ADAM.held + 1)
    section = sections.Section(name, "A title", [ADAM], NUMPY)
    result = result_of(ADAM, NUMPY, 1e-6, 2.0, shares=(0.5,) * 5)
    report.show({}, [section], {(name, ADAM): result}, {})
    assert "(0.50)" in capsys.readouterr().out.split()


def test_what_the_probe_allows_stands_beside_plain_numpy(capsys):
    section = sections.Section("rivals", "A title", [ADAM], NUMPY)
    result = result_of(ADAM, NUMPY, 1e-6, 20.0, shares=(0.5,) * 5)
    assert result.record()["speedup_of_probe_over"] == dict.fromkeys(NUMPY, 40)
    report.show({}, [section], {("rivals", ADAM): result}, {})
    out = " ".join(capsys.readouterr().out.split())
    assert "NumPy plain 20.0x as the probe 40.0x NumPy in place 20.0x" in out


def test_tables_of_pytest_benchmark_are_not_wider_than_80_columns(tmp_path):
    pytest.importorskip("pytest_benchmark")
    files = [ROOT / "bench" / f"bench_{name}.py" for name in ("rules", "denormals", "threads")]
    options = "--benchmark-only --benchmark-max-time=0.01 --benchmark-min-rounds=1"
    chosen = "Adagrad-float32-64 or at_the_same or (flushed and 1000)"
    command = [sys.executable, "-m", "pytest", *map(str, files), *options.split(), "-k", chosen]
    done = subprocess.run(
        [*command, "-p", "no:cacheprovider"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    lines = done.stdout.splitlines()
    titles = [i for i, line in enumerate(lines) if re.match(r"-* benchmark '.*': \d+ tests ", line)]
    tables = [lines[i : lines.index("", i)] for i in titles]
    assert len(tables) == 3, done.stdout + done.stderr
    for _, heading, *_ in tables:
        assert heading.split()[-3:] == ["Median", "IQR", "Rounds"]
    assert max(len(line) for table in tables for line in table) <= 80


# Clients


def trained(result, turns=None, name="", seconds=1.0):
    """Return a training that takes so many seconds and has such a result."""

    def run():
        if turns is not None:
            turns.append(name)
        return seconds, np.array(result)

    return run


def client_of(found=(2.0, 1.0), **options):
    return Client("a library", "a model", trained([2.0, 1.0]), trained(found, **options), 1e-3)


def test_a_client_is_checked_and_then_takes_turns():
    turns = []
    before = trained([2.0, 1.0], turns, "before", seconds=3.0)
    after = trained([2.0, 1.001], turns, "after", seconds=2.0)
    result = clients.measure(Client("a library", "a model", before, after, 1e-3), rounds=2)
    assert turns == ["before", "after"] * 3
    assert (result.before, result.after) == ([3.0] * 2, [2.0] * 2)
    assert result.ratio == 1.5
    assert result.difference == pytest.approx(5e-4)


def test_the_ratio_of_a_client_is_the_median_of_the_ratios_of_each_round():
    result = clients.ClientResult(client_of(), [1.0, 9.0, 8.0], [1.0, 3.0, 4.0], 0.0)
    assert result.ratio == 2


@pytest.mark.parametrize("found", [[2.0, 1.003], [2.0, np.nan], [2.0], [2.0, 1.0, 1.0]])
def test_a_client_with_another_result_is_not_timed(monkeypatch, capsys, found):
    turns = []
    other = client_of(found, turns=turns)
    monkeypatch.setattr(clients, "find", lambda quick: Programs([other], {}, {}))
    assert run("--clients") == 1
    assert turns == [""]
    out, err = capsys.readouterr()
    out = " ".join(out.split())
    assert "a model failed: wrong result: expected one within 1e-03 of the library's own" in out
    assert err == "fastoptim bench: failed: a library, a model\n"


def test_a_client_that_fails_is_named_and_the_others_are_shown(monkeypatch, tmp_path, capsys):
    def fails():
        raise ValueError("setting an array element [0]\nwith a sequence")

    first, last = client_of(), Client("torch", "the last", *client_of()[2:])
    bad = Client("spaCy", "its model", first.before, fails, 1e-3)
    failed = {"thinc": "ImportError: cannot import name 'x'"}
    monkeypatch.setattr(clients, "find", lambda quick: Programs([first, bad, last], {}, failed))
    file = tmp_path / "record.json"
    assert run("--clients", "--json", str(file)) == 1
    record = json.loads(file.read_text())
    why = "ValueError: setting an array element [0] with a sequence"
    assert record["failed"] == {**failed, "spaCy, its model": why}
    assert [client["model"] for client in record["clients"]] == ["a model", "the last"]
    out, err = capsys.readouterr()
    assert max(map(len, out.splitlines())) <= 80
    out = " ".join(out.split())
    assert f"spaCy its model failed: {why}" in out
    assert f"thinc failed: {failed['thinc']}" in out
    assert "torch the last 1.000 1.000 1.00x 0e+00" in out
    assert err.endswith("\nfastoptim bench: failed: thinc; spaCy, its model\n")


def test_a_client_whose_library_cannot_be_imported_has_failed(monkeypatch):
    def needed(module):
        raise AttributeError(f"no {module}\n")

    monkeypatch.setattr(clients, "needed", needed)
    found = clients.find(quick=True)
    assert (found.clients, found.absent) == ([], {})
    assert found.failed == {name: f"AttributeError: no {name}" for name in LIBRARIES}


def test_a_client_says_why_its_process_failed(monkeypatch):
    pytest.importorskip("torch")
    from fastoptim.bench.clients import torch

    monkeypatch.setattr(torch, "CODE", "raise RuntimeError('no such instruction')")
    with pytest.raises(RuntimeError, match=r"with status 1: RuntimeError: no such instruction$"):
        next(torch.clients(quick=True)).before()


def test_the_record_of_clients(monkeypatch, tmp_path, capsys):
    found = [client_of(), Client("scikit-learn", "m" * 36, *client_of()[2:])]
    monkeypatch.setattr(clients, "find", lambda quick: Programs(found, {"thinc": "absent"}, {}))
    file = tmp_path / "record.json"
    assert run("--clients", "--json", str(file)) == 0
    record = json.loads(file.read_text())
    assert record["results"] == record["loops"] == []
    assert record["left_out"] == {"thinc": "absent"}
    assert record["failed"] == {}
    assert record["clients"][0] == {
        "library": "a library",
        "model": "a model",
        "rounds": clients.ROUNDS,
        "seconds_before": 1.0,
        "seconds_after": 1.0,
        "ratio": 1.0,
        "difference": 0.0,
        "tolerance": 1e-3,
    }
    assert [client["library"] for client in record["clients"]] == ["a library", "scikit-learn"]
    out = capsys.readouterr().out
    assert all(word in out for word in ("m" * 36, "1.000", "1.00x", "0e+00"))
    assert "\N{HORIZONTAL ELLIPSIS}" not in out
    assert "\nabsent: thinc\n" in out
    assert max(map(len, out.splitlines())) <= 80
    assert "Adam" not in out
    assert recorded("--clients", file=file)["clients"][0]["rounds"] == 1  # and --quick


LIBRARIES = [module.name for module in pkgutil.iter_modules(clients.__path__)]


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_client_that_is_not_installed_is_absent(monkeypatch, library):
    for other in LIBRARIES:
        monkeypatch.setitem(sys.modules, other, None)
    found = clients.find(quick=True)
    assert found == Programs([], dict.fromkeys(LIBRARIES, "absent"), {})


@pytest.mark.parametrize("library", LIBRARIES)
def test_the_clients_of_a_library(monkeypatch, library):
    pytest.importorskip(library)

    def needed(other):  # the library may use another one, if that is there
        if other != library:
            raise UnavailableError("absent")

    monkeypatch.setattr(clients, "needed", needed)
    quick, absent, failed = clients.find(quick=True)
    assert (absent.keys(), failed) == ({*LIBRARIES} - {library}, {})
    assert 0 < len(quick) <= len(clients.find(quick=False).clients)
    assert len({str(client) for client in quick}) == len(quick)
    assert all(len(client.model) <= 36 and client.tolerance < 0.1 for client in quick)
    seconds, result = quick[0].after()
    assert seconds > 0
    assert np.isfinite(result).all()


@pytest.mark.parametrize("option", ["--json", "--plot"])
@pytest.mark.parametrize("file", ["x.png/x.png", "missing/record.png"])
def test_a_file_that_cannot_be_written_is_refused_at_once(
    monkeypatch, tmp_path, capsys, option, file
):
    pytest.importorskip("matplotlib")
    (tmp_path / "x.png").touch()
    monkeypatch.setattr(timing, "measure", lambda *_: pytest.fail("measured"))
    assert cli.main(["bench", "--scale", option, str(tmp_path / file)]) == 2
    assert f"{option} {tmp_path / file}: No" in capsys.readouterr().err  # such file or directory


def test_a_check_of_the_files_leaves_no_trace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["bench", "--json", "x.json", "--scale", "--plot", "missing/x.png"]) == 2
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_is_full_after_the_benchmark(tiny, monkeypatch, tmp_path, capsys):
    def write_text(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_text", write_text)
    file = tmp_path / "x.json"
    assert cli.main(["bench", "--quick", "--loop", "--json", str(file)]) == 2
    out, err = capsys.readouterr()
    assert "Training loops" in out, "the result is not lost"
    assert err.endswith(f"fastoptim bench: --json {file}: No space left on device\n")


def test_a_plot_without_anything_to_plot_is_refused(capsys):
    assert cli.main(["bench", "--plot", "x.png"]) == 2
    assert "--plot: expected --scale or --many with it" in capsys.readouterr().err
    assert cli.main(["bench", "--scale", "--plot", "x.json"]) == 2
    assert "--plot: expected a file named *.png, found x.json" in capsys.readouterr().err


def test_without_matplotlib_it_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert cli.main(["bench", "--scale", "--plot", "x.png"]) == 2
    assert 'python -m pip install "fastoptim[plot]"' in capsys.readouterr().err


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (2e-7, "200.0 ns"),
        (9.9996e-7, "1.0 us"),
        (3.5e-6, "3.5 us"),
        (0.000999, "999.0 us"),
        (0.99996e-3, "1.00 ms"),
        (0.02, "20.00 ms"),
        (0.999999, "1.00 s"),
        (123.456, "123.46 s"),
    ],
)
def test_duration(seconds, text):
    assert report.duration(seconds) == text


def test_without_rich_it_says_what_to_install(monkeypatch, capsys):
    for name in [name for name in sys.modules if name.partition(".")[0] == "rich"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "rich", None)
    assert cli.main(["bench"]) == 2
    err = capsys.readouterr().err
    assert 'python -m pip install "fastoptim[bench]"' in err
    assert err.count("\n") == 1


def test_importing_it_imports_nothing_heavy():
    heavy = {"rich", "matplotlib", "pytest", "jax", *MODULES.values()}
    program = f"import sys, fastoptim.bench; print({heavy} & sys.modules.keys())"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "set()"


@pytest.mark.skipif(not hasattr(os, "preadv"), reason="needs preadv")
def test_the_record_of_state_on_disk(tiny, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(disk, "ELEMENTS", (100_000, 300_000))
    before = set_wave_bytes(25 * 4096)
    try:
        record = recorded("--disk", str(tmp_path), file=tmp_path / "record.json")
    finally:
        set_wave_bytes(before)
    (found,) = record["disk"]
    assert (found["optimizer"], found["dtype"], found["elements"]) == ("Adam", "float32", 100_000)
    assert (found["state_bytes"], found["wave_bytes"]) == (800_000, 25 * 4096)
    assert found["median_seconds"].keys() == {"fastoptim", disk.PLAIN, disk.MEMORY}
    assert found["of_plain_loop"] > 0
    out = capsys.readouterr().out
    assert "State on disk, Adam, float32" in out
    assert max(map(len, out.splitlines())) <= 80
    assert [*tmp_path.iterdir()] == [tmp_path / "record.json"], "nothing is left"


@pytest.mark.skipif(not hasattr(os, "preadv"), reason="needs preadv")
def test_wrong_steps_with_state_on_disk_are_not_timed(tiny, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(disk, "ELEMENTS", (10_000, 20_000))
    monkeypatch.setattr(disk, "take_turns", lambda *_, **__: pytest.fail("timed"))
    real = disk._stepper

    def wrong(cell, path):
        step, params = real(cell, path)
        params[0][7] += path is None
        return step, params

    monkeypatch.setattr(disk, "_stepper", wrong)
    assert run("--quick", "--disk", str(tmp_path)) == 1
    assert "differ from those with state in memory" in " ".join(capsys.readouterr().out.split())


def test_a_folder_for_state_on_disk_that_is_not_there(capsys, tmp_path):
    assert cli.main(["bench", "--disk", str(tmp_path / "none")]) == 2
    assert "fastoptim bench: --disk" in capsys.readouterr().err
