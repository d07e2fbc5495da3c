"""The workers of the engine, which OpenBLAS may share, as addresses of C functions."""

from libc.stdint cimport int64_t, uintptr_t

cdef extern from "pool.h":
    int FO_POOL
    int fo_pool_install()
    int fo_pool_grow(int threads) nogil
    void fo_pool_try()
    void fo_blas_run()
    int FO_SPIN
    int64_t fo_set_spin(int64_t ns)
    int fo_blas_slots

supported = bool(FO_POOL)
run_region = <uintptr_t> &fo_pool_try
blas_callback = <uintptr_t> &fo_blas_run
spin = FO_SPIN  # ns that an idle worker stays awake, unless somebody sets it


def grow(int threads):
    """Start workers for so many threads, the caller's included; return whether they all run."""
    cdef bint grown
    with nogil:
        grown = fo_pool_grow(threads)
    return grown


def set_blas_slots(int slots):
    """Set the length of OpenBLAS's table of threads."""
    global fo_blas_slots
    fo_blas_slots = slots


def set_spin(int64_t ns):
    """Set how long an idle worker stays awake; return the old value."""
    return fo_set_spin(ns)


if fo_pool_install() != 0:
    raise ImportError("fastoptim: cannot install the fork handler (out of memory)")
