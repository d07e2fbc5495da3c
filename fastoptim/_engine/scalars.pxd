cdef enum:
    BEFORE = 6  # scalars of the stage before a rule
    SCALE = 0  # among these, the places of what gradients are multiplied by,
    WEIGHT_DECAY = 1  # of what it says,
    RARE = 2  # of whether there is more,
    MAX_NORM = 5  # and of the largest norm of the gradient of one array
    AFTER = 4  # scalars of the stage after a rule
    OWN = 16  # scalars of a rule itself, at the most
    SCALARS = BEFORE + AFTER + OWN  # room for scalars in a line


cdef class ScalarTable:
    cdef double* doubles
    cdef float* singles
    cdef Py_ssize_t capacity
    cdef list lines

    cdef Py_ssize_t add(self, scalars) except -1
    cdef clear(self)
    cdef round(self, double scale, bint flush)
    cdef bint limits_norm(self, Py_ssize_t line) noexcept
    cdef bint limits_norms(self) noexcept
    cdef list rounded(self, Py_ssize_t line, dtype)
    cdef int store(
        self, Py_ssize_t at, part, Py_ssize_t least, Py_ssize_t most, bint flush
    ) except -1
    cdef grow(self, Py_ssize_t lines)
