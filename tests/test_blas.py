"""Sharing threads with OpenBLAS: same bits, no hang, undone cleanly.

Everything that could hang runs in a process of its own, with a time limit.
"""

from __future__ import annotations

import ctypes
import itertools
import os
import sys
import threading

import numpy as np
import pytest
from fresh import FORK, needs_fork, output, python
from interrupts import interrupted

import fastoptim as fo
from fastoptim import _engine, blas
from fastoptim.bench.loop import can_share

needs_openblas = pytest.mark.skipif(not can_share(), reason="NumPy's BLAS cannot share its threads")

START = """
import ctypes, os, sys, threading
import numpy as np
import fastoptim as fo
from fastoptim import _engine, blas
blas._function("set_num_threads")(2)
fo.set_num_threads(2)
_engine.threads.set_grain(1)
rng = np.random.default_rng(0)

class Work:
    "Products of several kinds, and one that the factorization of a matrix calls."
    def __init__(self, dtype, n):
        self.a = rng.standard_normal((n, n + 40)).astype(dtype)
        self.square = self.a[:, :n] @ self.a[:, :n].T + n * np.eye(n, dtype=dtype)
    def __call__(self):
        a, s = self.a, self.square
        long = np.concatenate([a.ravel()] * 4)
        return [a @ a.T, a.T @ a, a @ a[0], a.T @ a[:, 0], s @ a, long @ long,
                np.linalg.inv(s), np.linalg.solve(s, a), np.linalg.cholesky(s)]

works = [Work(t, n) for t in (np.float32, np.float64) for n in (40, 130, 250)]

def same(found, expected):
    return all(np.array_equal(x, y) for x, y in zip(found, expected))

class Training:
    def __init__(self):
        self.p = [np.zeros((300, 300), np.float32), np.zeros(50)]
        self.g = [np.full_like(x, 0.5) for x in self.p]
        self.opt = fo.Adam(self.p)
    def step(self):
        self.opt.step(self.g)

def trained(steps):
    training = Training()
    for _ in range(steps):
        training.step()
    return training.p

expected = [work() for work in works]
"""


def run(code: str, **environment: str) -> None:
    output(FORK + START + code, **environment)


@needs_openblas
def test_products_and_steps_keep_their_bits():
    run("""
steps = trained(10)
with fo.share_blas_threads():
    for work, e in zip(works, expected):
        for _ in range(5):
            assert same(work(), e)
    assert same(trained(10), steps)
assert all(same(work(), e) for work, e in zip(works, expected))
for number in (1, 3):
    blas._function("set_num_threads")(number)
    e = works[0]()
    with fo.share_blas_threads():
        assert same(works[0](), e)
""")


@needs_openblas
def test_the_callback_runs_the_products_until_it_is_undone():
    code = """
tasks = lambda: len(os.listdir('/proc/self/task')) if os.path.exists('/proc/self/task') else 0
pointer = ctypes.c_void_p.in_dll(blas._library(), "openblas_threads_callback_")
assert pointer.value is None
before = tasks()
with fo.share_blas_threads():
    assert pointer.value == _engine.threads.blas_callback
    with fo.share_blas_threads(False):
        assert pointer.value is None
    assert pointer.value == _engine.threads.blas_callback
    works[0]()
assert pointer.value is None
assert tasks() == (before + 1 if before else 0)
try:
    with fo.share_blas_threads():
        1 / 0
except ZeroDivisionError:
    pass
assert pointer.value is None
fo.share_blas_threads()
assert pointer.value == _engine.threads.blas_callback
fo.share_blas_threads(False)
assert pointer.value is None
"""
    if not hasattr(blas._library(), "openblas_threads_callback_"):
        pytest.skip("this OpenBLAS hides its state")
    run(code)


def awake_ns() -> int:
    """Return how long an idle worker stays awake."""
    old = _engine.threads.set_awake_ns(0)
    _engine.threads.set_awake_ns(old)
    return old


