# cython: boundscheck=False, wraparound=False, infer_types=True
"""The memory limit: a loop with the streams of an optimizer step and hardly any arithmetic.

It shares nothing with the engine, so that it can judge it.
"""

from cython.parallel cimport prange

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
    cdef (char*)[5] data
    for k, array in enumerate([p, g, *state]):
        if array.dtype != p.dtype or array.size != n or not array.flags.c_contiguous:
            raise ValueError("expected contiguous arrays of one size and dtype")
        data[k] = cnp.PyArray_BYTES(array)
    for k in range(2 + count, 5):
        data[k] = data[0]
    if p.dtype == np.float32:
        run(<f32> data[0], <f32> data[1], <f32> data[2], <f32> data[3], <f32> data[4], n, count, threads)
    elif p.dtype == np.float64:
        run(<f64> data[0], <f64> data[1], <f64> data[2], <f64> data[3], <f64> data[4], n, count, threads)
    else:
        raise TypeError(f"p: expected dtype float32 or float64, found {p.dtype}")


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
