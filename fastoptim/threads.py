"""How many threads a step may use, and whose.

The threads are fastoptim's own (``csrc/pool.c``), and sleep when idle. OpenMP is not linked. An
OpenMP runtime that another library has loaded is asked how many threads the user allows; where none
is loaded, the environment variables that it would read are read here. In the two cases below such a
runtime also lends its workers.

In all other cases OpenMP's workers would not do. libgomp's spin after a parallel region, and take
the cores from the BLAS that computes the next product. Training a network of 784-1024-1024-10 with
float32 Adam on OpenMP took so many milliseconds for a batch, products and step together, on 2
cores:

==========================  ========  =========
how the workers wait        batch 32  batch 200
==========================  ========  =========
libgomp's default                 16         26
GOMP_SPINCOUNT=100000             11         21
GOMP_SPINCOUNT=10000             6.2         15
GOMP_SPINCOUNT=1000              5.1         15
passively                        5.1         14
there are none: one thread       4.7         14
==========================  ========  =========

A long spin gains nothing over none: a worker is needed again only after the next products. But how
they wait is settled for the whole process when the runtime is loaded, and torch's small operations,
on the same workers, took a fifth longer where they slept. fastoptim's own did as well as sleeping
ones of OpenMP in all six networks that were tried.

Steps run on the workers of a loaded runtime in two cases. Where they stay awake anyway, because
torch computes on them or because the user has said so (OMP_WAIT_POLICY, GOMP_SPINCOUNT), they would
take the cores from ours. And where the runtime binds threads to CPUs (OMP_PROC_BIND), the calling
thread has but one CPU, which our workers would share with it. If no runtime is loaded, there are no
such workers, and what the user has said of them means nothing to ours.
"""

from __future__ import annotations

import ctypes
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from . import _threadpoolctl
from ._engine import threads as engine
from ._kinds import Count, checked, environment

__all__ = ["get_num_threads", "num_threads", "set_num_threads"]


def __dir__() -> list[str]:
    return __all__


THREADS = Count(1, bits=31)


def set_num_threads(n: int | None) -> None:
    """Set the most threads that a step uses, in all threads of the process.

    Parameters
    ----------
    n : int or None
        At least 1 (small steps use fewer), or None for what it was when fastoptim was imported.

    Raises
    ------
    TypeError, ValueError
        If n is not a whole number >= 1 and < 2**31.

    See Also
    --------
    num_threads : for a while, and for the calling thread alone.

    Examples
    --------
    >>> import fastoptim as fo
    >>> fo.set_num_threads(1)
    >>> fo.get_num_threads()
    1
    >>> fo.set_num_threads(None)
    """
    engine.set_limit(_default if n is None else checked("n", THREADS, n))


@contextmanager
def num_threads(n: int) -> Iterator[None]:
    """Set the most threads that a step uses inside of a ``with``, also if the body raises.

    The limit holds for the calling thread (or asyncio task) alone, so that two of them do not undo
    each other's, and wins over `set_num_threads`. Of several blocks that are open, the one that was
    opened last counts.

    Parameters
    ----------
    n : int
        At least 1; small steps use fewer.

    Raises
    ------
    TypeError, ValueError
        If n is not a whole number >= 1 and < 2**31.

    Notes
    -----
    Where a generator yields inside of the ``with``, the limit holds for whoever runs the generator,
    until that is resumed or closed, as with `numpy.errstate`. So it is better opened around the
    steps alone. Once the block has ended, its limit holds nowhere any more, also if it ends in
    another thread or task. A task of asyncio that is started inside keeps the limit until its own
    end.

    Examples
    --------
    >>> import fastoptim as fo
    >>> with fo.num_threads(1):
    ...     fo.get_num_threads()
    1
    """
    limit = engine.Limit(checked("n", THREADS, n))
    still = (other for other in engine.limit_here.get() if not other.over)
    token = engine.limit_here.set((*still, limit))
    try:
        yield
    finally:
        others = tuple(other for other in engine.limit_here.get() if other is not limit)
        try:
            engine.limit_here.reset(token)
        except ValueError:  # a generator may be closed in another context, where it cannot be reset
            limit.end()
        else:
            engine.limit_here.set(others)  # some of which may have been opened since


