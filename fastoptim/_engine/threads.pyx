"""Threads: how many a step may use, whose they are, and how they share out its work.

It knows tasks, which are a function and numbers, and nothing of arrays. The workers themselves are
in ``csrc/pool.c``, and ``csrc/openmp.c`` asks the OpenMP runtimes of other libraries; who sets the
limits is `fastoptim.threads`.
"""

from libc.limits cimport INT_MAX
from libc.stdint cimport int64_t, uintptr_t

from fastoptim._engine.machine cimport flushing, fo_get_mode, fo_mode, fo_set_mode

from contextvars import ContextVar

cdef extern from "pool.h":
    int FO_AWAKE_NS
    int fo_forks
    int fo_pool_install()
    int fo_cpus()
    int64_t fo_set_awake_ns(int64_t ns)
    bint fo_pool_grow(int threads) nogil
    bint fo_pool_try(job_t job, int n, void* work) nogil
    bint fo_pool_run(job_t job, int n, void* work) nogil
    void fo_blas_run()
    void fo_set_blas_slots(int slots)

cdef extern from "parts.h":
    ctypedef struct fo_parts:
        pass
    fo_parts* fo_own_parts() nogil
    void fo_divide(fo_parts* parts, Py_ssize_t tasks, int threads) nogil
    Py_ssize_t fo_take(fo_parts* parts, int* part) nogil

cdef extern from "openmp.h":
    ctypedef struct fo_openmp:
        int runtimes
        int threads
        bint inside
        int cpus
        bint lends
    ctypedef void* fo_gomp_parallel
    ctypedef void* fo_gomp_number
    fo_openmp fo_openmp_ask()
    const char* fo_openmp_name(int runtime)
    void fo_openmp_use(fo_gomp_parallel parallel, fo_gomp_number number)
    void fo_openmp_run(job_t job, int n, void* work) nogil

cdef enum:
    # The bytes of memory traffic that each further thread must be given, where idle threads are
    # awake: those shared with the BLAS, and OpenMP's where they spin. Two threads broke even with
    # one where a step moved 0.5 to 0.9 MB in all.
    GRAIN_AWAKE = 1 << 19

# The same where idle threads sleep. To wake one up takes some 80 us. Two threads broke even with
# one where a step moved 8 to 50 MB in all, by machine and rule, if nothing else ran; in a training
# loop, where the BLAS's own workers hold the second core, they were no faster at 52 MB. Tests lower
# it.
cdef Py_ssize_t grain = 12 << 20
cdef int limit = 0  # set by set_num_threads or FASTOPTIM_NUM_THREADS; 0: by neither
cdef int limit_forks = 0  # forks() when `limit` was set, since a child does not inherit it
cdef int quota = 0  # CPUs that the cgroup of this process grants; 0: as many as there are
limit_here = ContextVar("fastoptim.num_threads", default=())  # of `num_threads`, the inner last
controlled_here = ContextVar("fastoptim.controlled", default=0)  # by threadpoolctl; 0: not limited

cdef bint shared = False  # whether the BLAS runs its products on our workers
# What the environment said of OpenMP at import. A runtime that is loaded is asked instead.
cdef int environment_threads = 0  # that a parallel region may have; 0: as many as there are CPUs
cdef bint environment_binds = False  # whether it binds each thread to a CPU
# Steps run on the workers of an OpenMP runtime that lends them, where `fastoptim.threads` wants it
# or the runtime binds threads to CPUs.
cdef bint openmp_wanted = False
cdef bint openmp_awake = False  # whether those workers stay awake when idle
cdef bint openmp_lends = False  # whether steps run on them, when the runtimes were asked last
cdef uintptr_t openmp_parallel = 0  # its GOMP_parallel; 0: that of the first runtime that has one
cdef uintptr_t openmp_number = 0  # its omp_get_thread_num; 0: likewise

cdef enum Reason:
    # What decides how many threads a step uses, as in REASONS.
    INSIDE, NUM_THREADS, SET_NUM_THREADS, CHILD, RUNTIME, ENVIRONMENT, CONTROLLED, AFFINITY, QUOTA

cdef tuple REASONS = (
    "inside a parallel region",
    "num_threads",
    "set_num_threads or FASTOPTIM_NUM_THREADS",
    "child of fork()",
    "OpenMP runtime",
    "OMP_NUM_THREADS or OMP_THREAD_LIMIT",
    "threadpoolctl",
    "CPU affinity",
    "cgroup quota",
)

cdef enum:
    PAGE = 4096  # bytes, the fewest that a system gives at a time
    PIECE = 1 << 15  # bytes that a thread touches at a time, as many as a task has of float32

cdef struct Block:
    char* data
    Py_ssize_t size

cdef struct Job:
    # The tasks of one pass, which several threads share.
    task_t task
    void* work
    fo_mode mode  # of floating point, in which all threads compute
    fo_parts* parts

