from libc.stdint cimport int64_t

cdef enum:
    MOST_LEVELS = 4
    SAMPLES = 3  # steps that count in a turn of a trial
    # What memory and loops are like, in bits; together with the pass, the rule and the size they
    # make up the kind of a work.
    SINGLE = 1
    DOUBLE = 2
    GATHERED = 4
    STAGED = 8
    SMALL = 16
    SOME_ROWS = 32

cdef struct Way:
    # How to run a pass: the number of a level, lowest first, and that of threads.
    int level
    int threads


cdef class Choice:
    cdef readonly str name
    cdef readonly int levels, allowed
    cdef readonly Py_ssize_t least
    cdef Way best, rival
    cdef int direction  # in which the rival lies; -1: no trial is under way
    cdef int turn, taken, score, slower
    cdef int64_t[SAMPLES] samples
    cdef int64_t with_best
    cdef readonly int64_t usual, total, spent
    cdef int64_t cost, warm, shift_due
    cdef int64_t[4] due
    cdef readonly int64_t trials, changes

    cdef Way next(self) noexcept
    cdef void learn(self, Way way, int64_t ns) noexcept
    cdef void note(self, Way way, int64_t ns) noexcept
    cdef void watch(self, int64_t ns) noexcept
    cdef void begin(self) noexcept
    cdef void compare(self, int64_t with_rival) noexcept
    cdef void end(self, bint won) noexcept
    cdef bint neighbour(self, int direction) noexcept


cdef class Tuned:
    cdef str name
    cdef tuple levels
    cdef Choice choice
    cdef Way way
    cdef int kind, size, whose
    cdef bint timed
    cdef int64_t start

    cdef Way begin(self, Py_ssize_t traffic, int kind, bint fresh)
    cdef Way choose(self, Py_ssize_t traffic, int kind, bint fresh)
    cdef void end(self, bint as_asked) noexcept
    cdef find(self, int allowed)
