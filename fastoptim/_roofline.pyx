# cython: cdivision=False, infer_types=True
"""The memory limit: a loop with the streams of an optimizer step and hardly any arithmetic.

It shares nothing with the engine but its threads, so that it can judge it.
"""

from libc.stdint cimport uint64_t

cimport numpy as cnp

from fastoptim._engine.threads cimport job_t, run_region
from fastoptim._loop cimport f32, f64

import numpy as np

cnp.import_array()

ctypedef fused real:
    f32
    f64

cdef struct Streams:
    (char*)[5] a  # p, g and the state arrays
    int count  # of the state arrays
    Py_ssize_t n
    Py_ssize_t share  # elements of a thread

cdef struct Words:
    const uint64_t* a
    uint64_t* totals  # of each thread
    Py_ssize_t n
    Py_ssize_t share


def stream(p, g, list state, int threads):
    """Read g, and read and write p and each of up to 3 state arrays, in one pass.

    All are C-contiguous arrays of one size and dtype, float32 or float64.
    """
    cdef Py_ssize_t n = p.size
    cdef int count = len(state)
    cdef Streams streams
    streams.n, streams.share, streams.count = n, n // threads + 1, count
    if p.dtype not in (np.float32, np.float64):
        raise TypeError(f"p: expected dtype float32 or float64, found {p.dtype}")
    for k, array in enumerate([p, g, *state]):
        if array.dtype != p.dtype or array.size != n or not array.flags.c_contiguous:
            raise ValueError("expected contiguous arrays of one size and dtype")
        streams.a[k] = cnp.PyArray_BYTES(array)
    for k in range(2 + count, 5):
        streams.a[k] = streams.a[0]
    on_threads(stream32 if p.dtype == np.float32 else stream64, threads, &streams)


def read(g, int threads):
    """Read g, and return the sum of its 64-bit words, which takes no time beside the reading."""
    cdef Words words
    cdef uint64_t[::1] totals = np.zeros(threads, np.uint64)
    words.n = g.nbytes // 8
    words.share = words.n // threads + 1
    words.totals = &totals[0]
    if not g.flags.c_contiguous:
        raise ValueError("g: expected a contiguous array")
    words.a = <const uint64_t*> cnp.PyArray_BYTES(g)
    on_threads(sum_share, threads, &words)
    return int(np.sum(totals))


cdef on_threads(job_t job, int threads, void* work):
    cdef bint done
    with nogil:
        done = run_region(job, threads, work)
    if not done:
        raise RuntimeError(f"the system refuses {threads} threads")


cdef void sum_share(int thread, void* work) noexcept nogil:
    cdef Words* words = <Words*> work
    cdef Py_ssize_t start = thread * words.share
    cdef uint64_t total = 0
    for i in range(start, min(start + words.share, words.n)):
        total += words.a[i]
    words.totals[thread] = total


cdef void stream32(int thread, void* work) noexcept nogil:
    stream_share(<f32> NULL, thread, <Streams*> work)


cdef void stream64(int thread, void* work) noexcept nogil:
    stream_share(<f64> NULL, thread, <Streams*> work)


cdef inline void stream_share(real _, int thread, Streams* s) noexcept nogil:
    cdef Py_ssize_t start = thread * s.share
    part(
        <real> s.a[0] + start, <real> s.a[1] + start, <real> s.a[2] + start,
        <real> s.a[3] + start, <real> s.a[4] + start, min(s.share, s.n - start), s.count
    )


cdef void part(real p, real g, real a, real b, real c, Py_ssize_t n, int count) noexcept nogil:
    for i in range(n):
        x = g[i]
        p[i] = p[i] + x
        if count > 0:
            a[i] = a[i] + x
        if count > 1:
            b[i] = b[i] + x
        if count > 2:
            c[i] = c[i] + x
