cdef enum:
    # The bytes of traffic from which on a step lets go of the GIL. Below, a step takes less than
    # 10 us, and beside a thread that computes in Python, getting the GIL back took far longer.
    UNLOCK = 1 << 18

ctypedef void (*task_t)(void* work, Py_ssize_t k) noexcept nogil
ctypedef void (*job_t)(int i, void* work) noexcept nogil  # on the i-th of some threads

cdef int forks() noexcept nogil
cdef bint run_region(job_t job, int n, void* work) noexcept nogil
cpdef int threads_for(Py_ssize_t traffic)
cdef void run(
    task_t task, void* work, Py_ssize_t count, int threads, Py_ssize_t traffic, bint flush
) noexcept

cdef extern from "denormals.h":
    ctypedef unsigned long long fo_mode
    int FO_CAN_FLUSH
    int FO_FLUSH
    fo_mode fo_get_mode() nogil
    void fo_set_mode(fo_mode mode) nogil


cdef inline fo_mode flushing(fo_mode mode, bint flush) noexcept nogil:
    """Return a mode in which denormals are zero, or are what they are, and all else is the same."""
    return mode | FO_FLUSH if flush else mode & ~<fo_mode> FO_FLUSH