awake_ns = FO_AWAKE_NS  # how long an idle worker of ours stays awake, unless somebody sets it
try_region = <uintptr_t> &fo_pool_try  # addresses of C functions, for ctypes
blas_callback = <uintptr_t> &fo_blas_run


cdef int forks() noexcept nogil:
    """Return how many times the process has forked since the one that imported us."""
    return fo_forks


cdef bint run_region(job_t job, int n, void* work) noexcept nogil:
    """Run a job on n threads at once, the caller's among them; False if there are not so many."""
    return fo_pool_run(job, n, work)


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
    """Set the most threads that a step uses, 0 for no such limit; return the old value."""
    global limit, limit_forks
    old, limit = limit, n
    limit_forks = fo_forks
    return old


def grow(int threads):
    """Start workers for so many threads, the caller's included; return whether they all run."""
    cdef bint grown
    with nogil:
        grown = fo_pool_grow(threads)
    return grown


def set_awake_ns(int64_t ns):
    """Set for how long an idle worker of ours stays awake; return the old value."""
    return fo_set_awake_ns(ns)


def set_blas_slots(int slots):
    """Set the length of OpenBLAS's table of threads."""
    fo_set_blas_slots(slots)


def share(bint on, uintptr_t set_callback, uintptr_t callback):
    """Let the BLAS run its products on our workers, or no longer.

    `set_callback` is the address of the function by which the BLAS takes a callback. To give it
    one, and to note that, is one call, in which no interrupt comes.
    """
    global shared
    (<void (*)(void*) noexcept nogil> set_callback)(<void*> callback if on else NULL)
    shared = on


def is_shared():
    """Tell whether the BLAS shares our workers with us."""
    return shared


def set_quota(int n):
    """Set the number of CPUs that the cgroup of this process grants; return the old value."""
    global quota
    old, quota = quota, n
    return old


def set_openmp_environment(int threads, bint binds):
    """Say how many threads the environment allows OpenMP, and whether it binds them to CPUs."""
    global environment_threads, environment_binds
    environment_threads, environment_binds = threads, binds


def set_openmp(bint wanted, bint awake, uintptr_t parallel=0, uintptr_t number=0):
    """Say whether steps are to run on OpenMP's workers, whose they are, and if idle ones spin.

    The addresses are those of a runtime's functions ``GOMP_parallel`` and ``omp_get_thread_num``; 0
    stands for the first runtime that has them. Return what was said before.
    """
    global openmp_wanted, openmp_awake, openmp_parallel, openmp_number
    old = openmp_wanted, openmp_awake, openmp_parallel, openmp_number
    openmp_wanted, openmp_awake, openmp_parallel, openmp_number = wanted, awake, parallel, number
    fo_openmp_use(<fo_gomp_parallel> parallel, <fo_gomp_number> number)
    ask_openmp()
    return old


cdef fo_openmp ask_openmp() noexcept:
    """Ask the runtimes that are loaded now, and note whether steps run on the workers of one.

    Where a runtime binds threads to CPUs, the calling thread may have but one, and so would workers
    of ours that it starts. OpenMP's are bound each to a CPU of its own.
    """
    global openmp_lends
    cdef fo_openmp answer = fo_openmp_ask()
    openmp_lends = answer.lends and (openmp_wanted or answer.cpus > 0)
    return answer


cdef inline bint on_openmp() noexcept nogil:
    return openmp_lends and not shared and not fo_forks


def threads_are_bound():
    """Tell whether OpenMP binds threads to CPUs; who starts a thread may then leave it one CPU."""
    cdef fo_openmp openmp = ask_openmp()
    return openmp.cpus > 0 if openmp.runtimes else environment_binds


def workers():
    """Say whose workers run steps."""
    ask_openmp()
    if on_openmp():
        return "OpenMP's"
    return "shared with BLAS" if shared else "fastoptim's own"


def cpus():
    """Return how many CPUs the calling thread may run on, or those of OpenMP, if it binds them."""
    return ask_openmp().cpus or fo_cpus()


def openmp_runtimes():
    """Return the file names of the OpenMP runtimes that are loaded now."""
    return [fo_openmp_name(k).decode() for k in range(ask_openmp().runtimes)]


def explain_limit():
    """Return the most threads that a step uses, now and from this thread, and what decides it."""
    cdef int reason = 0
    cdef int n = limit_and_reason(&reason)
    return n, REASONS[reason]


cdef int allowed_threads() except -1:
    """Return the most threads that a step uses, now and from this thread."""
    cdef int reason
    return limit_and_reason(&reason)


