"""Build the compiled modules: one source of loops, one module for each instruction-set level."""

import os
import subprocess
import sys
import sysconfig
import tempfile
from contextlib import suppress
from itertools import chain
from pathlib import Path

import Cython
import numpy
from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

# What each kind of compiler is told, where its version takes it.
#
# The loops give NumPy's bits only if the compiler neither fuses a multiplication with an addition
# nor reorders. What is required stops the build where it is not taken. (real.h tells the same to
# versions of MSVC that fuse all the same.)
REQUIRED = {
    "gcc": ["-O3", "-ffp-contract=off"],
    "clang": ["-O3", "-ffp-contract=off"],
    "msvc": ["/O2", "/fp:precise", "/std:c11", "/experimental:c11atomics"],
}
# Each part of -ffast-math is undone by name, since -fno-fast-math leaves those alone that CFLAGS
# name. The linker is told, too: where -Ofast or -ffast-math is the last word, it adds code that
# takes denormals for zero in the whole process.
SLOW_MATH = [
    "-fno-fast-math",
    "-fno-associative-math",
    "-fno-reciprocal-math",
    "-fno-finite-math-only",
    "-fsigned-zeros",
]
EXACT = {
    "gcc": [
        *SLOW_MATH,
        "-fno-unsafe-math-optimizations",  # with clang it would bring back trapping
        "-fno-single-precision-constant",
        "-mno-daz-ftz",
    ],
    "clang": [
        "-fp-model=precise",  # of Intel's, whose default is fast
        *SLOW_MATH,
        "-fdenormal-fp-math=ieee",
    ],
    "msvc": [],
}
# Errno and trapping would keep the compiler from vectorising square roots and conditions. The
# unswitch limits let a loop with options become one vector loop per combination.
VECTORS = {
    "gcc": [
        "-fno-math-errno",
        "-fno-trapping-math",
        "--param=max-unswitch-insns=500",
        "--param=max-unswitch-level=8",
    ],
    "clang": ["-fno-math-errno", "-fno-trapping-math", "-mllvm -unswitch-threshold=500"],
    "msvc": [],
}
DEBUG = os.environ.get("FASTOPTIM_DEBUG") == "1"
CHECKED = ["-UNDEBUG", "-g"]  # the assertions of Python's and NumPy's headers
SANITIZE = ["-fsanitize=address,undefined", "-fno-omit-frame-pointer", "-g"]
V3 = ["-march=x86-64-v3"]
# By themselves the compilers would use vectors of 256 bits.
V4 = ["-march=x86-64-v4", "-mprefer-vector-width=512"]
SVE = ["-march=armv8.2-a+sve"]
LEVELS = {
    "base": {"gcc": [], "clang": [], "msvc": []},
    "v3": {"gcc": V3, "clang": V3, "msvc": ["/arch:AVX2"]},
    "v4": {"gcc": V4, "clang": V4, "msvc": ["/arch:AVX512"]},
    "sve": {"gcc": SVE, "clang": SVE},
}
# Of the levels that are not for all: for which targets they are, as the preprocessor knows these.
X86_64 = "defined(__x86_64__) || defined(_M_X64)"
TARGETS = {"v3": X86_64, "v4": X86_64, "sve": "defined(__aarch64__) && defined(__linux__)"}
PRECISIONS = {32: ("float", "sqrtf", "fabsf"), 64: ("double", "sqrt", "fabs")}
# A loop divides as C does also in a debug build: x / 0 is the infinity that NumPy has there.
LOOPS = """\
# cython: cdivision=True, infer_types=True
from libc.math cimport {magnitude} as magnitude, {root} as root
from fastoptim._loop cimport f{bits} as array, rule{bits} as rule_loop

ctypedef {real} real

include "_loops.pxi"
"""
# Safe without a GIL: the globals that change after the import are whole numbers that stand alone,
# such as the limits of threads, and a dict of choices, each of which lets in one thread at a time,
# as a plan does.
DIRECTIVES = {
    "language_level": 3,
    "freethreading_compatible": True,
    "wraparound": False,
    # what a debug build checks
    "boundscheck": DEBUG,
    "initializedcheck": DEBUG,
    "nonecheck": DEBUG,
    "cdivision": not DEBUG,
}
MACROS = [("NPY_NO_DEPRECATED_API", "NPY_2_0_API_VERSION")]

