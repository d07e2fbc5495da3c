"""The C sources: what they find in the CPU, and that other systems' compilers take them."""

from __future__ import annotations

import ctypes
import os
import platform
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from checked_builds import CC, ROOT

from fastoptim._engine.machine import cpu_supports

CSRC = ROOT / "csrc"
SOURCES = sorted(CSRC.glob("*.c"))
STRICT = ["-O2", "-Wall", "-Wextra", "-Werror", f"-I{CSRC}"]


def compile_c(command: list[str], *arguments: object) -> None:
    words = [*command, *STRICT, *map(str, arguments)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


needs_cc = pytest.mark.skipif(
    sys.platform == "win32" or not shutil.which(CC), reason="needs a C compiler for this system"
)


# The features of each level that are new in it, by their names in /proc/cpuinfo; those of AMD64
# itself are left out.
FLAGS = {
    "base": set(),
    "v3": {
        *("abm", "avx", "avx2", "bmi1", "bmi2", "cx16", "f16c", "fma", "lahf_lm", "movbe"),
        *("pni", "popcnt", "sse4_1", "sse4_2", "ssse3"),
    },
    "v4": {"avx512f", "avx512dq", "avx512cd", "avx512bw", "avx512vl"},
}
# Where they stand in what fo_is_v3 is told: CPUID's leaf 1 in ECX, 7 in EBX, 0x80000001 in ECX,
# and XCR0, by which the system says that it keeps the registers of SSE, AVX and AVX-512.
BITS = {
    "v3": ((0, 9, 12, 13, 19, 20, 22, 23, 27, 28, 29), (3, 5, 8), (0, 5), (1, 2)),
    "v4": (
        *((0, 9, 12, 13, 19, 20, 22, 23, 27, 28, 29), (3, 5, 8, 16, 17, 28, 30, 31), (0, 5)),
        (1, 2, 5, 6, 7),
    ),
}


class TestLevels:
    @pytest.mark.skipif(
        platform.machine() != "x86_64" or not Path("/proc/cpuinfo").exists(),
        reason="reads /proc/cpuinfo of x86-64",
    )
    def test_what_linux_says(self):
        line = next(x for x in Path("/proc/cpuinfo").read_text().splitlines() if "flags" in x)
        needed = set()
        for level, flags in FLAGS.items():
            needed |= flags
            assert cpu_supports(level) == (needed <= set(line.split())), level

    @needs_cc
    @pytest.mark.parametrize("level", BITS)
    def test_each_bit_counts(self, level, tmp_path):
        source, library = tmp_path / "cpu.c", tmp_path / "cpu.so"
        source.write_text("""
#include "cpu.h"
int is_v3(uint32_t a, uint32_t b, uint32_t c, uint32_t d);
int is_v4(uint32_t a, uint32_t b, uint32_t c, uint32_t d);
int supports_v3(void);
int supports_v4(void);
int is_v3(uint32_t a, uint32_t b, uint32_t c, uint32_t d)
{
    fo_features features = {a, b, c, d};
    return fo_is_v3(features);
}
int is_v4(uint32_t a, uint32_t b, uint32_t c, uint32_t d)
{
    fo_features features = {a, b, c, d};
    return fo_is_v4(features);
}
int supports_v3(void) { return fo_cpu_v3(); }
int supports_v4(void) { return fo_cpu_v4(); }
""")
        compile_c([CC], "-shared", "-fPIC", source, "-o", library)
        cpu = ctypes.CDLL(str(library))
        runs, supports = getattr(cpu, f"is_{level}"), getattr(cpu, f"supports_{level}")
        words = [sum(1 << bit for bit in bits) for bits in BITS[level]]
        assert runs(*map(ctypes.c_uint32, words))
        assert runs(*[ctypes.c_uint32(0xFFFFFFFF)] * 4)
        for k, bits in enumerate(BITS[level]):
            for bit in bits:
                fewer = [word & ~(1 << bit) if k == j else word for j, word in enumerate(words)]
                assert not runs(*map(ctypes.c_uint32, fewer)), (k, bit)
        assert bool(supports()) == cpu_supports(level)


ZIG = [sys.executable, "-m", "ziglang", "cc", "-target"]
TARGETS = ("x86_64-windows-gnu", "aarch64-macos", "aarch64-linux-musl", "x86_64-freebsd")
MINGW = "x86_64-w64-mingw32-gcc"


@pytest.mark.skipif(not find_spec("ziglang"), reason="needs ziglang, which compiles for any system")
@pytest.mark.parametrize("target", TARGETS)
def test_other_systems(target, tmp_path):
    team = tmp_path / "team.c"  # a header that has no source of its own
    team.write_text('#include "team.h"\n')
    for source in [*SOURCES, ROOT / "tests" / "pool.c", team]:
        compile_c([*ZIG, target], "-c", source, "-o", tmp_path / "object.o")


@pytest.mark.parametrize(
    ("compiler", "flags", "runner"),
    [(CC, [], []), ("musl-gcc", [], []), (MINGW, ["-static"], ["wine"])],
    ids=["here", "musl", "Windows"],
)
def test_the_pool_adds_up(compiler, flags, runner, tmp_path):
    """Its program, which also runs under the thread sanitizer in tests/checked_builds.py."""
    if not shutil.which(compiler) or (sys.platform == "win32" and compiler == CC):
        pytest.skip(f"no {compiler} here")
    program = tmp_path / "pool.exe"
    pool = ROOT / "tests" / "pool.c", CSRC / "pool.c", CSRC / "openmp.c"
    compile_c([compiler, *flags], "-pthread", *pool, "-o", program)
    if all(map(shutil.which, runner)):
        done = subprocess.run(
            [*runner, program],
            env=os.environ | {"WINEPREFIX": str(tmp_path / "wine"), "WINEDEBUG": "-all"},
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        assert done.returncode == 0, done.stdout + done.stderr
