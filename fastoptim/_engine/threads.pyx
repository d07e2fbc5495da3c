"""Threads: how many a step may use, whose they are, and how they share out its work.

It knows tasks, which are a function and numbers, and nothing of arrays. The workers themselves are
in ``csrc/pool.h``; who sets the limits is `fastoptim.threads`.
"""

from cython.parallel cimport prange
from libc.stdint cimport uintptr_t

from contextvars import ContextVar

cdef extern from "cpu.h":
    int fo_cpu_v3()
    int fo_cpu_v4()

cdef extern from "parallel.h":
    int FO_OPENMP
    const char* FO_COMPILER
    int fo_forks
    int fo_install_fork_guard()
    Py_ssize_t fo_take(Py_ssize_t* next) nogil
    int fo_openmp_threads() nogil
    int fo_cpus() nogil
    int omp_in_parallel() nogil
    int omp_get_proc_bind() nogil

cdef enum:
    PARTS = 64  # of the tasks of a loop, at the most
    # The bytes of memory traffic that a further thread must be given where idle threads are awake:
    # those shared with the BLAS, and OpenMP's where they spin. Two broke even with one at 0.5 to
    # 0.9 MB in all.
    GRAIN_AWAKE = 1 << 19

# The same of threads that sleep, which take some 80 us to wake up. Alone, two threads broke even
# with one at 8 to 50 MB in all, by machine and rule; in a training loop, where the BLAS's own
# workers keep the second core, they were no faster at 52 MB. Tests lower it.
cdef Py_ssize_t grain = 12 << 20
cdef int limit = 0  # set_num_threads or FASTOPTIM_NUM_THREADS; 0: neither
cdef int limit_forks = 0  # when it was set: a child does not inherit it
cdef int quota = 0  # CPUs that the cgroup of this process grants; 0: as many as there are
limit_here = ContextVar("fastoptim.num_threads", default=())  # of `num_threads`, the inner last

# Runs regions on the workers of pool.h, unless they are busy.
ctypedef void (*job_t)(int i, void* work) noexcept nogil
ctypedef int (*region_t)(job_t job, int n, void* work) noexcept nogil
cdef region_t pool = NULL
cdef bint shared = False  # with the BLAS
cdef bint openmp_chosen = False  # to run regions, where it can
cdef bint openmp_awake = False  # whether its idle workers spin

cdef struct Part:
    # Tasks that one thread takes before all others do; on a cache line of its own.
    Py_ssize_t next
    Py_ssize_t end
    char[48] padding

cdef struct Job:
    # One loop over tasks that several threads share.
    task_t task
    void* work
    fo_mode mode  # of floating point, in which all of them compute
    int parts
    Part[PARTS] part

openmp = FO_OPENMP
can_flush = bool(FO_CAN_FLUSH)
compiler = FO_COMPILER.decode()


cdef int forks() noexcept nogil:
    """Return how many times the process has forked since the one that imported us."""
    return fo_forks


def cpu_supports(level):
    """Tell whether this CPU runs the code of an instruction-set level."""
    return {"base": True, "v3": bool(fo_cpu_v3()), "v4": bool(fo_cpu_v4())}[level]


cdef class Limit:
    """The most threads that a step uses inside of one `num_threads`, in one process."""

    cdef int n, forks
    cdef readonly bint over

    def __init__(self, int n):
        self.n, self.forks = n, fo_forks

    def end(self):
        """Let it hold no longer, in whatever context it is still found."""
        self.over = True


def set_limit(int n):
    """Set the most threads that a step uses, 0 for the OpenMP runtime's; return the old value."""
    global limit, limit_forks
    old, limit = limit, n
    limit_forks = fo_forks
    return old


def set_pool(uintptr_t address):
    """Set the C function that runs regions on the workers of pool.h."""
    global pool
    pool = <region_t> address


def share(bint on, uintptr_t set_callback, uintptr_t callback):
    """Let the BLAS share the workers of pool.h with us, or not, by the function that it has for it.

    One call, in which no interrupt comes, does both.
    """
    global shared
    (<void (*)(void*) noexcept nogil> set_callback)(<void*> callback if on else NULL)
    shared = on


def is_shared():
    """Tell whether the BLAS shares the workers of pool.h with us."""
    return shared


def set_quota(int n):
    """Set the number of CPUs that the cgroup of this process grants; return the old value."""
    global quota
    old, quota = quota, n
    return old


