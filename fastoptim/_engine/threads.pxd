cdef enum:
    # The bytes of traffic from which on a step lets go of the GIL. Below, a step takes less than
    # 10 us, and beside a thread that computes in Python, getting the GIL back took far longer.
    UNLOCK = 1 << 18

ctypedef void (*task_t)(void* work, Py_ssize_t k) noexcept nogil
ctypedef void (*job_t)(int i, void* work) noexcept nogil  # on the i-th of some threads

cdef int forks() noexcept nogil
cdef bint run_region(job_t job, int n, void* work) noexcept nogil
cpdef int threads_for(Py_ssize_t traffic)
cdef int allowed_threads() except -1
cdef int whose_workers() noexcept
cdef bint run(
    task_t task, void* work, Py_ssize_t count, int threads, Py_ssize_t traffic, bint flush
) noexcept
