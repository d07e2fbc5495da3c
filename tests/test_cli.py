"""The command line, from outside where it matters: what it prints, writes and returns."""

from __future__ import annotations

import errno
import os
import pickle
import re
import subprocess
import sys
import zipfile
from importlib.metadata import entry_points

import numpy as np
import pytest

import fastoptim as fo
from fastoptim import optimizers
from fastoptim.cli import COMMANDS, main
from fastoptim.demo import command as demo
from fastoptim.demo.digits import KEYS, load_npz
from fastoptim.demo.training import SCHEDULES

pytest.importorskip("rich", reason="rich is not installed (extra `demo`)")
pytest.importorskip("matplotlib", reason="matplotlib is not installed (extra `plot`)")

EXTRAS = ("matplotlib", "rich")

METHODS = ["SGD", "Momentum", "RMSprop", "Adagrad", "Adam"]
PNG = b"\x89PNG\r\n\x1a\n"
# A program for `python -c`, to which some packages are not installed.
WITHOUT = """
import sys

class Missing:
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] in {missing}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Missing)
from fastoptim.cli import main
sys.exit(main(sys.argv[1:]))
"""


def python(*args, cwd):
    # On a busy machine, products this small take far longer on two threads than on one.
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *args],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


def fastoptim(*args, cwd):
    return python("-m", "fastoptim", *args, cwd=cwd)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Run in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def real():
    return demo.load_digits()


@pytest.fixture
def short(monkeypatch, real):
    """Make a training that no one minds waiting for."""
    monkeypatch.setattr(demo, "load_digits", lambda: real)
    monkeypatch.setattr(demo, "QUICK_BATCHES", demo.BLOCK)


@pytest.fixture
def no_training(monkeypatch):
    def compare(*_):
        raise AssertionError("the problem shows before the training")

    monkeypatch.setattr(demo, "compare", compare)


def one_line(capsys):
    """Return the only line of stderr, of a run that printed nothing else."""
    out, err = capsys.readouterr()
    assert out == ""
    assert err.endswith("\n")
    assert err.count("\n") == 1
    return err


# The program


def test_help(folder):
    result = fastoptim("--help", cwd=folder)
    assert result.returncode == 0
    assert result.stderr == ""
    assert all(command in result.stdout for command in COMMANDS)


def test_alone_it_shows_its_help(capsys):
    assert main([]) == 0
    alone = capsys.readouterr()
    with pytest.raises(SystemExit) as exit_:
        main(["--help"])
    assert exit_.value.code == 0
    assert alone == capsys.readouterr()
    assert alone.err == ""


def test_info_is_what_show_config_prints(capsys):
    assert main(["info"]) == 0
    printed = capsys.readouterr()
    fo.show_config()
    assert printed == capsys.readouterr()
    assert fo.__version__ in printed.out


def test_help_of_the_demo(folder, monkeypatch):
    monkeypatch.setenv("COLUMNS", "1000")  # no word is broken
    result = fastoptim("demo", "--help", cwd=folder)
    assert result.returncode == 0
    options = ("--quick", "--epochs", "--batch-size", "--batch-norm", "--early-stopping")
    names = (*optimizers.__all__, *SCHEDULES, "quadratic", "regression")
    for word in (*options, "--data", "--plot", "--optimizer", "--schedule", "--example", *names):
        assert word in result.stdout


def test_version(folder):
    result = fastoptim("--version", cwd=folder)
    assert (result.returncode, result.stdout) == (0, f"fastoptim {fo.__version__}\n")


def test_console_script_is_the_same_program():
    (script,) = entry_points(group="console_scripts", name="fastoptim")
    assert script.load() is main


@pytest.mark.parametrize("args", [["frobnicate"], ["info", "all"], ["demo", "--example", "cubic"]])
def test_wrong_arguments(args, capsys):
    with pytest.raises(SystemExit) as exit_:
        main(args)
    assert exit_.value.code == 2
    assert "usage: fastoptim" in capsys.readouterr().err


@pytest.mark.parametrize(
    "args",
    [[], ["--help"], ["--version"], ["info"], *([c, "--help"] for c in COMMANDS)],
    ids=" ".join,
)
def test_with_numpy_alone(args, folder):
    result = python("-c", WITHOUT.format(missing=EXTRAS), *args, cwd=folder)
    assert result.returncode == 0, result.stderr