@needs_openblas
def test_shared_threads_stay_awake_for_longer():
    """The next product or step comes soon; other programs' threads leave their core at once."""
    assert awake_ns() == _engine.threads.awake_ns < blas.AWAKE_NS
    with fo.share_blas_threads():
        assert awake_ns() == blas.AWAKE_NS
        with fo.share_blas_threads(False):
            assert awake_ns() == _engine.threads.awake_ns
        assert awake_ns() == blas.AWAKE_NS
    assert awake_ns() == _engine.threads.awake_ns


@needs_openblas
def test_one_thread_at_a_time_switches(monkeypatch):
    seen = []

    def watched(function):
        def call(*args):
            seen.append(blas._switching.locked())
            return function(*args)

        return call

    threads = _engine.threads
    for module, name in ((blas, "_prepared"), (threads, "set_awake_ns"), (threads, "share")):
        monkeypatch.setattr(module, name, watched(getattr(module, name)))
    with fo.share_blas_threads():
        another = fo.share_blas_threads()
    assert seen == [True] * 5  # three calls to share, two to share no longer
    with another:  # which found them shared when it was made
        assert _engine.threads.is_shared()
    assert not _engine.threads.is_shared()
    assert seen == [True] * 10


@needs_openblas
def test_blocks_that_overlap():
    """As those of two threads do, or of two generators; the last to end brings back what was."""

    def block(share):
        with fo.share_blas_threads(share):
            yield

    for shares in itertools.product([True, False], repeat=3):
        for order in itertools.permutations(range(3)):
            blocks = [block(share) for share in shares]
            for each, share in zip(blocks, shares, strict=True):
                next(each)
                assert _engine.threads.is_shared() == share
            open_blocks = set(range(3))
            for number in order:
                blocks[number].close()
                open_blocks.remove(number)
                expected = shares[max(open_blocks)] if open_blocks else False
                assert _engine.threads.is_shared() == expected


@needs_openblas
@pytest.mark.parametrize("awake_ns", [0, 200_000])
def test_threads_that_call_blas_and_step_at_once(awake_ns):
    """They share the work buffers of OpenBLAS, of which one is also used by a factorization."""
    run(
        """
steps, failures = trained(30), []
def computing(k):
    for i in range(8):
        if not same(works[(k + i) % len(works)](), expected[(k + i) % len(works)]):
            failures.append((k, i))
def stepping():
    for _ in range(4):
        if not same(trained(30), steps):
            failures.append("step")
threads = [threading.Thread(target=computing, args=(k,)) for k in range(4)]
threads += [threading.Thread(target=stepping) for _ in range(2)]
with fo.share_blas_threads():
    _engine.threads.set_awake_ns(NS)
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
assert not failures, failures
""".replace("NS", str(awake_ns))
    )


@needs_openblas
def test_switching_while_other_threads_compute():
    run("""
stop, failures = threading.Event(), []
def computing(k):
    while not stop.is_set():
        if not same(works[k](), expected[k]):
            failures.append(k)
threads = [threading.Thread(target=computing, args=(k,)) for k in range(4)]
for thread in threads:
    thread.start()
for k in range(400):
    fo.share_blas_threads(k % 2 == 0)
    trained(1)
fo.share_blas_threads(False)
stop.set()
for thread in threads:
    thread.join()
assert not failures, failures
""")


@needs_openblas
@needs_fork
def test_fork():
    """Child and grandchild go on sharing, or stop; the parent stays as it was."""
    run("""
steps = trained(10)
def child():
    assert same(works[2](), expected[2])
    assert same(trained(10), steps)
    fo.share_blas_threads(False)
    assert same(works[2](), expected[2])
    fo.share_blas_threads()
    assert same(works[2](), expected[2])
def grandchild():
    child(); assert fork(child) == 0
fo.share_blas_threads()
assert fork(child) == 0
for _ in range(3):
    child()
    assert fork(grandchild) == 0
codes = []
thread = threading.Thread(target=lambda: codes.append(fork(child)))
thread.start(); thread.join()
assert codes == [0], codes
child()
fo.share_blas_threads(False)
assert fork(child) == 0
""")


