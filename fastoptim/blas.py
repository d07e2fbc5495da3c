"""One set of threads for NumPy's products and the steps between them.

It knows OpenBLAS: how to find NumPy's own, what it must be, and the function by which it takes a
callback. The threads are in ``csrc/pool.c``, whose ``fo_blas_run`` is that callback.
"""

from __future__ import annotations

import ctypes
import re
import sys
import threading
from importlib import import_module
from types import TracebackType

import numpy as np

from ._engine import threads as engine
from ._kinds import Flag, checked

__all__ = ["share_blas_threads"]


def __dir__() -> list[str]:
    return __all__


OLDEST = (0, 3, 29)  # version 0.3.28 has the callback too, but hands some jobs no work buffer
PTHREADS = 1  # what openblas_get_parallel says of threads of its own
AWAKE_NS = 1_000_000  # how long shared workers stay awake, for the next product or step


class share_blas_threads:  # noqa: N801  # called like a function, used like np.errstate
    """Let NumPy's OpenBLAS compute its products on the threads that step.

    By default OpenBLAS has threads of its own. They wait for the next product by spinning, for
    some 0.1 s, so a step right after a product finds every core taken. Shared threads serve both.
    They stay awake for a millisecond after a product or a step, in which the next one usually
    comes, but leave their core to whoever else wants it. Products and steps keep their bits.

    Parameters
    ----------
    share : bool, default True
        False gives OpenBLAS its own threads back.

    Raises
    ------
    RuntimeError
        If NumPy's BLAS cannot share its threads (nothing has changed then): it is another library
        (MKL, Accelerate, BLIS), OpenBLAS before 0.3.29, or an OpenBLAS that has no threads of its
        own; or there are too many of them; or OpenMP binds threads to CPUs; or the system is
        Windows, or refuses further threads.

    Warnings
    --------
    This changes NumPy's BLAS for the whole process, whoever calls it, which is why it is never
    done unasked. OpenBLAS describes the hook as one to be set before any other call.

    - For some 0.1 s after the last product before the call, OpenBLAS's own threads still spin, and
      products on the shared threads may take many times as long.
    - The same holds after ``np.linalg.solve``, ``inv`` and ``det``, whose factorization still runs
      on OpenBLAS's own threads. These three become slower themselves, in places by half. Other
      routines of many small products (``eigh``, ``cholesky``) may lose, too. Sharing is meant for
      loops of products and steps.
    - It may be called at any time, from any thread, also while other threads compute. Threads
      that call BLAS at the same time take turns, product by product.
    - ``fork`` waits for the product under way; the child goes on sharing, with threads of its own.
      (As ever with OpenBLAS, a child hangs in its first product if another thread was waiting to
      start one.)
    - Limits of BLAS threads, by threadpoolctl or OPENBLAS_NUM_THREADS, hold as before.
    - If the system refuses a thread to a product, after the number of threads has been raised, the
      process ends, as it does with OpenBLAS's own threads.
    - SciPy's wheel has an OpenBLAS of its own, which keeps its threads.

    Notes
    -----
    The call takes effect at once. As a context manager it brings back, at the end of the block,
    what was before; of blocks that overlap, in several threads or in generators, the last to end
    does so.

    Examples
    --------
    >>> import fastoptim as fo
    >>> fo.share_blas_threads()  # for the rest of the program  # doctest: +SKIP
    >>> with fo.share_blas_threads():  # or for one loop  # doctest: +SKIP
    ...     for x, y in batches:
    ...         opt.step(gradients(params, x, y))
    """

    def __init__(self, share: bool = True) -> None:
        self._share = checked("share", Flag(), share)
        with _switching:
            self._before = _switch(self._share)

    def __enter__(self) -> None:
        with _switching:
            if _switch(self._share) != self._share:  # a block of another thread has ended since
                self._before = not self._share
            _blocks.append(self)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with _switching:
            at = _blocks.index(self)
            del _blocks[at]
            if at < len(_blocks):  # a block that was entered since is open, and will bring it back
                _blocks[at]._before = self._before
            else:
                _switch(self._before)

    def __repr__(self) -> str:
        return f"<BLAS threads {'shared' if engine.is_shared() else 'not shared'}>"


_switching = threading.Lock()
_blocks: list[share_blas_threads] = []  # that are open, in the order in which they were entered


def _switch(share: bool) -> bool:
    """Share the threads or not, for a caller that holds the lock; return what was before."""
    before = engine.is_shared()
    if share != before:
        set_callback = _prepared() if share else _function("set_threads_callback_function")
        engine.set_awake_ns(AWAKE_NS if share else engine.awake_ns)
        address = ctypes.cast(set_callback, ctypes.c_void_p).value
        engine.share(share, address or 0, engine.blas_callback)
    return before


def _prepared() -> ctypes._NamedFuncPointer:
    """Make the pool ready for NumPy's OpenBLAS, and return the function that takes a callback."""
    set_callback = _function("set_threads_callback_function")
    get_config = _function("get_config")
    get_config.restype = ctypes.c_char_p
    config = get_config().decode()
    version = re.search(r"OpenBLAS (\d+)\.(\d+)\.(\d+)", config)
    slots = re.search(r"MAX_THREADS=(\d+)", config)
    if not version or not slots or tuple(map(int, version.groups())) < OLDEST:
        raise RuntimeError(f"{_EXPECTED}, found {config.strip()!r}")
    if _function("get_parallel")() != PTHREADS:
        raise RuntimeError(f"{_EXPECTED}, found one without threads of its own")
    if sys.platform == "win32":  # where it has not been tried
        raise RuntimeError("share_blas_threads: not supported on Windows")
    if engine.threads_are_bound():  # each to the CPU of the thread that calls, then
        raise RuntimeError(
            "share_blas_threads: expected threads that may run on any CPU, found OMP_PROC_BIND, "
            "OMP_PLACES or GOMP_CPU_AFFINITY, which bind them"
        )
    threads = max(_function("get_num_threads")(), _function("get_num_procs")())
    if 2 * threads > int(slots[1]):
        raise RuntimeError(
            f"share_blas_threads: expected at most {int(slots[1]) // 2} BLAS threads or CPUs, half "
            f"of what this OpenBLAS was built for, found {threads}"
        )
    if not engine.grow(_function("get_num_threads")()):
        raise RuntimeError("share_blas_threads: the system refuses further threads")
    engine.set_blas_slots(int(slots[1]))
    return set_callback


# Looked up once: Python 3.10 ignores an interrupt that comes while a module is looked up.
_NUMPY = import_module("numpy._core._multiarray_umath").__file__
_EXPECTED = "share_blas_threads: expected NumPy with OpenBLAS 0.3.29 or newer and its own threads"


def _library() -> ctypes.CDLL:
    """Return NumPy's core: a look-up in it searches the libraries that it was linked with."""
    return ctypes.CDLL(_NUMPY)


def _function(name: str) -> ctypes._NamedFuncPointer:
    """Return a function of the OpenBLAS that NumPy was linked with, however it is spelled there."""
    library = _library()
    for spelling in ("{}", "{}64_", "{}_64", "scipy_{}", "scipy_{}64_"):
        try:
            return library[spelling.format(f"openblas_{name}")]
        except AttributeError:
            continue
    blas = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
    raise RuntimeError(f"{_EXPECTED}, found {blas.get('name')} {blas.get('version')}")
