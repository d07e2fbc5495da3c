"""Install each extra alone, from a wheel as a user has it, and run its lines of the README.

    python tests/extras.py [extra ...]

Every extra gets a virtual environment of its own, with the newest versions that it allows, and most
get another one with the oldest: a bound that is too low, or a package that comes along by chance
where all are installed together, shows here alone. The integrations' own tests follow there.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import NamedTuple

from checked_builds import ROOT, not_copied
from packaging.requirements import Requirement

NEWEST = ["torch==2.13.0"]  # of which there is a build without gigabytes of CUDA
OLDEST = ["numpy==2.0.0"]  # and the lower bound of each package that the extra names

README = "\n".join(
    re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
)

STEPS = """
import numpy as np
import fastoptim as fo
params = {"w": np.ones(3), "b": np.zeros(())}
opt = fo.Adam(params, lr=0.1, ema_decay=0.9)
for _ in range(3):
    opt.step({"w": 2 * params["w"], "b": params["b"] + 1})
"""

CHECKPOINT = f"""
{STEPS}
from safetensors.numpy import load_file
opt.save("run.safetensors")
arrays = load_file("run.safetensors")
assert (arrays["p/w"] == params["w"]).all() and {{"m/w", "v/w"}} <= set(arrays), list(arrays)
other = {{"w": np.zeros(3), "b": np.ones(())}}
again = fo.Adam(other, ema_decay=0.9)
again.load("run.safetensors")
assert all((other[name] == params[name]).all() for name in params) and again.lr == 0.1
"""

SKLEARN = """
import numpy as np
from sklearn.datasets import load_digits
from sklearn.neural_network import MLPClassifier as Theirs
from fastoptim.integrations.sklearn import MLPClassifier, MLPRegressor, patch, patched, unpatch
x, y = load_digits(return_X_y=True)
def losses(cls):
    return cls((16,), max_iter=5, random_state=0, tol=0).fit(x / 16, y).loss_curve_
expected = losses(Theirs)
patch(); found = [losses(Theirs)]; unpatch()
with patched():
    found.append(losses(Theirs))
found.append(losses(MLPClassifier))
assert np.allclose(found, expected, rtol=1e-10), (found, expected)
MLPRegressor(hidden_layer_sizes=(8,), max_iter=5, tol=0).fit(x, y)
"""

THINC = """
import numpy as np
from thinc.api import Config, Linear, fix_random_seed, registry
import fastoptim.integrations.thinc as integration
LINES = '[training]\\n[training.optimizer]\\n@optimizers = "fastoptim.%s.v1"\\n'
for name in ("Adam", "RAdam", "SGD"):
    config = Config().from_str(LINES % name + ("learn_rate = 0.1" if name == "SGD" else ""))
    optimizer = registry.resolve(config["training"])["optimizer"]
    assert type(optimizer) is type(getattr(integration, name)(0.1)) is integration.Optimizer
    fix_random_seed(0)
    model = Linear(1, 2).initialize()
    x = np.random.default_rng(0).standard_normal((64, 2)).astype("f")
    losses = []
    for _ in range(20):
        found, backward = model.begin_update(x)
        losses.append(np.mean((found - x[:, :1]) ** 2))
        backward(found - x[:, :1])
        model.finish_update(optimizer)
        optimizer.step_schedules()
    assert losses[-1] < losses[0], (name, losses)
    with model.use_params(optimizer.averages):
        model.predict(x)
"""

SPACY = """
import spacy
from spacy.training import Example
from fastoptim.integrations.thinc import Optimizer
nlp = spacy.blank("en")
nlp.config["training"]["optimizer"] = {"@optimizers": "fastoptim.Adam.v1", "learn_rate": 0.01}
nlp.add_pipe("textcat")
texts = [("an apple", {"fruit": 1.0, "metal": 0.0}), ("some iron", {"fruit": 0.0, "metal": 1.0})]
examples = [Example.from_dict(nlp.make_doc(text), {"cats": cats}) for text, cats in texts]
optimizer = nlp.initialize(lambda: examples)
assert type(optimizer) is Optimizer
losses = [nlp.update(examples, sgd=optimizer)["textcat"] for _ in range(20)]
assert losses[-1] < losses[0], losses
"""

TORCH = """
import torch
from fastoptim import LAMB
from fastoptim.integrations.torch import AdamW, ASGD, NAdam, optimizer_of
model = torch.nn.Linear(3, 2)
optimizer = AdamW(model.parameters(), lr=1e-3, max_grad_norm=1.0, ema_decay=0.999)
for _ in range(3):
    optimizer.zero_grad()
    model(torch.ones(4, 3)).square().sum().backward()
    optimizer.step()
