cdef extern from "denormals.h":
    ctypedef unsigned long long fo_mode
    int FO_CAN_FLUSH
    int FO_FLUSH
    fo_mode fo_get_mode() nogil
    void fo_set_mode(fo_mode mode) nogil


cdef inline fo_mode flushing(fo_mode mode, bint flush) noexcept nogil:
    """Return a mode in which denormals are zero, or are what they are, and all else is the same."""
    return mode | FO_FLUSH if flush else mode & ~<fo_mode> FO_FLUSH


cdef inline bint is_flushing() noexcept nogil:
    """Tell whether denormals are zero in this thread."""
    return fo_get_mode() & FO_FLUSH != 0
