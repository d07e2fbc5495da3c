"""The C sources: what they find in the CPU, and that other systems' compilers take them."""

from __future__ import annotations

import ctypes
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
from importlib.util import find_spec
from itertools import chain
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
        assert not cpu_supports("sve")

    @pytest.mark.skipif(
        platform.machine() != "aarch64" or not Path("/proc/cpuinfo").exists(),
        reason="reads /proc/cpuinfo of aarch64",
    )
    def test_what_linux_says_of_aarch64(self):
        words = Path("/proc/cpuinfo").read_text().split()
        assert cpu_supports("sve") == ("sve" in words)
        assert not cpu_supports("v3")

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
int supports_sve(void);
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
int supports_sve(void) { return fo_cpu_sve(); }
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
        assert bool(cpu.supports_sve()) == cpu_supports("sve")


@needs_cc
class TestParts:
    @pytest.fixture(scope="class")
    @classmethod
    def parts(cls, tmp_path_factory):
        folder = tmp_path_factory.mktemp("parts")
        source, library = folder / "parts.c", folder / "parts.so"
        source.write_text("""
#include "parts.h"
void divide(int tasks, int threads);
int take(int *part);
void set_region(uint32_t region);
void divide(int tasks, int threads) { fo_divide(fo_own_parts(), tasks, threads); }
int take(int *part) { return (int)fo_take(fo_own_parts(), part); }
void set_region(uint32_t region) { fo_own_parts()->region = region; }
""")
        compile_c([CC], "-shared", "-fPIC", source, "-o", library)
        return ctypes.CDLL(str(library))

    @staticmethod
    def taken(parts, tasks: int, threads: int, begun: list[int]) -> dict[int, list[int]]:
        """Have the threads that begin take one task each in turn; return those of each."""
        parts.divide(tasks, threads)
        at = {thread: ctypes.c_int(thread) for thread in begun}
        found = {thread: [] for thread in begun}
        while at:
            for thread, part in list(at.items()):
                task = parts.take(ctypes.byref(part))
                if task < 0:
                    del at[thread]
                else:
                    found[thread].append(task)
        return found

    @pytest.mark.parametrize("tasks", [1, 2, 7, 64, 65, 1000])
    @pytest.mark.parametrize("threads", [2, 3, 8, 9, 63, 64, 65, 200])
    def test_each_task_is_taken_once(self, parts, tasks, threads):
        """By whichever threads begin, and however many regions there were before."""
        for begun in ([0], [threads - 1], [0, 1], [*range(0, threads, 5)], [*range(threads)]):
            found = self.taken(parts, tasks, threads, begun)
            assert sorted(chain.from_iterable(found.values())) == [*range(tasks)]

    @pytest.mark.parametrize("threads", [2, 5, 64])
    def test_a_thread_has_the_same_tasks_in_each_region(self, parts, threads):
        first, second = (self.taken(parts, 640, threads, [*range(threads)]) for _ in range(2))
        assert first == second
        for tasks in first.values():
            own = [*range(tasks[0], tasks[0] + 640 // threads)]
            assert tasks[: len(own)] == own

    def test_numbers_of_regions_that_begin_again(self, parts):
        """A counter of the region that had the same number long ago is not one of this region."""
        for region in (0, 2**32 - 1):
            parts.set_region(ctypes.c_uint32(region))
            found = self.taken(parts, 100, 64, [*range(64)])
            assert sorted(chain.from_iterable(found.values())) == [*range(100)]


@needs_cc
@pytest.mark.skipif(not shutil.which("valgrind"), reason="needs valgrind")
def test_what_a_thread_does_in_a_region_does_not_grow_with_their_number():
    script = [sys.executable, ROOT / "bench" / "count_regions.py", "8", "64"]
    done = subprocess.run(script, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr


ZIG = [sys.executable, "-m", "ziglang", "cc", "-target"]
TARGETS = ("x86_64-windows-gnu", "aarch64-macos", "aarch64-linux-musl", "x86_64-freebsd")
MINGW = "x86_64-w64-mingw32-gcc"
# As setup.py has clang compile loops. Zig takes -O3 for -O2.
FOR_AARCH64 = [
    *("-Xclang", "-O3", "-O3", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math"),
    *("-mllvm", "-unswitch-threshold=500", "-S", f"-I{CSRC}", f"-I{sysconfig.get_path('include')}"),
]


# Programs with threads, each with the sources that it needs.
PROGRAMS = (
    (ROOT / "tests" / "pool.c", CSRC / "pool.c", CSRC / "openmp.c"),
    (ROOT / "tests" / "ring.c", CSRC / "ring.c"),
)
needs_zig = pytest.mark.skipif(
    not find_spec("ziglang"), reason="needs ziglang, which compiles for any system"
)


@needs_zig
@pytest.mark.parametrize("target", TARGETS)
def test_other_systems(target, tmp_path):
    cpu = tmp_path / "cpu.c"
    cpu.write_text("""
#include "cpu.h"
int main(void) { return fo_cpu_v3() + fo_cpu_v4() + fo_cpu_sve(); }
""")
    team = tmp_path / "team.c"  # a header that has no source of its own
    team.write_text('#include "team.h"\n')
    for source in [*SOURCES, *(source for source, *_ in PROGRAMS), cpu, team]:
        compile_c([*ZIG, target], "-c", source, "-o", tmp_path / "object.o")


@needs_zig
@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize(("level", "cpu"), [("base", "generic"), ("sve", "generic+v8_2a+sve")])
def test_loops_for_aarch64(level, cpu, bits, tmp_path):
    """They are vector code, of 128 bits or of any length, and nothing in them is fused."""
    source, assembly = ROOT / "build" / f"_loops_{level}_f{bits}.c", tmp_path / "loops.s"
    if not source.exists():
        pytest.skip("Cython has not written the loops here")
    # Where headers are kept for several processors, as in Debian, Python's asks for aarch64's own:
    # those that are here do as well.
    header = Path(sysconfig.get_config_h_filename())
    folder = tmp_path / "aarch64-linux-gnu" / header.parent.name
    folder.mkdir(parents=True)
    found = [*header.parents[1].glob(f"*/{header.parent.name}/{header.name}"), header]
    shutil.copy(found[0], folder)
    words = [*ZIG, "aarch64-linux-gnu", f"-mcpu={cpu}", *FOR_AARCH64, f"-I{tmp_path}", source]
    words += ["-o", assembly]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    code = assembly.read_text()
    for operation in ("fdiv", "fsqrt"):
        assert len(re.findall(rf"\b{operation}r?\s+[vz]\d", code)) >= 20, operation
    assert not re.search(r"\s(fn?m(la|ls|ad|sb|add|sub)|fma|fms)\s", code)


@pytest.mark.parametrize("sources", PROGRAMS, ids=["pool", "ring"])
@pytest.mark.parametrize(
    ("compiler", "flags", "runner"),
    [(CC, [], []), ("musl-gcc", [], []), (MINGW, ["-static"], ["wine"])],
    ids=["here", "musl", "Windows"],
)
def test_the_pool_and_the_ring_add_up(compiler, flags, runner, sources, tmp_path):
    """Their programs, which also run under the thread sanitizer in tests/checked_builds.py."""
    if not shutil.which(compiler) or (sys.platform == "win32" and compiler == CC):
        pytest.skip(f"no {compiler} here")
    program = tmp_path / "program.exe"
    compile_c([compiler, *flags], "-pthread", *sources, "-o", program)
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