def set_openmp(bint chosen, bint awake):
    """Say whether OpenMP's workers run steps, not those of pool.h, and stay awake when idle.

    Return what was said before.
    """
    global openmp_chosen, openmp_awake
    old = openmp_chosen, openmp_awake
    openmp_chosen, openmp_awake = chosen, awake
    return old


cdef inline bint on_openmp() noexcept nogil:
    return openmp_chosen and not shared and not fo_forks


def threads_are_bound():
    """Tell whether OpenMP binds threads to CPUs, of which those of others may inherit one."""
    return omp_get_proc_bind() != 0


def workers():
    """Say whose workers run steps."""
    if on_openmp():
        return "OpenMP's"
    return "shared with BLAS" if shared else "fastoptim's own"


cpdef tuple explain_limit():
    """Return the most threads that a step uses, now and from this thread, and what decides it."""
    cdef int n, cpus
    cdef Limit inner
    if not FO_OPENMP:
        return 1, "built without OpenMP"
    if omp_in_parallel():
        return 1, "inside a parallel region"
    for inner in reversed(limit_here.get()):
        if inner.forks == fo_forks and not inner.over:
            return inner.n, "num_threads"
    if limit and limit_forks == fo_forks:
        return limit, "set_num_threads or FASTOPTIM_NUM_THREADS"
    if fo_forks:
        return 1, "child of fork()"
    n, cpus, why = fo_openmp_threads(), fo_cpus(), "OpenMP runtime"
    if cpus < n:
        n, why = cpus, "CPU affinity"
    if 0 < quota < n:
        n, why = quota, "cgroup quota"
    return n, why


cpdef int threads_for(Py_ssize_t traffic):
    """Return how many threads a step uses that moves so many bytes; one asks nobody."""
    cdef bint awake = shared or (on_openmp() and openmp_awake)
    cdef Py_ssize_t most = traffic // (min(grain, <Py_ssize_t> GRAIN_AWAKE) if awake else grain)
    return min(most, <Py_ssize_t> explain_limit()[0]) if most > 1 else 1


def set_grain(Py_ssize_t n):
    """Set the bytes of memory traffic that a further thread must be given; return the old value."""
    global grain
    old, grain = grain, n
    return old


cdef void run(
    task_t task, void* work, Py_ssize_t count, int threads, Py_ssize_t traffic, bint flush
) noexcept:
    """Run task(work, k) for each k below count, on so many threads.

    The GIL is released, unless the step moves so few bytes that taking it back would cost more.
    """
    if traffic < UNLOCK:
        spread(task, work, count, threads, flush)
    else:
        with nogil:
            spread(task, work, count, threads, flush)


cdef void spread(
    task_t task, void* work, Py_ssize_t count, int threads, bint flush
) noexcept nogil:
    cdef Job job
    cdef Py_ssize_t k
    cdef int thread
    cdef fo_mode mode = fo_get_mode()
    if threads == 1:
        fo_set_mode(flushing(mode, flush))
        for k in range(count):
            task(work, k)
        fo_set_mode(mode)
        return
    job.task, job.work, job.mode = task, work, flushing(mode, flush)
    job.parts = min(threads, <int> PARTS)
    for k in range(job.parts):
        job.part[k].next = k * count // job.parts
        job.part[k].end = (k + 1) * count // job.parts
    if on_openmp():
        for thread in prange(threads, num_threads=threads, schedule="static", chunksize=1):
            take_tasks(thread, &job)
    elif not pool(take_tasks, threads, &job):
        take_tasks(0, &job)  # alone: the others are busy with what another thread asked for


cdef void take_tasks(int thread, void* shared_job) noexcept nogil:
    """Run the tasks of one's own part, then what is left of the others'.

    A thread meets the elements of the step before, some of which its core's caches still hold: that
    is 2 to 12 % faster than one queue for all, and unlike fixed shares it does not wait for the
    share of a thread that has no core.
    """
    cdef Job* job = <Job*> shared_job
    cdef Part* part
    cdef Py_ssize_t k
    cdef int other
    cdef fo_mode mode = fo_get_mode()
    fo_set_mode(job.mode)  # the caller's: other threads may round in another way
    for other in range(job.parts):
        part = &job.part[(thread + other) % job.parts]
        k = fo_take(&part.next)
        while k < part.end:
            job.task(job.work, k)
            k = fo_take(&part.next)
    fo_set_mode(mode)


if fo_install_fork_guard() != 0:
    raise ImportError("fastoptim: cannot install the fork handler (out of memory)")
