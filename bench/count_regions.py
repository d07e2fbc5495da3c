"""Count the instructions of regions of many threads: ``python bench/count_regions.py``.

A region is what a step of several threads runs in: its caller wakes workers, all share out the
tasks, and the caller waits for those that have begun. Here all workers take part in each region, on
however few cores, and tasks do nothing. Counted are the instructions of ``csrc/pool.c`` and
``csrc/parts.h``, thread by thread, without those of waiting. Unlike times these hardly depend on
the machine.

The threads of a region are a tree. Until the last of them begins, and until the caller knows that
it is done, as many threads act one after the other as there are levels below the caller: that is
the chain. The script fails where the instructions of a thread grow with the number of threads.

    python bench/count_regions.py [THREADS ...]
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCES = [ROOT / "tests" / "regions.c", ROOT / "csrc" / "pool.c"]
FLAGS = ["-O2", "-fno-inline", f"-I{ROOT / 'csrc'}", "-pthread"]  # each function by itself
# What lasts as long as others take, and what is done once in a process.
NOT_COUNTED = {"wait_until_done", "ticket_comes_soon", "sleep_until_ticket", "relax", "yield_core"}
NOT_COUNTED |= {
    "now_ns",
    "serve",
    "start",
    "add_workers",
    "fo_pool_install",
    "main",
    "wait_for_all",
}
FAN = 4  # children of a thread, as in csrc/pool.c
THREADS = [2, 5, 8, 16, 32, 64]
REGIONS = 200
SLACK = 2  # who takes from other threads' parts runs more than others, in some regions
Counts = list[float]


def compiled(folder: str) -> str:
    """Compile the program that runs regions."""
    cc = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")[0]
    program = f"{folder}/regions"
    subprocess.run([cc, *FLAGS, *SOURCES, "-o", program], check=True)
    return program


def instructions(program: str, threads: int) -> Counts:
    """Return the instructions of each thread in a region, the caller first."""
    with tempfile.TemporaryDirectory() as folder:
        command = ["valgrind", "--tool=callgrind", "--separate-threads=yes"]
        command += [f"--callgrind-out-file={folder}/out", program, str(threads), str(REGIONS)]
        run = subprocess.run(command, capture_output=True, text=True, check=False)
        if run.returncode != 0:
            raise SystemExit(f"valgrind failed:\n{run.stderr}")
        profiles = sorted(Path(folder).glob("out-*"))
        return [own_instructions(path.read_text(), program) / REGIONS for path in profiles]


def own_instructions(profile: str, program: str) -> int:
    """Add up what a thread has run of the functions of the program, without what they called.

    A name is written out where it is met first, and then stands as a number. The line after one of
    calls has the instructions of what was called.
    """
    names: dict[tuple[str, str], str] = {}
    current = {"ob": "", "fn": ""}
    total, called = 0, False
    for line in profile.splitlines():
        if found := re.fullmatch(r"(c?)(ob|fn)=\((\d+)\)(?: (.*))?", line):
            of_call, kind, number, text = found.groups()
            name = names.setdefault((kind, number), text)
            if not of_call:
                current[kind] = name
        elif line.startswith("calls="):
            called = True
        elif found := re.fullmatch(r"[-+*\d]\S* (\d+)", line):
            if not called and current["ob"] == program and current["fn"] not in NOT_COUNTED:
                total += int(found[1])
            called = False
    return total


def levels(threads: int) -> int:
    """Return how many levels a tree of so many threads has below its root."""
    level, last = 0, 0  # the number of the last thread of that level
    while last < threads - 1:
        level, last = level + 1, FAN * last + FAN
    return level


def main() -> int:
    """Print the counts; return 1 if those of one thread grow with the number of threads."""
    if shutil.which("valgrind") is None:
        raise SystemExit("count_regions: valgrind is not installed")
    sizes = [int(word) for word in sys.argv[1:]] or THREADS
    most = {}
    print(f"{'threads':>8}{'caller':>8}{'mean':>8}{'most':>8}{'levels':>8}{'chain':>8}")
    with tempfile.TemporaryDirectory() as folder:
        program = compiled(folder)
        for n in sizes:
            caller, *workers = found = instructions(program, n)
            most[n] = max(found)
            chain = caller + levels(n) * max(workers)
            print(
                f"{n:>8}{caller:>8.0f}{sum(found) / n:>8.0f}{most[n]:>8.0f}"
                f"{levels(n):>8}{chain:>8.0f}",
                flush=True,
            )
    bound = SLACK * max(most[n] for n in sizes if n <= 2 * FAN)
    return int(any(m > bound for m in most.values()))


if __name__ == "__main__":
    sys.exit(main())