cdef int limit_and_reason(int* reason) except -1:
    """Return the most threads that a step uses, and note which of REASONS decides it."""
    cdef fo_openmp openmp = ask_openmp()
    cdef int n = INT_MAX, cpus, controlled
    cdef Limit inner
    if openmp.inside:
        reason[0] = INSIDE
        return 1
    reason[0] = NUM_THREADS
    for inner in reversed(<tuple> limit_here.get()):
        if inner.forks == fo_forks and not inner.over:
            return inner.n
    reason[0] = SET_NUM_THREADS
    if limit and limit_forks == fo_forks:
        return limit
    reason[0] = CHILD
    if fo_forks:
        return 1
    if openmp.runtimes:
        n, reason[0] = openmp.threads, RUNTIME
    elif environment_threads:
        n, reason[0] = environment_threads, ENVIRONMENT
    controlled = controlled_here.get()
    if 0 < controlled < n:
        n, reason[0] = controlled, CONTROLLED
    cpus = openmp.cpus or fo_cpus()
    if cpus < n:
        n, reason[0] = cpus, AFFINITY
    if 0 < quota < n:
        n, reason[0] = quota, QUOTA
    return n


cdef int whose_workers() noexcept:
    """Return a number that differs by whose workers run steps, and by whether idle ones sleep."""
    return shared + 2 * on_openmp() + 4 * openmp_awake


cpdef int threads_for(Py_ssize_t traffic):
    """Return how many threads a step uses that moves so many bytes.

    The limits are asked for only if the step is large enough for more than one.
    """
    cdef bint awake = shared or openmp_awake
    cdef Py_ssize_t most = traffic // (min(grain, <Py_ssize_t> GRAIN_AWAKE) if awake else grain)
    cdef int allowed
    if most <= 1:
        return 1
    allowed = allowed_threads()
    if awake and not shared and not on_openmp():  # steps run on our workers, which sleep
        most = max(traffic // grain, <Py_ssize_t> 1)
    return min(most, <Py_ssize_t> allowed)


def set_grain(Py_ssize_t n):
    """Set the bytes of memory traffic that a further thread must be given; return the old value."""
    global grain
    old, grain = grain, n
    return old


def touch(uintptr_t address, Py_ssize_t size):
    """Have the threads of later steps be the first to write to a large block of zeros.

    Where a machine has several memories (NUMA), the system gives a page from the memory that is
    near to the thread that writes to it first. Zeros are first written to by steps; other state
    would be by the thread that makes the optimizer.
    """
    cdef Block block = Block(<char*> address, size)
    cdef Py_ssize_t pieces = (size + PIECE - 1) // PIECE
    if threads_for(size) > 1:
        run(touch_piece, &block, pieces, allowed_threads(), size, False)


cdef void touch_piece(void* block, Py_ssize_t k) noexcept nogil:
    cdef const Block* b = <const Block*> block
    cdef Py_ssize_t at = k * PIECE, end = min((k + 1) * PIECE, b.size)
    while at < end:
        b.data[at] = 0
        at += PAGE


cdef bint run(
    task_t task, void* work, Py_ssize_t count, int threads, Py_ssize_t traffic, bint flush
) noexcept:
    """Run task(work, k) for each k below count, on so many threads.

    The GIL is released, unless the step moves so few bytes that taking it back would cost more.
    Return False if all was run on this thread alone, since the workers were busy for another one.
    """
    cdef bint together
    if traffic < UNLOCK:
        return spread(task, work, count, threads, flush)
    with nogil:
        together = spread(task, work, count, threads, flush)
    return together


cdef bint spread(
    task_t task, void* work, Py_ssize_t count, int threads, bint flush
) noexcept nogil:
    cdef Job job
    cdef Py_ssize_t k
    cdef fo_mode mode = fo_get_mode()
    if threads == 1 or count <= 1:
        fo_set_mode(flushing(mode, flush))
        for k in range(count):
            task(work, k)
        fo_set_mode(mode)
        return True
    job.task, job.work, job.mode = task, work, flushing(mode, flush)
    job.parts = fo_own_parts()
    fo_divide(job.parts, count, threads)
    if on_openmp():
        fo_openmp_run(take_tasks, threads, &job)
    elif not fo_pool_try(take_tasks, threads, &job):
        take_tasks(0, &job)
        return False
    return True


cdef void take_tasks(int thread, void* shared_job) noexcept nogil:
    """Run tasks until none is left, those of the thread's own part first."""
    cdef Job job = (<Job*> shared_job)[0]  # a copy: the caller writes to its own stack meanwhile
    cdef int part = thread
    cdef Py_ssize_t k = fo_take(job.parts, &part)
    cdef fo_mode mode = fo_get_mode()
    fo_set_mode(job.mode)  # the caller's: other threads may round in another way
    while k >= 0:
        job.task(job.work, k)
        k = fo_take(job.parts, &part)
    fo_set_mode(mode)


if fo_pool_install() != 0:
    raise ImportError("fastoptim: cannot install the fork handler (out of memory)")
