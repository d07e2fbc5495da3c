"""The benchmarks: contenders are right or refused, and the record holds what it promises."""

import argparse
import json
import subprocess
import sys
from functools import partial

import numpy as np
import pytest

import fastoptim as fo
from fastoptim import _engine, _roofline, bench, cli, contenders
from fastoptim.contenders import CASES, CONTENDERS, DTYPES, Cell, Size

SMALL = Size(3, 1001)
ADAM = Cell(CASES["Adam"], SMALL, "float32")


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch):
    monkeypatch.setattr(bench, "PAUSE", 0)
    monkeypatch.setattr(bench, "TURN", 0)


@pytest.fixture
def without_torch(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)


def run(*argv):
    parser = argparse.ArgumentParser()
    bench.add_arguments(parser)
    return bench.main(parser.parse_args(argv))


@pytest.mark.parametrize("name", CONTENDERS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_every_contender_agrees_with_the_reference(case, dtype, name):
    if name.startswith("torch"):
        pytest.importorskip("torch")
    if (case.name, name) == ("RMSprop", "torch fused"):
        pytest.skip("torch has not written a fused RMSprop")
    step = contenders.prepare(name, Cell(case, SMALL, dtype))
    step()


def scaled(case, params, grads):
    hyper = {**case.hyper, "lr": case.hyper["lr"] * 1.001}
    return partial(fo.Adam(params, **hyper).step, grads)


def with_other_betas(case, params, grads):  # which a gradient that never changes would not show
    return partial(fo.Adam(params, **{**case.hyper, "betas": (0.8, 0.999)}).step, grads)


def without_the_last(case, params, grads):
    return partial(fo.Adam(params[:-1], **case.hyper).step, grads[:-1])


def with_a_nan(case, params, grads):
    params[-1][-1] = np.nan
    return partial(fo.Adam(params, **case.hyper).step, grads)


@pytest.mark.parametrize("wrong", [scaled, with_other_betas, without_the_last, with_a_nan])
def test_a_wrong_contender_is_refused(monkeypatch, wrong):
    monkeypatch.setitem(CONTENDERS, "wrong", wrong)
    with pytest.raises(contenders.WrongResultError, match="wrong: Adam float32 3 x 1,001"):
        contenders.prepare("wrong", ADAM)


def test_nobody_is_timed_beside_a_wrong_contender(monkeypatch, capsys):
    monkeypatch.setitem(CONTENDERS, "NumPy plain", scaled)
    monkeypatch.setattr(bench, "take_turns", lambda *_: pytest.fail("timed"))
    assert run("--quick") == 1
    out, err = capsys.readouterr()
    assert not out
    assert "wrong result of NumPy plain: Adam float32" in err


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
        return lambda: optimizer.step(grads) or averages_from(optimizer)

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


@pytest.mark.parametrize("name", ["fastoptim", "NumPy plain", "NumPy in place"])
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


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("n", [0, 1, 2, 1001])
def test_the_probe_reads_all(n, threads):
    words = np.random.default_rng(0).integers(0, 1 << 63, n, np.uint64)
    assert _roofline.read(words.view(np.float64), threads) == sum(map(int, words)) % (1 << 64)
    with pytest.raises(ValueError, match="g: expected a contiguous array"):
        _roofline.read(np.ones((2, 3)).T, threads)


@pytest.mark.parametrize("name", ["Adam", "AdamW-clip-EMA"])
def test_the_probe_moves_the_bytes_of_the_step(monkeypatch, name):
    moved = []
    monkeypatch.setattr(bench, "read", lambda g, _: moved.append(g.nbytes))
    monkeypatch.setattr(
        bench,
        "stream",
        lambda p, g, state, _: moved.append(g.nbytes + 2 * sum(a.nbytes for a in (p, *state))),
    )
    cell = Cell(CASES[name], SMALL, "float32")
    bench.probe(cell, 1)()
    assert sum(moved) == cell.traffic


@pytest.mark.parametrize(
    ("case", "arrays"), [("SGD", 3), ("Momentum", 5), ("Adam", 7), ("AdamW-clip-EMA", 10)]
)
def test_traffic(case, arrays):
    assert Cell(CASES[case], Size(2, 10), "float32").traffic == 2 * 10 * 4 * arrays


def test_contenders_take_turns():
    turns = []
    steps = {name: partial(turns.append, name) for name in ("fastoptim", "other")}
    seconds = bench.take_turns(steps, budget=0)
    assert {name: len(times) for name, times in seconds.items()} == dict.fromkeys(steps, 5)
    timed = turns[-20:]  # each turn is one step to warm up and one that is timed
    assert timed == ["fastoptim", "fastoptim", "other", "other"] * 5


def test_a_ratio_is_the_median_of_the_ratios_of_each_round():
    seconds = {"fastoptim": [1.0, 2.0, 4.0], "NumPy plain": [10.0, 10.0, 10.0]}
    assert bench.Result(ADAM, 1, seconds, {}).ratio("NumPy plain") == 5


def test_a_large_step_uses_more_threads():
    before = _engine.set_limit(2)
    try:
        assert _engine.threads_for(1000) == 1
        assert _engine.threads_for(1 << 30) == fo.get_num_threads()
    finally:
        _engine.set_limit(before)


def test_the_record(without_torch, tmp_path, capsys):
    file = tmp_path / "record.json"
    assert run("--quick", "--json", str(file)) == 0
    out = capsys.readouterr().out
    assert "Adam, float32" in out
    assert "absent" in out
    assert all(name in out for name in CASES)  # in 80 columns

    record = json.loads(file.read_text())
    machine = record["machine"]
    assert machine["CPU"]
    assert machine["torch"] == "absent"
    assert machine["threads"] == fo.get_num_threads()
    assert {"fastoptim", "Python", "NumPy", "level", "compiler"} <= machine.keys()

    results = record["results"]
    assert {result["optimizer"] for result in results} == CASES.keys()
    adam = {(r["dtype"], r["tensors"], r["elements"]) for r in results if r["optimizer"] == "Adam"}
    sizes = {(1, 64), (1, 4096), (1, 65_536), (1, 1_000_000), (1000, 1_000_000)}
    assert adam == {(dtype, *size) for dtype in DTYPES for size in sizes}
    for result in results:
        assert result["rounds"] >= 5
        assert result["threads"] >= 1
        numpy = {"reference", "NumPy plain", "NumPy in place"}
        assert result["median_seconds"].keys() == {"fastoptim", "probe"} | numpy
        assert result["speedup_over"].keys() == numpy
        assert result["left_out"] == {"torch default": "absent", "torch fused": "absent"}
        assert result["gb_per_second"]["fastoptim"] == pytest.approx(
            result["bytes"] / result["median_seconds"]["fastoptim"] / 1e9
        )
        assert result["share_of_probe"] > 0


def test_one_optimizer_beside_torch(capsys):
    pytest.importorskip("torch")
    assert run("--quick", "--optimizer", "RMSprop") == 0
    out = capsys.readouterr().out
    assert "RMSprop, float64" in out
    assert "Other rules" not in out
    assert "none" in out  # torch fused
    assert "absent" not in out.replace("absent: not installed", "")


@pytest.mark.parametrize("file", ["", "missing/record.json"])
def test_a_file_that_cannot_be_written_is_refused_at_once(monkeypatch, tmp_path, capsys, file):
    monkeypatch.setattr(bench, "measure", lambda *_: pytest.fail("measured"))
    assert cli.main(["bench", "--json", str(tmp_path / file)]) == 2
    assert "--json: cannot write" in capsys.readouterr().err


def test_without_rich_it_says_what_to_install(monkeypatch, capsys):
    for name in [name for name in sys.modules if name.partition(".")[0] == "rich"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "rich", None)
    assert cli.main(["bench"]) == 2
    err = capsys.readouterr().err
    assert 'python -m pip install "fastoptim[bench]"' in err
    assert err.count("\n") == 1


def test_importing_it_imports_nothing_heavy():
    program = "import sys, fastoptim.bench; print({'rich', 'torch', 'pytest'} & sys.modules.keys())"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "set()"