def test_demo_without_rich(folder):
    result = python("-c", WITHOUT.format(missing=["rich"]), "demo", cwd=folder)
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr == (
        "fastoptim demo: the module rich is not installed: "
        'python -m pip install "fastoptim[demo]"\n'
    )


def test_demo_without_matplotlib(folder):
    program = WITHOUT.format(missing=["matplotlib"])
    result = python("-c", program, "demo", "--plot", "loss.png", cwd=folder)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == (
        'fastoptim demo: --plot: needs matplotlib: python -m pip install "fastoptim[plot]"\n'
    )
    result = python("-c", program, "demo", "--quick", "--optimizer", "SGD", cwd=folder)
    assert result.returncode == 0, result.stderr
    assert os.listdir(folder) == []


@pytest.mark.usefixtures("short")
def test_interrupt(monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(demo, "compare", interrupted)
    assert main(["demo"]) == 130


# The demo


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    cwd = tmp_path_factory.mktemp("quick")
    return fastoptim("demo", "--quick", cwd=cwd), cwd


def test_quick_demo(quick):
    result, cwd = quick
    assert result.returncode == 0, result.stderr
    rows = [line.split() for line in result.stdout.splitlines()]
    rows = [row for row in rows if row and row[0] in METHODS]
    assert [row[0] for row in rows] == METHODS
    for row in rows:
        percent = re.fullmatch(r"(\d+\.\d)%", row[2])
        assert percent
        assert float(percent[1]) >= 90
        assert row[-1] == "yes"
    assert os.listdir(cwd) == []


def test_output_is_fit_for_a_file(quick):
    """No colours, the progress bars apart, no line of the table cut or broken."""
    result, _ = quick
    assert all(name in result.stderr and "100%" in result.stderr for name in METHODS)
    assert "100%" not in result.stdout
    assert "\x1b" not in result.stdout
    assert "…" not in result.stdout
    table = [line for line in result.stdout.splitlines() if line.startswith(tuple(METHODS))]
    assert len(table) == len(METHODS)
    assert max(map(len, table)) <= 80


def test_weights_that_differ(short, monkeypatch, capsys):
    """One compiled step leaves one weight off by its last bit."""
    right = fo.Adam.step

    def wrong(self, grads):
        right(self, grads)
        if self.backend == "compiled":
            weights = self.param_groups[0]["params"][2]
            weights[5, 5] = np.nextafter(weights[5, 5], np.float32(1))

    monkeypatch.setattr(fo.Adam, "step", wrong)
    assert main(["demo", "--quick"]) == 1
    out, err = capsys.readouterr()
    last = {line.split()[0]: line.split()[-1] for line in out.splitlines() if line.strip()}
    assert [last[name] for name in METHODS] == ["yes"] * 4 + ["NO"]
    assert err.endswith("\nfastoptim demo: weights differ: Adam\n")


@pytest.mark.parametrize("plot", ["no/such/folder/loss.png", "."])
def test_plot_that_cannot_be_written(plot, no_training, capsys):
    assert main(["demo", "--plot", plot]) == 2
    assert f"--plot {plot}: " in one_line(capsys)


def test_check_of_the_plot_leaves_no_trace(folder, no_training, capsys):
    (folder / "old.png").write_bytes(b"old")
    for plot in ("old.png", "new.png"):
        assert main(["demo", "--plot", plot, "--data", "none.npz"]) == 2
    assert os.listdir(folder) == ["old.png"]
    assert (folder / "old.png").read_bytes() == b"old"


def test_disk_that_is_full_after_the_training(short, monkeypatch, capsys):
    def savefig(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", savefig)
    assert main(["demo", "--quick", "--plot", "loss.png"]) == 2
    out, err = capsys.readouterr()
    assert all(name in out for name in METHODS), "the result is not lost"
    assert err.endswith("\nfastoptim demo: --plot loss.png: No space left on device\n")


# The demo with other settings


def rows_of(out):
    """Return the table's rows by the optimizer."""
    rows = [line.split() for line in out.splitlines()]
    return {row[0]: row[1:] for row in rows if row and row[0] in optimizers.__all__}


@pytest.mark.usefixtures("short")
def test_chosen_optimizers(capsys):
    assert main(["demo", "--quick", *("--optimizer", "AdamW"), *("--optimizer", "SGD") * 2]) == 0
    assert list(rows_of(capsys.readouterr().out)) == ["AdamW", "SGD"]


@pytest.mark.usefixtures("short")
def test_table_of_every_optimizer_has_80_columns(capsys):
    chosen = [word for name in optimizers.__all__ for word in ("--optimizer", name)]
    assert main(["demo", "--quick", *chosen]) == 0
    out = capsys.readouterr().out
    lines = out.splitlines()
    shown = [line.split()[0] for line in lines if line.endswith(" yes")]
    assert shown == [name[:10] for name in optimizers.__all__]  # the rest is in the next line
    assert max(map(len, lines)) <= 80
    assert "…" not in out


@pytest.mark.usefixtures("short")
def test_all_settings_at_once(folder, capsys):
    options = "--optimizer Adam --schedule cosine --epochs 2 --batch-size 250 --batch-norm"
    more = ["--early-stopping", "1", "--plot", "loss.png"]
    assert main(["demo", *options.split(), *more]) == 0
    out = capsys.readouterr().out
    for part in (
        "Batch normalisation of the hidden layer, before ReLU\n",
        "1,293 images for training, 360 held out for the test\n",
        "144 images for validation, once an epoch: stop after 1 without improvement\n",
        "11 mini-batches of 250 images (2.1 epochs)",
        "Learning rates follow the schedule cosine\n",
        "\n\nBest of the epochs run, whose weights are kept: Adam 1 of 1\n\n",
    ):
        assert part in out
    (row,) = rows_of(out).values()
    assert row[-1] == "yes"
    assert max(map(len, out.splitlines())) <= 80
    assert out.endswith("\nLoss curves: loss.png\n")
    assert (folder / "loss.png").read_bytes().startswith(PNG)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--epochs", "0"], "--epochs: expected a whole number >= 1, found '0'"),
        (["--batch-size", "-1"], "--batch-size: expected a whole number >= 1, found '-1'"),
        (["--batch-size", "1.5"], "--batch-size: expected a whole number >= 1, found '1.5'"),
        (["--early-stopping", "two"], "--early-stopping: expected a whole number >= 1"),
        (["--epochs", "1", "--quick"], "--quick: not allowed with argument --epochs"),
        (["--optimizer", "Magic"], "--optimizer: invalid choice: 'Magic'"),
        (["--schedule", "magic"], "--schedule: invalid choice: 'magic'"),
    ],
    ids=" ".join,
)
def test_settings_that_argparse_refuses(options, message, capsys):
    with pytest.raises(SystemExit) as exit_:
        main(["demo", *options])
    assert exit_.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.usefixtures("short", "no_training")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--batch-size", "1438"],
            "--batch-size: expected at most 1437, the images for training, found 1438",
        ),
        (["--batch-size", "1294", "--early-stopping", "9"], "--batch-size: expected at most 1293"),
        (
            ["--batch-size", "1", "--batch-norm"],
            "--batch-norm: expected mini-batches of 2 or more images, found 1",
        ),
    ],
    ids=" ".join,
)
def test_settings_that_do_not_go_together(options, message, capsys):
    assert main(["demo", *options]) == 2
    assert one_line(capsys).startswith(f"fastoptim demo: {message}")


