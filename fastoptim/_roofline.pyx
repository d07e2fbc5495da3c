# cython: cdivision=False, infer_types=True
"""The memory limit: a loop with the streams of an optimizer step and hardly any arithmetic.

It shares nothing with the engine, so that it can judge it.
"""

from cython.parallel cimport prange
from libc.stdint cimport uint64_t

cimport numpy as cnp

from fastoptim._kernel cimport f32, f64

import numpy as np

cnp.import_array()

ctypedef fused real:
    f32
    f64


def stream(p, g, list state, int threads):
    """Read g, and read and write p and each of up to 3 state arrays, in one pass.

    All are C-contiguous arrays of one size and dtype, float32 or float64.
    """
    cdef Py_ssize_t n = p.size
    cdef int count = len(state)
    cdef (char*)[5] a
    if p.dtype not in (np.float32, np.float64):
        raise TypeError(f"p: expected dtype float32 or float64, found {p.dtype}")
    for k, array in enumerate([p, g, *state]):
        if array.dtype != p.dtype or array.size != n or not array.flags.c_contiguous:
            raise ValueError("expected contiguous arrays of one size and dtype")
        a[k] = cnp.PyArray_BYTES(array)
    for k in range(2 + count, 5):
        a[k] = a[0]
    if p.dtype == np.float32:
        run(<f32> a[0], <f32> a[1], <f32> a[2], <f32> a[3], <f32> a[4], n, count, threads)
    else:
        run(<f64> a[0], <f64> a[1], <f64> a[2], <f64> a[3], <f64> a[4], n, count, threads)


def read(g, int threads):
    """Read g, and return the sum of its 64-bit words, which takes no time beside the reading."""
    cdef Py_ssize_t words = g.nbytes // 8
    cdef Py_ssize_t share = words // threads + 1
    cdef const uint64_t* a
    cdef uint64_t total = 0
    cdef int k
    if not g.flags.c_contiguous:
        raise ValueError("g: expected a contiguous array")
    a = <const uint64_t*> cnp.PyArray_BYTES(g)
    for k in prange(threads, num_threads=threads, schedule="static", nogil=True):
        total += sum_of(a + k * share, min(share, words - k * share))
    return total


cdef uint64_t sum_of(const uint64_t* a, Py_ssize_t n) noexcept nogil:
    cdef uint64_t total = 0
    for i in range(n):
        total += a[i]
    return total


cdef void run(
    real p, real g, real a, real b, real c, Py_ssize_t n, int count, int threads
) noexcept:
    cdef Py_ssize_t share = n // threads + 1
    cdef Py_ssize_t start
    cdef int k
    for k in prange(threads, num_threads=threads, schedule="static", nogil=True):
        start = k * share
        part(p + start, g + start, a + start, b + start, c + start, min(share, n - start), count)


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
