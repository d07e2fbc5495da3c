"""How many threads a step uses, who limits them, and steps taken from several threads."""

from __future__ import annotations

import _ctypes
import asyncio
import copy
import os
import pickle
import platform
import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from pathlib import Path

import numpy as np
import pytest
from fresh import FORK, LOAD_OPENMP, OPENMP, needs_fork, needs_openmp, output, python
from zoo import OPTIMIZERS, assert_same, engine, gradients, snapshot

import fastoptim as fo
from fastoptim import _engine
from fastoptim.threads import _cgroup_quota, share_openmp_workers

on_linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="asks Linux")

THREADS = "import fastoptim as fo; print(fo.get_num_threads())"
# A step of two threads where the grain is 1, and the number of the process's threads.
STEP = """
import os, sys, threading
import numpy as np
import fastoptim as fo
from fastoptim import _engine
_engine.threads.set_grain(1)
p = np.zeros(200_000, np.float32); g = np.ones_like(p)
opt = fo.Adam(p, lr=0.5)
tasks = lambda: len(os.listdir('/proc/self/task'))
"""


# Limits hold whether a runtime of OpenMP is asked or the environment that it would have read.
with_and_without_openmp = pytest.mark.parametrize(
    "load", ["", pytest.param(LOAD_OPENMP, marks=needs_openmp)], ids=["environment", "runtime"]
)


def cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def read_as_libgomp(load: str) -> None:
    """Skip a test of what other runtimes read in a way of their own."""
    if load and "gomp" not in OPENMP:
        pytest.skip("the runtime here is not libgomp")


def refused(call) -> str:
    with pytest.raises(RuntimeError) as caught:
        call()
    return str(caught.value)