# The demo with other images


@pytest.fixture(scope="module")
def arrays(real):
    """Return 60 real digits, made as large as those of MNIST, as Keras stores them."""
    small = (real.x_train[:60] * 16).astype(np.uint8).reshape(-1, 8, 8)
    large = np.kron(small, np.ones((3, 3), np.uint8)) * 15
    images = np.pad(large, ((0, 0), (2, 2), (2, 2)))
    labels = real.y_train[:60].astype(np.uint8)
    return {
        "x_train": images[:30],
        "y_train": labels[:30],
        "x_test": images[30:],
        "y_test": labels[30:],
    }


@pytest.mark.parametrize(
    ("save", "labels"), [(np.savez, np.uint8), (np.savez_compressed, np.int64)]
)
def test_data(arrays, save, labels, folder, short, capsys):
    changed = {name: arrays[name].astype(labels) for name in ("y_train", "y_test")}
    save(folder / "mnist.npz", **{**arrays, **changed}, other=np.arange(3))
    assert main(["demo", "--quick", "--data", "mnist.npz", "--plot", "loss.png"]) == 0
    out = capsys.readouterr().out
    assert "Network 784-128-10" in out
    assert "30 images for training, 30 held out" in out
    assert (folder / "loss.png").read_bytes().startswith(PNG)