with optimizer.use_ema():
    model(torch.ones(4, 3))
for kind in (ASGD, NAdam, optimizer_of(LAMB)):
    kind(model.parameters()).step()
"""

AUTOGRAD = """
import autograd.numpy as np
from autograd import grad
from fastoptim.integrations.autograd import adam, rmsprop, sgd
for optimize in (adam, rmsprop, sgd):
    found = optimize(grad(lambda p, i: np.sum((p["x"] - 1) ** 2)), {"x": np.zeros(3)})
    assert np.abs(found["x"] - 1).max() < 1, found
"""

OWN_RULE = """
import numpy as np
import fastoptim as fo
@fo.rule(state=("m",), scalars=lambda lr=0.5: (lr,))
def own(p, g, m, lr):
    m = m + g
    return p - lr * m, m
opt = fo.optimizer(own)(np.ones(100), backend="compiled")
opt.step(np.ones(100))
assert (opt.param_groups[0]["params"][0] == 0.5).all()
"""

PLOT = """
import matplotlib
matplotlib.use("Agg")
from fastoptim.schedules import OneCycle, plot
plot(OneCycle(0.1, total_steps=100), 100).figure.savefig("schedule.png")
"""


class Extra(NamedTuple):
    """What is run where some extras are installed together, and nothing else."""

    commands: list[list[str]]
    ages: tuple[str, ...] = ("newest", "oldest")  # of the versions
    suite: str = ""  # tests of the integration, for which pytest is installed in the end
    suite_ages: tuple[str, ...] = ("oldest",)  # .ci/run has them with the newest versions, too


def code(text: str) -> list[str]:
    return ["python", "-c", text]


# As `python -c`, but of the second argument, which becomes a file, from which the source of a rule
# of one's own is read. Without the extra `rules` such a rule warns.
IN_A_FILE = code(
    "import runpy, sys; open('program.py', 'w').write(sys.argv[1]); runpy.run_path('program.py')"
)
EVOLUTION = "from fastoptim.examples.evolution import climb_rastrigin; climb_rastrigin(2)"
BENCH = ["fastoptim", "bench", "--quick"]
DIGITS = ["python", "-m", "fastoptim.examples.autograd_digits"]
DENORMALS = str(ROOT / "bench" / "bench_denormals.py")

EXTRAS = {
    "": Extra([[*IN_A_FILE, README], code(EVOLUTION)]),
    "checkpoint": Extra([code(CHECKPOINT)]),
    "demo": Extra([["fastoptim", "demo", "--quick"]]),
    "bench": Extra([[*BENCH, "--optimizer", "SGD"], ["pytest", DENORMALS, "--benchmark-disable"]]),
    "rules": Extra([[*IN_A_FILE, README], [*IN_A_FILE, OWN_RULE]], suite="test_rules.py"),
    "plot": Extra([code(PLOT)]),
    "bench,plot": Extra([[*BENCH, "--scale", "--plot", "scale.png"]], ages=("newest",)),
    "sklearn": Extra([code(SKLEARN)], suite="test_sklearn.py"),
    "autograd": Extra([code(AUTOGRAD)], suite="test_autograd.py"),
    "autograd,sklearn": Extra([DIGITS], ages=("newest",)),  # which brings SciPy, too
    "thinc": Extra([code(THINC)], suite="test_thinc.py", suite_ages=("newest", "oldest")),
    # spaCy 3.8.2 imports click, which came with typer then
    "spacy": Extra([code(THINC), code(SPACY)], ages=("newest",)),
    "optax": Extra([code("import fastoptim, optax")]),
    "rivals": Extra([[*BENCH, "--rivals"]]),
    "torch": Extra([code(TORCH)], ages=("newest",)),  # older ones have CUDA
}
LEFT_OUT = {
    "deepspeed": "it compiles for minutes when it is installed, and again when it steps",
    "mpi": "it needs an MPI, and .ci/run has an environment with each",
    "test": "the README's command for the tests installs it in an environment of its own",
}


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        wheel = build(Path(folder))
        (distribution,) = distributions(path=[str(wheel)])
        known = {name for names in EXTRAS for name in names.split(",")} | LEFT_OUT.keys()
        if missing := set(distribution.metadata.get_all("Provides-Extra")) - known:
            raise SystemExit(f"EXTRAS: expected all extras, found none of {sorted(missing)}")
        environments = [
            Environment(Path(folder), wheel, names, age, pins(distribution, names, age))
            for names in sys.argv[1:] or EXTRAS
            for age in EXTRAS[names].ages
        ]
        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
            found = list(pool.map(Environment.check, environments))
    if not all(found):
        raise SystemExit(1)


def build(folder: Path) -> Path:
    """Return the wheel of this source tree, of which a copy is built."""
    tree = folder / "tree"
    shutil.copytree(ROOT, tree, ignore=not_copied)
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", folder, tree]
    subprocess.run(command, check=True)
    (wheel,) = folder.glob("*.whl")
    return wheel


def pins(distribution: Distribution, names: str, age: str) -> list[str]:
    """Return the versions that are pinned where some extras are installed."""
    if age == "newest":
        return NEWEST
    return [*OLDEST, *lower_bounds(distribution, filter(None, names.split(",")))]


def lower_bounds(distribution: Distribution, extras: Iterable[str]) -> Iterator[str]:
    for extra in extras:
        for requirement in map(Requirement, distribution.requires or ()):
            if requirement.marker is None or not requirement.marker.evaluate({"extra": extra}):
                continue
            if requirement.name == distribution.name:
                yield from lower_bounds(distribution, requirement.extras)
            else:
                (bound,) = (s.version for s in requirement.specifier if s.operator == ">=")
                yield f"{requirement.name}=={bound}"


class Environment(NamedTuple):
    """A virtual environment that holds some extras, and nothing else."""

    folder: Path
    wheel: Path
    names: str
    age: str
    pins: list[str]

    def check(self) -> bool:
        """Install the extras, run their lines, and print what has failed."""
        title = f"fastoptim[{self.names}], {self.age} versions"
        began = time.monotonic()
        with tempfile.TemporaryDirectory(dir=self.folder) as name:
            place = Path(name)
            try:
                self.run_all(place)
            except subprocess.CalledProcessError as error:
                print(f"{title}: failed, after\n{error.stdout}", flush=True)
                return False
        print(f"{title}: good, after {time.monotonic() - began:.0f} s", flush=True)
        return True

    def run_all(self, place: Path) -> None:
        extra = EXTRAS[self.names]
        venv.create(place / "venv", symlinks=True)
        (place / "constraints").write_text("\n".join(self.pins))
        self.install(place, f"{self.wheel}[{self.names}]" if self.names else str(self.wheel))
        for command in extra.commands:
            self.run(place, place / "venv" / "bin" / command[0], *command[1:])
        if extra.suite and self.age in extra.suite_ages:
            self.install(place, "pytest", "pytest-timeout", "hypothesis")
            # Libraries of different ages warn of each other.
            options = "-q", "-p", "no:cacheprovider", "-W", "default::DeprecationWarning"
            suite = ROOT / "tests" / extra.suite
            self.run(place, place / "venv" / "bin" / "pytest", *options, suite)

    def install(self, place: Path, *requirements: str) -> None:
        pip = [sys.executable, "-m", "pip", "--python", place / "venv" / "bin" / "python"]
        constraints = ["-c", place / "constraints"]
        self.run(place, *pip, "install", "-q", "--no-compile", *constraints, *requirements)

    def run(self, place: Path, *command: str | Path) -> None:
        subprocess.run(
            command,
            check=True,
            cwd=place,
            env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )


if __name__ == "__main__":
    main()