PROGRAM = "int main(void) { return 0; }"
PYTHON_PROGRAM = f"#include <Python.h>\n{PROGRAM}"
CLANG_PROGRAM = f"""
#ifndef __clang__
#error "is another compiler"
#endif
{PROGRAM}
"""
EXACT_PROGRAM = f"""
#ifdef __FAST_MATH__
#error "computes in another way than it is told"
#endif
{PROGRAM}
"""


class BuildExt(build_ext):
    """Ask the compiler what it can do, then build every module with the flags it accepts."""

    def build_extensions(self):
        self.kind = "msvc" if self.compiler.compiler_type == "msvc" else "gcc"
        if not self.compiles(PYTHON_PROGRAM):
            raise SystemExit(self.what_is_missing())
        if self.kind == "gcc" and self.compiles(CLANG_PROGRAM):
            self.kind = "clang"
        self.choose_levels()
        self.choose_flags()
        # Modules are older than this file, and built anew, where the build before was another.
        options = written(Path(self.build_temp, "options"), self.options())
        for extension in self.extensions:
            extension.depends.append(options)
        self.parallel = self.parallel or os.cpu_count()
        super().build_extensions()

    def run(self):
        super().run()
        for extension in self.left_out if self.inplace else ():
            Path(self.get_ext_filename(extension.name)).unlink(missing_ok=True)

    def choose_levels(self):
        """Leave out the levels that are not for the target, also those of an earlier build."""
        levels = {level for level in LEVELS if self.has_level(level)}
        levels.add(None)
        self.left_out = [e for e in self.extensions if e.level not in levels]
        self.extensions = [e for e in self.extensions if e.level in levels]
        for extension in self.left_out:  # a wheel holds whatever lies in the folder of the build
            Path(self.get_ext_fullpath(extension.name)).unlink(missing_ok=True)

    def has_level(self, level):
        """Tell whether a level is for the target, and the compiler knows it."""
        flags = LEVELS[level].get(self.kind)
        if flags is None:
            return False
        return level not in TARGETS or self.compiles(target_program(TARGETS[level]), flags)

    def choose_flags(self):
        """Give each module the flags that the compiler takes."""
        checks = CHECKED if DEBUG else []
        if os.environ.get("FASTOPTIM_SANITIZE") == "1":
            if not self.compiles(PROGRAM, SANITIZE):
                raise SystemExit(
                    "fastoptim: FASTOPTIM_SANITIZE=1, but the compiler has no sanitizers"
                )
            checks = checks + SANITIZE
        exact = self.exact_flags()
        vectors = self.accepted(VECTORS[self.kind])
        for extension in self.extensions:
            level = [] if extension.level is None else vectors + LEVELS[extension.level][self.kind]
            extension.extra_compile_args = exact + level + checks
            extension.extra_link_args = checks if self.kind == "msvc" else exact + checks

    def exact_flags(self):
        """Return the flags by which a compiler computes as NumPy does, or stop the build."""
        required = REQUIRED[self.kind]
        exact = self.accepted(EXACT[self.kind])
        missing = set(required) - set(self.accepted(required))
        if missing:
            raise SystemExit(
                f"fastoptim: {self.command()} does not take {' '.join(sorted(missing))}, without "
                "which a step would not have NumPy's bits: set CC to gcc or clang"
            )
        if not self.compiles(EXACT_PROGRAM, exact + required):
            raise SystemExit(
                f"fastoptim: {self.command()} keeps to fast-math whatever it is told, and a step "
                "would not have NumPy's bits: set CC to gcc or clang"
            )
        return exact + required

    def options(self):
        """Return what decides how the modules are compiled, beside their sources."""
        commands = [getattr(self.compiler, name, None) for name in ("compiler_so", "linker_so")]
        version = [self.command(), "--version"]
        with suppress(OSError):  # MSVC's has no such option
            version = subprocess.run(version, capture_output=True, text=True, check=False).stdout
        flags = [(e.name, e.extra_compile_args, e.extra_link_args) for e in self.extensions]
        versions = version, sys.version, numpy.__version__, Cython.__version__
        found = [*commands, *versions, DIRECTIVES, *flags]
        return "".join(f"{line}\n" for line in found)

    def command(self):
        """Return the name of the compiler."""
        return getattr(self.compiler, "compiler_so", ["the C compiler"])[0]

    def accepted(self, flags):
        """Return the words of those flags that the compiler takes."""
        strict = ["/options:strict"] if self.kind == "msvc" else []  # it only warns otherwise
        taken = (f.split() for f in flags if self.compiles(PROGRAM, strict + f.split()))
        return list(chain.from_iterable(taken))

    def compiles(self, program, flags=()):
        """Tell whether the compiler takes a program and flags, quietly."""
        if self.kind == "msvc" and any(flag.startswith("-") for flag in flags):
            return False  # it only warns of most
        with tempfile.TemporaryDirectory() as folder, Quiet():
            source = Path(folder, "probe.c")
            source.write_text(program)
            try:
                self.compiler.compile(
                    [str(source)],
                    output_dir=folder,
                    include_dirs=[sysconfig.get_path("include"), sysconfig.get_path("platinclude")],
                    extra_postargs=list(flags),
                )
            except Exception:  # each compiler class raises its own error for "no"
                return False
            return True

    def what_is_missing(self):
        if self.compiles(PROGRAM):
            return (
                "fastoptim: Python.h is missing: install the headers of "
                f"Python {sys.version_info[0]}.{sys.version_info[1]} (python3-dev or python3-devel)"
            )
        return (
            f"fastoptim: no working C compiler ({self.command()} failed): "
            "install gcc or clang, or set CC"
        )