def test_data_are_read_as_they_are(arrays, real, folder):
    np.savez(folder / "mnist.npz", **arrays)
    found = load_npz(folder / "mnist.npz")
    for part in ("train", "test"):
        images = getattr(found, f"x_{part}")
        assert images.dtype == np.float32
        assert images.shape == (30, 784)
        pixels = arrays[f"x_{part}"].astype(np.float32)
        np.testing.assert_array_equal(images.reshape(30, 28, 28), pixels / 255)
    assert found.y_test.tolist() == real.y_train[30:60].tolist()


def refused(data, capsys):
    assert main(["demo", "--data", str(data)]) == 2
    line = one_line(capsys)
    prefix = f"fastoptim demo: --data {data}: "
    assert line.startswith(prefix)
    return line.removeprefix(prefix).rstrip()


WRONG_ARRAYS = [
    ("x_train", lambda x: x / 255, "expected images, uint8 .* found float64 of shape"),
    ("x_train", lambda x: x.astype(np.int64), "expected images, uint8 .* found int64"),
    ("x_test", lambda x: x.reshape(-1, 784), r"shape \(N, 28, 28\), found uint8 .*\(30, 784\)"),
    ("x_test", lambda x: x[..., None], r"found uint8 of shape \(30, 28, 28, 1\)"),
    ("x_test", lambda x: x[:, 1:], r"found uint8 of shape \(30, 27, 28\)"),
    ("x_test", lambda x: x[0], r"found uint8 of shape \(28, 28\)"),
    ("x_train", lambda x: x[:0], "expected at least one image, found none"),
    ("x_train", lambda x: x.astype(object), "Object arrays cannot be loaded"),
    ("y_train", lambda y: y.astype(object), "Object arrays cannot be loaded"),
    ("y_train", lambda y: y[1:], r"integers of shape \(30,\), found uint8 of shape \(29,\)"),
    ("y_train", lambda y: y[:0], r"integers of shape \(30,\), found uint8 of shape \(0,\)"),
    ("y_train", lambda y: y.astype(np.float32), "expected labels, integers .* found float32"),
    ("y_train", lambda y: y.astype(bool), "expected labels, integers .* found bool"),
    ("y_train", lambda y: y.astype(str), "expected labels, integers .* found <U3"),
    ("y_test", lambda y: np.eye(10, dtype=np.uint8)[y], r"found uint8 of shape \(30, 10\)"),
    ("y_test", lambda y: np.uint8(3), r"found uint8 of shape \(\)"),
    ("y_test", lambda y: np.where(y == y[0], 10, y), "expected labels from 0 to 9, found . to 10"),
    ("y_test", lambda y: y.astype(int) - 1 - y.min(), "expected labels from 0 to 9, found -1 to"),
]


def test_early_stopping_on_one_image(arrays, folder, no_training, capsys):
    one = {**arrays, "x_train": arrays["x_train"][:1], "y_train": arrays["y_train"][:1]}
    np.savez(folder / "one.npz", **one)
    assert main(["demo", "--data", "one.npz", "--early-stopping", "1"]) == 2
    assert "--early-stopping: expected two images for training, found one" in one_line(capsys)


@pytest.mark.parametrize(("name", "change", "message"), WRONG_ARRAYS)
def test_data_with_a_wrong_array(name, change, message, arrays, folder, no_training, capsys):
    np.savez(folder / "wrong.npz", **{**arrays, name: change(arrays[name])})
    assert re.search(message, refused("wrong.npz", capsys))