class TestLimits:
    @with_and_without_openmp
    @pytest.mark.parametrize("value", ["1", " 1 ", "+1", "1,5", "1 , 5"])
    def test_environment_of_openmp(self, load, value):
        read_as_libgomp(load)
        assert output(load + THREADS, OMP_NUM_THREADS=value) == "1"
        assert output(load + THREADS, OMP_NUM_THREADS=value, FASTOPTIM_NUM_THREADS="3") == "3"

    @with_and_without_openmp
    @pytest.mark.parametrize("value", ["", "0", "-1", "one", "1x", "1,", "1 2"])
    def test_environment_that_openmp_ignores(self, load, value):
        read_as_libgomp(load)
        assert output(load + THREADS, OMP_NUM_THREADS=value) == str(cpus())

    def test_environment(self):
        code = (
            "import fastoptim as fo; fo.set_num_threads(4); print(fo.get_num_threads());"
            "fo.set_num_threads(None); print(fo.get_num_threads())"
        )
        assert output(code, FASTOPTIM_NUM_THREADS="2").split() == ["4", "2"]

    @pytest.mark.parametrize("value", ["0", "-1", "two", "1.5", "2147483648"])
    def test_environment_without_a_number(self, value):
        done = python(THREADS, FASTOPTIM_NUM_THREADS=value)
        assert done.returncode == 1
        last = done.stderr.strip().splitlines()[-1]
        assert "FASTOPTIM_NUM_THREADS: expected a whole number >= 1 and < 2**31, found" in last

    @on_linux
    @with_and_without_openmp
    def test_no_more_than_the_cpus_unless_told(self, load):
        assert output(load + THREADS, OMP_NUM_THREADS="5000") == str(cpus())
        assert output(THREADS, FASTOPTIM_NUM_THREADS="5000") == "5000"

    @on_linux
    @pytest.mark.skipif(cpus() == 1, reason="has one CPU")
    @with_and_without_openmp
    @pytest.mark.parametrize("variable", ["OMP_THREAD_LIMIT=1", "OMP_MAX_ACTIVE_LEVELS=0"])
    def test_limits_that_are_not_a_number_of_threads(self, variable, load):
        name, value = variable.split("=")
        assert output(load + THREADS, **{name: value}) == "1"
        assert output(load + THREADS, **{name: value}, FASTOPTIM_NUM_THREADS="2") == "2"

    @needs_openmp
    @pytest.mark.skipif(cpus() == 1, reason="has one CPU")
    def test_a_runtime_that_is_loaded_after_fastoptim_is_asked(self):
        """Also if the environment that it has read, and the limit of another, say otherwise."""
        code = f"""
import fastoptim as fo
print(fo.get_num_threads(), fastoptim_openmp())
{LOAD_OPENMP}
print(fo.get_num_threads(), *fastoptim_openmp())
openmp.omp_set_num_threads(2)
print(fo.get_num_threads())
"""
        code = "from fastoptim._engine.threads import openmp_runtimes as fastoptim_openmp" + code
        name = Path(OPENMP).name
        assert output(code, OMP_NUM_THREADS="1").splitlines() == ["1 []", f"1 {name}", "2"]

    @on_linux
    @pytest.mark.skipif(cpus() == 1, reason="has one CPU")
    @with_and_without_openmp
    def test_affinity_is_asked_at_each_call(self, load):
        code = (
            load
            + STEP
            + """
before = fo.get_num_threads()
first, *_ = mine = os.sched_getaffinity(0)
os.sched_setaffinity(0, {first})
opt.step(g)
assert tasks() == alone, tasks()
print(before == len(mine), fo.get_num_threads(), _engine.threads.explain_limit()[1])
os.sched_setaffinity(0, mine)
opt.step(g)
print(tasks() - alone == len(mine) - 1, fo.get_num_threads() == before)
"""
        ).replace("tasks = ", "alone = len(os.listdir('/proc/self/task')); tasks = ")
        assert output(code).splitlines() == ["True 1 CPU affinity", "True True"]

    @on_linux
    @with_and_without_openmp
    def test_threads_bound_to_a_cpu_each(self, load):
        """The calling thread's own affinity is one CPU then, which says nothing of the others."""
        assert output(load + THREADS, OMP_PROC_BIND="true") == str(cpus())

    @on_linux
    @pytest.mark.skipif(cpus() == 1, reason="has one CPU")
    @with_and_without_openmp
    @pytest.mark.parametrize("first", ["threadpoolctl", "fastoptim"])
    def test_threadpoolctl_is_asked_at_each_call(self, first, load):
        pytest.importorskip("threadpoolctl")
        code = (
            f"import {first}\n"
            + load
            + STEP
            + """
from threadpoolctl import threadpool_limits
before = tasks()
with threadpool_limits(1):
    opt.step(g); print(fo.get_num_threads(), tasks() - before)
opt.step(g); print(fo.get_num_threads() > 1, tasks() > before)
with threadpool_limits(1):
    print(fo.get_num_threads())
with threadpool_limits(1, user_api="openmp"), threadpool_limits(5000, user_api="blas"):
    print(fo.get_num_threads())
"""
        )
        assert output(code).splitlines() == ["1 0", "True True", "1", "1"]

    @pytest.mark.skipif(cpus() == 1, reason="has one CPU")
    def test_threadpoolctl_limits_the_thread_that_asks(self):
        """As it does OpenMP's: two threads do not undo each other's limit."""
        pytest.importorskip("threadpoolctl")
        code = """
import threading
import fastoptim as fo
from threadpoolctl import threadpool_info, threadpool_limits
(before,) = (i["num_threads"] for i in threadpool_info() if i["internal_api"] == "fastoptim")
assert before == fo.get_num_threads() > 1
found = []
with threadpool_limits(1):
    (inside,) = (i for i in threadpool_info() if i["internal_api"] == "fastoptim")
    assert inside["num_threads"] == 1 and inside["version"] == fo.__version__
    thread = threading.Thread(target=lambda: found.append(fo.get_num_threads()))
    thread.start(); thread.join()
    print(*fo._engine.threads.explain_limit())
assert found == [before] and fo.get_num_threads() == before
"""
        assert output(code) == "1 threadpoolctl"

    def test_quota_caps_what_nobody_asked_for(self):
        old = _engine.threads.set_quota(1)
        try:
            with engine():
                assert fo.get_num_threads() == 1
                with fo.num_threads(3):
                    assert fo.get_num_threads() == 3
                    assert _engine.threads.threads_for(1 << 30) == 3
        finally:
            _engine.threads.set_quota(old)

    @pytest.mark.parametrize(
        ("environment", "threads"),
        [
            ({}, 1),
            ({"OMP_WAIT_POLICY": "passive"}, 1),
            ({"OMP_WAIT_POLICY": "ACTIVE"}, 2),
            ({"GOMP_SPINCOUNT": "0"}, 1),
            ({"GOMP_SPINCOUNT": "300000"}, 2),
        ],
        ids=str,
    )
    def test_workers_that_spin_are_given_less(self, environment, threads):
        code = """
import fastoptim as fo
from fastoptim import _engine
fo.set_num_threads(2)
print(_engine.threads.threads_for(2 << 20), _engine.threads.threads_for(32 << 20))
"""
        assert output(code, **environment) == "1 2"  # there are none
        if OPENMP:
            assert output(LOAD_OPENMP + code, **environment) == f"{threads} 2"
            later = code.replace("fo.set", LOAD_OPENMP + "fo.set")
            assert output(later, **environment) == f"{threads} 2"

    @pytest.mark.parametrize(
        ("environment", "workers"),
        [
            ({}, "fastoptim's own"),
            ({"OMP_WAIT_POLICY": "passive"}, "fastoptim's own"),
            ({"OMP_WAIT_POLICY": "active", "GOMP_SPINCOUNT": "0"}, "fastoptim's own"),
            ({"OMP_PROC_BIND": " false "}, "fastoptim's own"),
            ({"OMP_PROC_BIND": "false", "OMP_PLACES": "cores"}, "fastoptim's own"),
            ({"OMP_WAIT_POLICY": " Active "}, "OpenMP's"),
            ({"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "3k"}, "OpenMP's"),
            ({"GOMP_SPINCOUNT": "infinite"}, "OpenMP's"),
            ({"GOMP_SPINCOUNT": "300000"}, "OpenMP's"),
            ({"OMP_PROC_BIND": "true"}, "OpenMP's"),
            ({"OMP_WAIT_POLICY": "passive", "OMP_PLACES": "cores"}, "OpenMP's"),
        ],
        ids=str,
    )
    def test_whose_workers(self, environment, workers):
        step = "opt.step(g); assert (p == -0.5).all(); print(_engine.threads.workers())"
        environment["FASTOPTIM_NUM_THREADS"] = "2"
        assert output(STEP + step, **environment) == "fastoptim's own"  # there are no others
        if OPENMP:
            assert output(LOAD_OPENMP + STEP + step, **environment) == workers
            assert output(STEP + LOAD_OPENMP + step, **environment) == workers

    @pytest.mark.parametrize("library", ["nothing.so", _ctypes.__file__])
    def test_workers_of_a_library_without_openmp_are_left_alone(self, library):
        before = _engine.threads.workers()
        share_openmp_workers(library)
        assert _engine.threads.workers() == before

    @on_linux
    @needs_openmp
    def test_workers_of_a_library_with_an_openmp_of_its_own(self, tmp_path):
        """They are its own that run the steps, also if another library has loaded another."""
        code = f"""
{LOAD_OPENMP}
import shutil
path = next(line.split()[-1] for line in open("/proc/self/maps") if "omp" in line)
copy = shutil.copy(path, {str(tmp_path / "libgomp-copy.so")!r})
other = ctypes.CDLL(copy)
{STEP}
fo.set_num_threads(2)
print(_engine.threads.workers(), *_engine.threads.openmp_runtimes())
fo.threads.share_openmp_workers(copy)
opt.step(g)
assert (p == -0.5).all()
print(_engine.threads.workers())
parallel = _engine.threads.set_openmp(False, False)[2]
assert parallel == ctypes.cast(other.GOMP_parallel, ctypes.c_void_p).value
"""
        first, second = output(code).splitlines()
        assert first.startswith("fastoptim's own ")
        assert first.endswith(" libgomp-copy.so")
        assert second == "OpenMP's"

    @on_linux
    @needs_openmp
    def test_the_openmp_runtime_waits_as_it_does_without_fastoptim(self):
        shown = "openmp.omp_display_env(1)"  # on standard error
        expected = python(LOAD_OPENMP + shown).stderr
        assert "GOMP_SPINCOUNT" in expected or "KMP_BLOCKTIME" in expected  # GCC's or LLVM's
        assert python("import fastoptim; " + LOAD_OPENMP + shown).stderr == expected
        assert python(LOAD_OPENMP + "import fastoptim; " + shown).stderr == expected

    @on_linux
    @needs_openmp
    @needs_fork
    def test_a_child_of_fork_can_use_openmp_after_steps(self):
        """It would hang, had a step used OpenMP's workers, for that child has none of them."""
        code = (
            FORK
            + STEP
            + LOAD_OPENMP
            + """
opt.step(g)
function = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(lambda _: None)
assert fork(lambda: openmp.GOMP_parallel(function, None, 2, 0)) == 0
"""
        )
        done = python(code, timeout=60, FASTOPTIM_NUM_THREADS="2")
        assert done.returncode == 0, done.stderr

    @pytest.mark.parametrize("n", [0, -1, 1.5, "2", True, 2**31])
    def test_numbers_refused(self, n):
        before = fo.get_num_threads()
        message = r"n: expected a whole number >= 1 and < 2\*\*31, found"
        with pytest.raises((TypeError, ValueError), match=message):
            fo.set_num_threads(n)
        with pytest.raises((TypeError, ValueError), match=message), fo.num_threads(n):
            pass
        assert fo.get_num_threads() == before

    @on_linux
    @needs_openmp
    def test_inside_another_parallel_region(self):
        """Each thread of the region takes its steps alone, and does not start one of its own."""
        code = (
            STEP
            + LOAD_OPENMP
            + """
found = []
def work(_):
    p = np.zeros(200_000, np.float32)
    fo.SGD(p, lr=1.0).step(g)
    found.append((_engine.threads.explain_limit(), bool((p == -1).all())))
function = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(work)
before = tasks()
openmp.GOMP_parallel(function, None, 2, 0)
assert tasks() == before + 1, tasks()
assert found == [((1, "inside a parallel region"), True)] * 2, found
"""
        )
        output(code, OMP_MAX_ACTIVE_LEVELS="3", FASTOPTIM_NUM_THREADS="2")

    @on_linux
    def test_small_steps_use_one_thread(self):
        code = """
import os, numpy as np, fastoptim as fo
tasks = lambda: len(os.listdir('/proc/self/task'))
p = np.zeros(10_000); opt = fo.Adam(p)
before = tasks(); opt.step(np.ones(10_000)); small = tasks()
p = np.zeros(4_000_000); opt = fo.Adam(p); opt.step(np.ones(4_000_000)); large = tasks()
print(small - before, large - before)
"""
        assert output(code, FASTOPTIM_NUM_THREADS="3").split() == ["0", "2"]


@on_linux
class TestWorkers:
    """Those of fastoptim's own."""

    START = STEP + "fo.set_num_threads(2); opt.step(g)\n"

    def test_signals_are_left_to_the_program(self):
        """One that the program blocks and waits for must not find a thread that it ends."""
        code = """
import signal
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
os.kill(os.getpid(), signal.SIGTERM)
print(signal.sigwait({signal.SIGTERM}) == signal.SIGTERM)
"""
        assert output(self.START + code, OPENBLAS_NUM_THREADS="1") == "True"

    @pytest.mark.skipif(cpus() == 1, reason="has one CPU")
    def test_they_run_where_the_caller_may_run(self):
        code = """
before = {int(task) for task in os.listdir('/proc/self/task')}
mine = os.sched_getaffinity(0)
first, *_ = mine
def masks():
    opt.step(g)
    (worker,) = {int(task) for task in os.listdir('/proc/self/task')} - before
    return os.sched_getaffinity(worker)
os.sched_setaffinity(0, {first})
fo.set_num_threads(2)
assert masks() == {first}
os.sched_setaffinity(0, mine)
assert masks() == mine
"""
        output(STEP + code, OPENBLAS_NUM_THREADS="1")

    @pytest.mark.skipif(cpus() == 1, reason="has one CPU")
    def test_they_may_have_been_started_where_the_caller_ran_before(self):
        """Not by a step, which has them follow at once; also in a child, where all are new."""
        code = """
mine = os.sched_getaffinity(0)
first, *_ = mine
def check(n):
    before = set(os.listdir('/proc/self/task'))
    os.sched_setaffinity(0, {first})
    assert _engine.threads.grow(n)
    (worker,) = set(os.listdir('/proc/self/task')) - before
    assert os.sched_getaffinity(int(worker)) == {first}
    os.sched_setaffinity(0, mine)
    with fo.num_threads(n):
        opt.step(g)
    assert os.sched_getaffinity(int(worker)) == mine
check(3)
assert fork(lambda: check(2)) == 0
"""
        output(FORK + self.START + code, OPENBLAS_NUM_THREADS="1")

    def test_a_sleeping_one_is_woken_and_helps(self):
        """Of a step nobody would see it: what no worker takes, the caller does."""
        code = """
import ctypes, time
_engine.threads.set_awake_ns(0)
job_type = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_void_p)
region_type = ctypes.CFUNCTYPE(ctypes.c_int, job_type, ctypes.c_int, ctypes.c_void_p)
region = region_type(_engine.threads.try_region)
before = set(os.listdir('/proc/self/task'))
helped = []
for _ in range(3):
    begun = threading.Event()
    job = job_type(lambda i, _: begun.set() if i else helped.append(begun.wait(20)))
    assert region(job, 2, None) == 1
    (worker,) = set(os.listdir('/proc/self/task')) - before
    end = time.monotonic() + 20
    while open(f'/proc/self/task/{worker}/stat').read().rpartition(')')[2].split()[0] != 'S':
        assert time.monotonic() < end
        time.sleep(0.001)
print(helped)
"""
        assert output(STEP + code, OPENBLAS_NUM_THREADS="1") == "[True, True, True]"

    @pytest.mark.skipif(cpus() == 1, reason="has one CPU")
    def test_they_are_the_first_to_touch_state_that_is_not_zero(self):
        """A page of memory is near to the thread that does, on machines with several memories."""
        code = """
before = set(os.listdir('/proc/self/task'))
p = np.zeros(8_000_000)  # its state is large
for _ in range(20):
    fo.Adagrad(p, initial_accumulator_value=0.1).state
    (worker,) = set(os.listdir('/proc/self/task')) - before
    stat = open(f'/proc/self/task/{worker}/stat').read().rpartition(')')[2].split()
    faults = int(stat[7])
    if faults > 10:
        break
print(faults > 10)
"""
        assert output(STEP + code, OPENBLAS_NUM_THREADS="1", FASTOPTIM_NUM_THREADS="2") == "True"

    def test_more_than_there_can_be(self):
        code = """
fo.set_num_threads(1100)
before = tasks()
opt.step(g)
assert (p == -0.5).all()
print(tasks() - before)
"""
        assert output(STEP + code) == "1024"

    @pytest.mark.skipif(platform.machine() != "x86_64", reason="knows the number on x86-64")
    @pytest.mark.parametrize("openmp", [False, True])
    def test_they_round_as_the_caller_does(self, openmp):
        code = f"""
import ctypes, ctypes.util
_engine.threads.set_openmp({openmp}, False)
upward = 0x800
assert ctypes.CDLL(ctypes.util.find_library("m")).fesetround(upward) == 0
found = []
for threads in (1, 2):
    q = np.linspace(-1, 1, 200_000)
    with fo.num_threads(threads):
        other = fo.SGD(q, lr=0.1)
        for _ in range(20):
            other.step(q / 3)
    found.append(q.tobytes())
print(found[0] == found[1])
"""
        assert output(self.START + code) == "True"


class TestNumThreads:
    def test_is_undone(self):
        before = fo.get_num_threads()
        with fo.num_threads(5):
            with pytest.raises(ZeroDivisionError), fo.num_threads(1):
                1 / (fo.get_num_threads() - 1)
            assert fo.get_num_threads() == 5
        assert fo.get_num_threads() == before

    def test_wins_over_set_num_threads(self):
        with fo.num_threads(5):
            fo.set_num_threads(2)
            assert fo.get_num_threads() == 5
        assert fo.get_num_threads() == 2
        fo.set_num_threads(None)

    def test_threads_do_not_undo_each_other(self):
        both = threading.Barrier(2)

        def work(n):
            with fo.num_threads(n):
                both.wait(60)  # both are inside
                seen = fo.get_num_threads()
                both.wait(60)
            both.wait(60)
            return seen, fo.get_num_threads()

        before = fo.get_num_threads()
        with ThreadPoolExecutor(2) as pool:
            assert list(pool.map(work, [3, 5])) == [(3, before), (5, before)]

    def test_tasks_do_not_undo_each_other(self):
        async def work(n):
            with fo.num_threads(n):
                await asyncio.sleep(0)
                return fo.get_num_threads()

        async def both():
            return await asyncio.gather(work(3), work(5))

        assert asyncio.run(both()) == [3, 5]

    def test_a_task_started_inside_keeps_it(self):
        async def work(go):
            await go.wait()
            return fo.get_num_threads()

        async def both():
            go = asyncio.Event()
            with fo.num_threads(5):
                task = asyncio.create_task(work(go))
                await asyncio.sleep(0)
            go.set()
            return await task

        assert asyncio.run(both()) == 5

    @staticmethod
    def steps(n):
        with fo.num_threads(n):
            while True:
                yield fo.get_num_threads()

    def test_generators_that_are_closed_in_another_order(self):
        before = fo.get_num_threads()
        first, second = self.steps(5), self.steps(3)
        assert (next(first), next(second), next(first)) == (5, 3, 3)
        first.close()
        assert next(second) == fo.get_num_threads() == 3
        second.close()
        assert fo.get_num_threads() == before

    def test_generators_that_are_closed_in_another_context(self):
        before = fo.get_num_threads()
        generator, context = self.steps(5), copy_context()
        assert context.run(next, generator) == 5
        generator.close()
        assert context.run(fo.get_num_threads) == fo.get_num_threads() == before

        generator = self.steps(5)
        next(generator)
        with fo.num_threads(3):
            inherited = copy_context()
            copy_context().run(generator.close)
            assert fo.get_num_threads() == inherited.run(fo.get_num_threads) == 3
        assert fo.get_num_threads() == before

    def test_a_generator_that_is_closed_by_another_thread(self):
        before, generator = fo.get_num_threads(), self.steps(5)
        assert next(generator) == 5
        with ThreadPoolExecutor(1) as pool:
            pool.submit(generator.close).result()
        assert fo.get_num_threads() == before
        with fo.num_threads(3):
            assert len(_engine.threads.limit_here.get()) == 1  # a loop of these piles up nothing

    def test_asynchronous_generators_that_are_left_open(self):
        """Asyncio closes them at its end, in another task."""

        async def steps():
            with fo.num_threads(5):
                while True:
                    yield fo.get_num_threads()

        async def work():
            problems = []
            asyncio.get_running_loop().set_exception_handler(
                lambda _, found: problems.append(found)
            )
            generator = steps()
            assert await anext(generator) == 5
            return generator, problems

        _, problems = asyncio.run(work())
        assert problems == []


class TestCgroup:
    @pytest.fixture
    def root(self, tmp_path):
        """Write the files of a made-up machine."""

        def write(files):
            for name, text in files.items():
                path = tmp_path / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text)
            return tmp_path

        return write

    V2 = "proc/self/cgroup", "0::/system.slice/train.service\n"
    V1 = "proc/self/cgroup", "9:name=systemd:/\n4:cpu,cpuacct:/docker/4f\n3:cpuset:/\n0::/\n"

    @pytest.mark.parametrize(
        ("quota", "expected"),
        [("max 100000", 0), ("100000 100000", 1), ("150000 100000", 2), ("50000 100000", 1)],
    )
    def test_version_2(self, root, quota, expected):
        own = "sys/fs/cgroup/system.slice/train.service/cpu.max"
        assert _cgroup_quota(root(dict([self.V2, (own, quota + "\n")]))) == expected

    def test_version_2_in_a_container(self, root):
        files = {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "300000 100000\n"}
        assert _cgroup_quota(root(files)) == 3

    def test_a_quota_of_a_group_around(self, root):
        files = {
            "sys/fs/cgroup/system.slice/train.service/cpu.max": "800000 100000\n",
            "sys/fs/cgroup/system.slice/cpu.max": "200000 100000\n",
        }
        assert _cgroup_quota(root(dict([self.V2]) | files)) == 2

    @pytest.mark.parametrize(
        ("quota", "expected"), [("-1", 0), ("100000", 1), ("250000", 3), ("nonsense", 0)]
    )
    @pytest.mark.parametrize("folder", ["docker/4f/", ""])  # on the host, and in the container
    def test_version_1(self, root, folder, quota, expected):
        files = {
            f"sys/fs/cgroup/cpu/{folder}cpu.cfs_quota_us": f"{quota}\n",
            f"sys/fs/cgroup/cpu/{folder}cpu.cfs_period_us": "100000\n",
        }
        assert _cgroup_quota(root(dict([self.V1]) | files)) == expected

    def test_none(self, root):
        assert _cgroup_quota(root({})) == 0
        assert _cgroup_quota(root(dict([self.V2]))) == 0
        assert _cgroup_quota(root({"proc/self/cgroup": "what is this\n"})) == 0

    def test_of_this_process(self):
        assert _cgroup_quota() >= 0


# A second step after a parallel one, and what it must give.
SECOND = (
    FORK
    + STEP
    + """
import copy
fo.set_num_threads(2)
opt.step(g)
twin = copy.deepcopy(opt)
twin.step(g)
expected = [*twin.param_groups[0]["params"], *twin.state[0].values()]
def second():
    opt.step(g)
    for ours, theirs in zip([p, *opt.state[0].values()], expected, strict=True):
        assert ours.tobytes() == theirs.tobytes()
"""
)


@needs_fork
def test_fork_after_a_parallel_step():
    """Child, grandchild, and a fork from a second thread; the parent stays parallel."""
    code = (
        SECOND
        + """
def alone():
    found = _engine.threads.explain_limit()
    assert found == (1, "child of fork()"), found
    second()
def grandchild():
    assert fork(alone) == 0
    second()
for child in (alone, grandchild):
    assert fork(child) == 0
    with fo.num_threads(2):
        assert fork(child) == 0
codes = []
thread = threading.Thread(target=lambda: codes.append(fork(grandchild)))
thread.start(); thread.join()
assert codes == [0], codes
assert fo.get_num_threads() == 2
second()
"""
    )
    done = python(code, timeout=60)
    assert done.returncode == 0, done.stderr


@on_linux
def test_a_child_that_asks_for_threads():
    code = (
        SECOND
        + """
def inside():
    with fo.num_threads(3):
        second()
        assert fo.get_num_threads() == tasks() == 3, tasks()
        assert fork(lambda: fo.get_num_threads() == 1 or 1 / 0) == 0
    assert fo.get_num_threads() == 1
def for_good():
    fo.set_num_threads(2)
    second()
    assert fo.get_num_threads() == tasks() == 2, tasks()
    thread = threading.Thread(target=opt.step, args=(g,))
    thread.start(); thread.join()
def grandchild():
    for_good()
    grand = copy.deepcopy(opt)
    def work():
        grand.step(g)
        assert tasks() == 1
        fo.set_num_threads(2)
        grand.step(g)
        assert tasks() == 2
    assert fork(work) == 0
for child in (inside, for_good, grandchild):
    assert fork(child) == 0
second()
"""
    )
    done = python(code, timeout=60)
    assert done.returncode == 0, done.stderr


CALLS = {
    "step": lambda opt, saved: opt.step(np.ones(3)),
    "state_dict": lambda opt, saved: opt.state_dict(),
    "load_state_dict": lambda opt, saved: opt.load_state_dict(saved),
    "save": lambda opt, saved: opt.save("nowhere/run.safetensors"),
    "load": lambda opt, saved: opt.load("nowhere/run.safetensors"),
    "add_param_group": lambda opt, saved: opt.add_param_group({"params": np.ones(2)}),
    "use_ema": lambda opt, saved: opt.use_ema().__enter__(),
    "pickle": lambda opt, saved: pickle.dumps(opt),
    "deepcopy": lambda opt, saved: copy.deepcopy(opt),
}


FORK_IN_A_STEP = """
import os, threading
import numpy as np, fastoptim as fo

inside, forked = threading.Event(), threading.Event()

def lr(t):
    if threading.current_thread() is stepper and not inside.is_set():
        inside.set()
        assert forked.wait(60)
    return 1.0

stepper = None
p = np.zeros(3)
opt = fo.SGD(p, lr=lr)
stepper = threading.Thread(target=opt.step, args=(np.ones(3),))
stepper.start()
assert inside.wait(60)
pid = os.fork()
if pid == 0:
    opt.step(np.ones(3))
    opt.state_dict()
    print("child stepped" if p.tolist() == [-1.0] * 3 else p, flush=True)
    os._exit(0)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
try:
    opt.step(np.ones(3))
except RuntimeError as error:
    assert "WHO" in str(error), error
else:
    raise AssertionError("the parent's optimizer is in a step")
forked.set()
stepper.join()
assert p.tolist() == [-1.0] * 3
"""


class TestOneOptimizerInTwoThreads:
    """One of them steps, the other is refused; what is computed is a whole number of steps."""

    @pytest.mark.parametrize("backend", ["compiled", "reference"])
    @pytest.mark.parametrize("name", CALLS)
    def test_calls_in_the_middle_of_a_step(self, name, backend):
        def lr(t):  # the engine asks for it in the middle of a step
            if saved:
                with ThreadPoolExecutor(1) as pool:
                    call = CALLS[name]
                    messages.append(pool.submit(refused, lambda: call(optimizer, saved)).result())
            return 1.0

        saved, messages = {}, []
        p = np.zeros(3)
        optimizer = fo.SGD(p, lr=lr, ema_decay=0.5, backend=backend)
        saved = optimizer.state_dict()
        optimizer.step(np.ones(3))
        assert messages == ["this optimizer is in use already, in another thread"]
        assert np.array_equal(p, -np.ones(3))
        saved = {}
        optimizer.step(np.ones(3))  # and it can go on
        assert np.array_equal(p, -2 * np.ones(3))

    def test_a_thread_that_waited_while_the_arrays_were_laid_out_anew(self):
        optimizer = fo.SGD(np.zeros(3), lr=1.0)
        old = optimizer._plan
        optimizer.momentum = 0.5
        optimizer.step(np.ones(3))
        before = snapshot(optimizer)
        assert "call it again" in refused(lambda: old.step([np.ones(3)], optimizer._groups))
        assert snapshot(optimizer) == before

    @pytest.mark.parametrize("backend", ["compiled", "reference"])
    def test_a_signal_handler_in_the_middle_of_a_step(self, backend):
        """It runs in the thread that steps, in which a lock would wait for itself."""
        messages = []

        def handler(signum, frame):
            messages.append(refused(lambda: optimizer.step(np.ones(3))))

        def lr(t):
            if t == 1:
                signal.raise_signal(signal.SIGINT)
            return [0.0, 1.0][t]  # some bytecode, before which the handler runs

        p = np.zeros(3)
        optimizer = fo.SGD(p, lr=lr, backend=backend)
        optimizer.step(np.ones(3))
        before = signal.signal(signal.SIGINT, handler)
        try:
            optimizer.step(np.ones(3))
        finally:
            signal.signal(signal.SIGINT, before)
        assert len(messages) == 1
        assert "in use already, in this thread" in messages[0]
        assert p.tolist() == [-1.0] * 3

    @needs_fork
    def test_a_child_that_was_forked_in_the_middle_of_another_threads_step(self):
        """There nobody steps the optimizer: the thread that did is not in the child."""
        code = FORK_IN_A_STEP.replace("WHO", "in another thread")
        assert output(code) == "child stepped"

    def test_a_refused_call_keeps_nobody_out(self):
        optimizer = fo.SGD(np.zeros(3), lr=1.0)
        with pytest.raises(ValueError, match="shape"):
            optimizer.step(np.ones(4))
        with pytest.raises(ValueError, match="state_dict"):
            optimizer.load_state_dict({})
        with pytest.raises(TypeError, match="params"):
            optimizer.add_param_group({"params": 1})
        optimizer.step(np.ones(3))

    @pytest.mark.parametrize("n", [10, 500_000])
    def test_many_threads_at_once(self, n):
        threads, steps = 4, 50
        p = np.zeros(n)
        optimizer = fo.SGD(p, lr=1.0)
        g, done, errors = np.ones(n), [], []
        together = threading.Barrier(threads)

        def work(number):
            for k in range(steps):
                together.wait(60)
                if number == 0:  # the next step lays the arrays out anew
                    optimizer.ema_decay = None if k % 2 else 0.5
                together.wait(60)
                try:
                    optimizer.step(g)
                    done.append(1)
                except RuntimeError as error:
                    errors.append(str(error))

        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(work, range(threads)))
        assert len(done) + len(errors) == threads * steps
        assert np.all(p == -len(done))
        assert optimizer._plan.steps == [len(done)]
        assert set(errors) <= {
            "this optimizer is in use already, in another thread",
            "this optimizer was given other groups, state or options as the call began: "
            "call it again",
        }


@pytest.mark.parametrize("threads", [1, 2])
def test_many_optimizers_in_many_threads(threads):
    """Each has the bits of the same steps taken one after another."""
    rng = np.random.default_rng(31)
    classes = OPTIMIZERS * 2
    starts = [rng.standard_normal(n).astype(d) for n, d in [(40_001, "f4"), (301, "f8")]]
    grads = [gradients(rng, starts) for _ in range(6)]
    options = {"max_grad_norm": 1.0, "ema_decay": 0.9}

    def train(cls):
        optimizer = cls([p.copy() for p in starts], **options)
        for g in grads:
            optimizer.step(g)
        return optimizer

    with engine(threads=threads):
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(train, classes))
        for cls, optimizer in zip(classes, found, strict=True):
            assert_same(optimizer, train(cls))