def target_program(target):
    """Return a program that compiles only for some targets."""
    return f'#if !({target})\n#error "compiles for another target"\n#endif\n{PROGRAM}'


class Quiet:
    """Send what a probed compiler prints to nowhere, at the level of file descriptors."""

    def __enter__(self):
        self.saved = [os.dup(1), os.dup(2)]
        with open(os.devnull, "w") as null:
            os.dup2(null.fileno(), 1)
            os.dup2(null.fileno(), 2)

    def __exit__(self, *_):
        for fd, saved in enumerate(self.saved, start=1):
            os.dup2(saved, fd)
            os.close(saved)


def written(path, text):
    """Return the name of a file that holds a text; if it does already, it is left as it is."""
    if not path.exists() or path.read_text() != text:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return str(path)


def module(name, *sources, level=None):
    extension = Extension(
        f"fastoptim.{name}",
        list(sources),
        include_dirs=["csrc", numpy.get_include()],
        define_macros=MACROS,
        depends=[str(header) for header in sorted(Path("csrc").glob("*.h"))],
    )
    extension.level = level
    return extension


def loop_modules():
    """Write the source of each module: the types of one precision, and the common loops."""
    for level in LEVELS:
        for bits, (real, root, magnitude) in PRECISIONS.items():
            name = f"_loops_{level}_f{bits}"
            text = LOOPS.format(bits=bits, real=real, root=root, magnitude=magnitude)
            yield module(name, written(Path("build", f"{name}.pyx"), text), level=level)


def sources():
    """Return all modules, once Cython has written their sources in C."""
    rooms = [f"_engine.{room.stem}" for room in sorted(Path("fastoptim/_engine").glob("*.pyx"))]
    c_sources = {  # one copy of each a process
        "_engine.threads": ["csrc/pool.c", "csrc/openmp.c"],
        "_engine.ring": ["csrc/ring.c"],
    }
    modules = [
        module(name, f"fastoptim/{name.replace('.', '/')}.pyx", *c_sources.get(name, []))
        for name in rooms
    ]
    bench = "fastoptim/bench/_yardsticks.pyx", "csrc/yardsticks.c"  # with intrinsics of all levels
    modules.append(module("bench._yardsticks", *bench, level="base"))
    modules += loop_modules()
    levels = {extension.name: extension.level for extension in modules}
    extensions = cythonize(
        modules,
        include_path=[".", "fastoptim"],
        compiler_directives=DIRECTIVES,
        build_dir="build/debug" if DEBUG else None,  # apart: Cython goes by the time of a file
    )
    for extension in extensions:
        extension.level = levels[extension.name]
    return extensions


try:
    extensions = sources()
except OSError as error:
    raise SystemExit(
        f"fastoptim: cannot write to the source tree ({error}): build from a copy of it, in a "
        "folder that can be written"
    ) from None
setup(ext_modules=extensions, cmdclass={"build_ext": BuildExt})