@needs_openblas
@needs_fork
def test_fork_while_another_thread_steps():
    run("""
steps, stop, failures = trained(10), threading.Event(), []
fo.share_blas_threads()
def stepping():
    while not stop.is_set():
        if not same(trained(10), steps):
            failures.append("step")
thread = threading.Thread(target=stepping)
thread.start()
def child():
    assert same(works[2](), expected[2])
    assert same(trained(10), steps)
for _ in range(20):
    assert fork(child) == 0
stop.set()
thread.join()
assert not failures
""")


NESTED = """
#include <stddef.h>
typedef void (*gemm)(int, int, int, long, long, long, float, const float *, long,
                     const float *, long, float, float *, long);
void products(gemm product, long n, const float *a, float *c)
{
    #pragma omp parallel for num_threads(4) schedule(static, 1)
    for (int k = 0; k < 8; k++)
        product(101, 111, 111, n, n, n, 1, a, n, a, n, 0, c + k * n * n, n);
}
"""


@needs_openblas
def test_products_inside_a_foreign_parallel_region(tmp_path):
    """A region inside it would have one thread, and the jobs of a product wait for each other."""
    source, library = tmp_path / "nested.c", tmp_path / "nested.so"
    source.write_text(NESTED)
    built = os.system(f"cc -O2 -shared -fPIC -fopenmp {source} -o {library}")
    if built != 0 or not hasattr(blas._library(), "scipy_cblas_sgemm64_"):
        pytest.skip("needs a C compiler with OpenMP, and NumPy's own OpenBLAS")
    run(
        f"nested = ctypes.CDLL({str(library)!r})"
        + """
n = 400
a = rng.standard_normal((n, n)).astype(np.float32)
c = np.zeros((8, n, n), np.float32)
address = lambda x: ctypes.c_void_p(x.ctypes.data)
gemm = ctypes.cast(blas._library().scipy_cblas_sgemm64_, ctypes.c_void_p)
with fo.share_blas_threads():
    for _ in range(10):
        c[:] = 0
        nested.products(gemm, ctypes.c_long(n), address(a), address(c))
        assert (c == a @ a).all()
"""
    )


@needs_openblas
def test_threadpoolctl_is_obeyed():
    threadpoolctl = pytest.importorskip("threadpoolctl")
    a = np.random.default_rng(0).standard_normal((300, 300))
    with threadpoolctl.threadpool_limits(1, user_api="blas"):
        expected = a @ a
        with fo.share_blas_threads():
            assert np.array_equal(a @ a, expected)
    with fo.share_blas_threads(), threadpoolctl.threadpool_limits(1, user_api="blas"):
        assert np.array_equal(a @ a, expected)


@needs_openblas
def test_a_step_whose_threads_are_busy_runs_alone():
    """A product of another thread holds them; the step does not wait for it."""
    held, free = threading.Event(), threading.Event()

    @ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_void_p, ctypes.c_int)
    def job(slot, data, buffer):
        held.set()
        free.wait(60)

    callback = ctypes.CFUNCTYPE(
        None, ctypes.c_int, type(job), ctypes.c_int, ctypes.c_size_t, ctypes.c_void_p, ctypes.c_int
    )(_engine.threads.blas_callback)
    holder = threading.Thread(target=callback, args=(1, job, 1, 0, None, 0))
    grain = _engine.threads.set_grain(1)
    try:
        with fo.share_blas_threads():
            fo.set_num_threads(2)
            holder.start()
            assert held.wait(60)
            p = np.zeros(100_000)
            fo.SGD(p, lr=1.0).step(np.ones(100_000))
            assert (p == -1).all()
    finally:
        free.set()
        holder.join(60)
        _engine.threads.set_grain(grain)
        fo.set_num_threads(None)
    assert not holder.is_alive()