@pytest.mark.parametrize("name", KEYS)
def test_data_without_an_array(name, arrays, folder, no_training, capsys):
    np.savez(folder / "wrong.npz", **{key: arrays[key] for key in arrays if key != name})
    assert refused("wrong.npz", capsys) == f"expected an array named {name}, found none"


@pytest.mark.parametrize(
    "content",
    [b"", b"x_train,y_train\n", pickle.dumps({"x_train": [1]}), b"\x93NUMPY\x01\x00"],
    ids=["empty", "text", "pickle", "npy"],
)
def test_data_that_are_no_archive(content, folder, no_training, capsys):
    (folder / "wrong.npz").write_bytes(content)
    assert refused("wrong.npz", capsys) == "expected an .npz file, found no zip archive"


def test_data_without_a_file(folder, no_training, capsys):
    assert refused("none.npz", capsys) == "No such file or directory"
    assert refused(folder, capsys) == "Is a directory"


def test_damaged_data(arrays, folder, no_training, capsys):
    """Whichever bytes are lost: one line, no traceback."""
    np.savez_compressed(folder / "good.npz", **{key: array[:2] for key, array in arrays.items()})
    good = (folder / "good.npz").read_bytes()
    rng = np.random.default_rng(1)
    for start in range(0, len(good), len(good) // 60):
        bad = bytearray(good)
        bad[start : start + 8] = rng.bytes(8)
        (folder / "bad.npz").write_bytes(bad)
        try:
            load_npz(folder / "bad.npz")  # the loss of a date, say, does not matter
        except demo.CommandError:
            refused("bad.npz", capsys)
        (folder / "short.npz").write_bytes(good[:start])
        refused("short.npz", capsys)


def test_archive_of_something_else(folder, no_training, capsys):
    with zipfile.ZipFile(folder / "wrong.npz", "w") as archive:
        for key in KEYS:
            archive.writestr(key, "some text")
    assert "expected images, uint8" in refused("wrong.npz", capsys)


def test_wrong_data_from_outside(folder):
    (folder / "wrong.npz").write_text("text")
    result = fastoptim("demo", "--data", "wrong.npz", cwd=folder)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == (
        "fastoptim demo: --data wrong.npz: expected an .npz file, found no zip archive\n"
    )


# The worked examples


def test_quadratic(folder):
    result = fastoptim("demo", "--example", "quadratic", cwd=folder)
    assert (result.returncode, result.stderr) == (0, "")
    for name in METHODS:
        x, f = re.search(rf"^{name}\(.*?\) +(\S+) +(\S+)$", result.stdout, re.MULTILINE).groups()
        assert abs(float(x)) < 1e-5
        assert float(f) == pytest.approx(float(x) ** 2, rel=0.1)


def test_regression(folder):
    result = fastoptim("demo", "--example", "regression", cwd=folder)
    assert (result.returncode, result.stderr) == (0, "")
    rows = re.findall(r"^(.*?) +(-?\d\.\d+) +(-?\d\.\d+)$", result.stdout, re.MULTILINE)
    fits = {name.split(",")[0]: np.array([float(w0), float(w1)]) for name, w0, w1 in rows}
    exact = fits["least squares"]
    np.testing.assert_allclose(exact, [3, 2], atol=0.05)
    assert np.abs(fits["start"] - exact).min() > 1
    for method in ("gradient descent", "momentum"):
        np.testing.assert_allclose(fits[method], exact, atol=2e-6)


def test_examples_need_numpy_alone(folder):
    args = ("demo", "--example", "quadratic")
    assert python("-c", WITHOUT.format(missing=EXTRAS), *args, cwd=folder).returncode == 0


@pytest.mark.parametrize(
    "other",
    [
        ["--quick"],
        ["--data", "mnist.npz"],
        ["--plot", "loss.png"],
        ["--optimizer", "SGD"],
        ["--schedule", "constant"],
        ["--epochs", "1"],
        ["--batch-size", "10"],
        ["--batch-norm"],
        ["--early-stopping", "1"],
    ],
    ids=" ".join,
)
def test_example_beside_other_options(other, capsys):
    assert main(["demo", "--example", "quadratic", *other]) == 2
    assert "--example: expected no other option" in one_line(capsys)