def get_num_threads() -> int:
    """Return the most threads that a step uses, at this moment and from the calling thread.

    That is, first found first taken:

    1. 1 inside a parallel region of OpenMP;
    2. what `num_threads` was given around the call;
    3. what `set_num_threads` was given, else the environment variable FASTOPTIM_NUM_THREADS as it
       was at import;
    4. 1 in a child of ``fork()``, for which 2 and 3 count only if they were set in it;
    5. what OpenMP is allowed (OMP_NUM_THREADS, OMP_THREAD_LIMIT, threadpoolctl), by the runtimes
       that are loaded in the process, else by the environment as it was at import; but not more
       than the CPUs that the thread may run on, nor than the CPU quota that the process's cgroup
       had at import.

    A number that fastoptim itself was given is taken as it is, even above the number of CPUs. Where
    several threads step at the same moment, the workers help one of them, and the others step
    alone.

    Notes
    -----
    A child of ``fork()`` has none of its parent's threads. By default it steps on one, since those
    who fork have usually shared out the cores. If it asks for more, by `set_num_threads` or
    `num_threads`, it gets new ones.
    """
    return engine.explain_limit()[0]


def share_openmp_workers(library: str) -> None:
    """Run steps on the OpenMP workers of another library, whose file is `library`.

    Between two operations of the library its workers are awake, and would take the core from ours.
    If several runtimes are loaded, the one is meant that the library was linked with.
    """
    with suppress(AttributeError, OSError):  # it has none, or one that lends no workers
        runtime = ctypes.CDLL(library)
        parallel, number = map(_address, (runtime.GOMP_parallel, runtime.omp_get_thread_num))
        engine.set_openmp(True, _openmp_stays_awake(default=True), parallel, number)


def _address(function: Any) -> int:
    return ctypes.cast(function, ctypes.c_void_p).value or 0


def _openmp_stays_awake(default: bool) -> bool:
    """Tell whether idle workers of OpenMP spin, as libgomp reads its environment variables."""
    spins = (environment("GOMP_SPINCOUNT") or "").lower()
    if count := re.fullmatch(r"(\d+)\s*[kmgt]?|infin(ite|ity)", spins):
        return int(count[1] or 1) > 0
    policy = (environment("OMP_WAIT_POLICY") or "").lower()
    return {"active": True, "passive": False}.get(policy, default)


def _openmp_threads() -> int:
    """Return how many threads the environment allows OpenMP, as its runtimes read it; 0 for any.

    The runtimes ignore what is not a positive whole number. The first number of a list is meant for
    regions that are in no other, as those of a step are.
    """
    allowed = [2**31 - 1]
    for name in ("OMP_NUM_THREADS", "OMP_THREAD_LIMIT"):
        value = environment(name) or ""
        if re.fullmatch(r"\+?\d+(\s*,\s*\+?\d+)*", value) and (n := int(value.split(",")[0])) > 0:
            allowed.append(n)
    if re.fullmatch(r"\+?0+", environment("OMP_MAX_ACTIVE_LEVELS") or ""):
        allowed.append(1)
    return min(allowed) if len(allowed) > 1 else 0


def _openmp_binds() -> bool:
    """Tell whether the environment has OpenMP bind threads to CPUs, as libgomp reads it."""
    if binds := environment("OMP_PROC_BIND"):
        return binds.lower() != "false"
    return bool(environment("OMP_PLACES") or environment("GOMP_CPU_AFFINITY"))


def _threads_of_environment() -> int:
    value = environment("FASTOPTIM_NUM_THREADS")
    if value is None:
        return 0
    number = int(value) if value.isdecimal() else value
    return int(checked("FASTOPTIM_NUM_THREADS", THREADS, number))


def _cgroup_quota(root: Path = Path("/")) -> int:
    """Return how many CPUs the cgroup of this process grants it, rounded up; 0 without a quota.

    A quota binds all groups below its own. Inside of a container the path may be that of the host,
    of which only the last part is mounted: folders that are not there have no quota.
    """
    granted = math.inf
    with suppress(OSError, ValueError):  # no Linux, or no cgroups
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers and "cpu" not in controllers.split(","):
                continue
            mount = root / "sys/fs/cgroup" / ("cpu" if controllers else "")  # version 1 or 2
            group = mount / path.strip("/")
            while group.is_relative_to(mount):
                granted = min(granted, _granted(group))
                group = group.parent
    return 0 if granted == math.inf else math.ceil(granted)


def _granted(group: Path) -> float:
    """Return how many CPUs the quota of one cgroup comes to, infinity where there is none."""
    for names in (["cpu.max"], ["cpu.cfs_quota_us", "cpu.cfs_period_us"]):
        with suppress(OSError, ValueError):  # no such file, or "max" in it
            quota, period = map(int, " ".join((group / n).read_text() for n in names).split())
            if quota > 0 and period > 0:
                return quota / period
    return math.inf


_default = _threads_of_environment()
set_num_threads(None)
# Read once: it takes some 50 us, and a container has its quota before its processes start.
engine.set_quota(_cgroup_quota())
engine.set_openmp_environment(_openmp_threads(), _openmp_binds())
_awake = _openmp_stays_awake(default=False)
engine.set_openmp(_awake, _awake)
_threadpoolctl.install()