class TestRefusals:
    """Each leaves everything as it was."""

    @pytest.fixture(autouse=True)
    def nothing_shared(self):
        yield
        assert repr(fo.share_blas_threads(False)) == "<BLAS threads not shared>"

    def refused(self, match):
        with pytest.raises(RuntimeError, match=match):
            fo.share_blas_threads()

    def test_another_blas(self, monkeypatch):
        monkeypatch.setattr(blas, "_library", lambda: ctypes.CDLL(_engine.threads.__file__))
        self.refused("expected NumPy with OpenBLAS 0.3.29 or newer .*, found ")
        shared = fo.share_blas_threads(False)  # needs no OpenBLAS
        assert repr(shared) == "<BLAS threads not shared>"

    @pytest.mark.parametrize(
        ("config", "match"),
        [
            ("OpenBLAS 0.3.28 DYNAMIC_ARCH MAX_THREADS=64", "found 'OpenBLAS 0.3.28"),
            ("OpenBLAS 0.3.31 Haswell SINGLE_THREADED", "found 'OpenBLAS 0.3.31"),
            ("OpenBLAS 0.3.31 Haswell MAX_THREADS=1", "at most 0 BLAS threads or CPUs.*found"),
        ],
    )
    @needs_openblas
    def test_an_openblas_that_cannot(self, monkeypatch, config, match):
        function = blas._function
        monkeypatch.setattr(
            blas,
            "_function",
            lambda name: Config(config) if name == "get_config" else function(name),
        )
        self.refused(match)

    @needs_openblas
    @pytest.mark.parametrize(
        ("threads", "procs", "fits"), [(3, 32, True), (32, 3, True), (3, 33, False), (33, 3, False)]
    )
    def test_slots_for_threads_and_cpus(self, monkeypatch, threads, procs, fits):
        """OpenBLAS may be told later to use as many threads as there are CPUs."""
        function, grown = blas._function, []
        says = {
            "get_config": Config("OpenBLAS 0.3.31 Haswell MAX_THREADS=64"),
            "get_num_threads": lambda: threads,
            "get_num_procs": lambda: procs,
        }
        monkeypatch.setattr(blas, "_function", lambda name: says.get(name) or function(name))
        monkeypatch.setattr(_engine.threads, "grow", lambda n: not grown.append(n))
        monkeypatch.setattr(_engine.threads, "set_blas_slots", grown.append)
        if fits:
            blas._prepared()
            assert grown == [threads, 64]
        else:
            self.refused("expected at most 32 BLAS threads or CPUs, .*, found 33")
            assert grown == []

    @needs_openblas
    def test_an_openblas_with_openmp(self, monkeypatch):
        function = blas._function
        monkeypatch.setattr(
            blas,
            "_function",
            lambda name: (lambda: 2) if name == "get_parallel" else function(name),
        )
        self.refused("found one without threads of its own")

    @needs_openblas
    def test_another_platform(self, monkeypatch):
        monkeypatch.setattr(sys, "platform", "win32")
        self.refused("not supported on Windows")

    @needs_openblas
    def test_no_more_threads(self, monkeypatch):
        monkeypatch.setattr(_engine.threads, "grow", lambda threads: False)
        self.refused("the system refuses further threads")

    @pytest.mark.parametrize("value", [1, None, "yes"])
    def test_other_than_true_or_false(self, value):
        with pytest.raises(TypeError, match="share: expected True or False, found"):
            fo.share_blas_threads(value)


class Config:
    """An openblas_get_config that says something else."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __call__(self) -> bytes:
        return self.text.encode()


@needs_openblas
def test_threads_that_are_bound_to_a_cpu_each_are_not_shared():
    code = "import fastoptim as fo; fo.share_blas_threads()"
    done = python(code, OMP_PROC_BIND="true")
    assert "expected threads that may run on any CPU, found OMP_PROC_BIND" in done.stderr


@needs_openblas
def test_an_interrupt_leaves_it_switched_or_not():
    if not hasattr(blas._library(), "openblas_threads_callback_"):
        pytest.skip("this OpenBLAS hides its state")
    callback = ctypes.c_void_p.in_dll(blas._library(), "openblas_threads_callback_")
    for n in itertools.count(1):
        try:
            if not interrupted(fo.share_blas_threads, n):
                break
            assert _engine.threads.is_shared() == (callback.value is not None)
        finally:
            fo.share_blas_threads(False)
        assert callback.value is None
        assert not _engine.threads.is_shared()
    assert n > 3


def test_import_changes_nothing():
    assert output("import fastoptim as fo; print(fo.share_blas_threads(False))") == (
        "<BLAS threads not shared>"
    )
    asking = "from fastoptim._engine import threads; threads.is_shared() and 1 / 0"
    assert python(asking).returncode == 0
