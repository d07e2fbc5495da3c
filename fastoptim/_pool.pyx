"""The workers of the engine, which OpenBLAS may share, as addresses of C functions."""

from libc.stdint cimport uintptr_t

cdef extern from "pool.h":
    int FO_POOL
    int fo_pool_install()
    int fo_pool_grow(int threads) nogil
    void fo_pool_try()
    void fo_blas_run()
    long fo_spin
    int fo_blas_slots

supported = bool(FO_POOL)
run_region = <uintptr_t> &fo_pool_try
blas_callback = <uintptr_t> &fo_blas_run
spin = fo_spin  # ns that an idle worker stays awake, unless somebody sets it


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


def set_spin(long ns):
    """Set how long an idle worker stays awake; return the old value."""
    global fo_spin
    old, fo_spin = fo_spin, ns
    return old


if fo_pool_install() != 0:
    raise ImportError("fastoptim: cannot install the fork handler (out of memory)")
