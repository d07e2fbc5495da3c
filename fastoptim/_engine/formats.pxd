cimport numpy as cnp

cdef extern from "numpy/arrayobject.h":
    void* descr_of "PyArray_DESCR"(cnp.ndarray a)  # borrowed
    bint equivalent "PyArray_EquivTypes"(void* a, void* b)

ctypedef void (*load_t)(void* tile, const char* stored, Py_ssize_t n) noexcept nogil
ctypedef void (*store_t)(char* stored, const void* tile, Py_ssize_t n) noexcept nogil

cdef struct Stored:
    # How the elements of an array are stored, as the compiled passes see it.
    Py_ssize_t itemsize
    load_t load  # NULL where the loops compute on the elements as they are stored
    store_t store

cdef class Format:
    cdef Stored stored
    cdef readonly bint single
    cdef readonly object dtype, real
    cdef object decode, encode

    cdef decoded(self, array)
    cdef decoded_copy(self, array)
    cdef encoded(self, array)

cdef const Stored* read_as(Format found, Format own) noexcept
cdef Format known_format(cnp.ndarray a)
cpdef Format format_of(label, array)
