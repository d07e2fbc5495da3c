from libc.stdint cimport uintptr_t

cimport numpy as cnp
from cpython.object cimport PyObject

from fastoptim._engine.formats cimport Format, descr_of, equivalent

cdef enum:
    AXES = 64  # of a NumPy array, at the most
    LINE = 64  # bytes of a line of the cache, and of the longest vectors
    LONG = 2048  # elements for which it pays to let vectors begin where lines do

cdef struct Walk:
    # How to go through an array in the order of another one's memory: its axes in that order, the
    # slowest first, those of length 1 left out.
    int axes
    Py_ssize_t[AXES] shape
    Py_ssize_t[AXES] strides

cdef struct Range:
    # The addresses of an array, from the lowest byte to behind the highest.
    uintptr_t low
    uintptr_t high
    Py_ssize_t owner  # the number of the parameter that the array belongs to
    Py_ssize_t k  # which of the arrays of that parameter: 0 is the parameter itself

# The same as NumPy's, of an array that somebody else keeps: to count references to thousands of
# arrays takes longer than to look at them.
cdef extern from "numpy/arrayobject.h":
    bint is_ndarray "PyArray_CheckExact"(const PyObject* a) noexcept nogil
    char* address_of "PyArray_BYTES"(const void* a) noexcept nogil
    const Py_ssize_t* shape_of "PyArray_DIMS"(const void* a) noexcept nogil
    int axes_of "PyArray_NDIM"(const void* a) noexcept nogil
    int flags_of "PyArray_FLAGS"(const void* a) noexcept nogil
    void* dtype_of "PyArray_DESCR"(const void* a) noexcept nogil
    Py_ssize_t itemsize_of "PyArray_ITEMSIZE"(const void* a) noexcept nogil

cdef bint is_dense(cnp.ndarray a)
cdef void memory_order(Walk* walk, cnp.ndarray a, cnp.ndarray like)
cdef Range memory_of(cnp.ndarray a, Py_ssize_t owner, Py_ssize_t k)
cdef void sort_by_address(Range* ranges, Py_ssize_t count) noexcept nogil
cdef bint overlaps_itself(cnp.ndarray a)
cdef cnp.ndarray array_over(void* data, cnp.ndarray like, owner)
cdef cnp.ndarray flat_over(void* data, Py_ssize_t size, cnp.ndarray like, owner)
cdef Format layout_format(cnp.ndarray a)
cdef Format check_layout(label, cnp.ndarray a)
cdef check_mask(label, mask, cnp.ndarray p)
cdef raise_unfit(label, p_label, a, p, instead=*)
cdef raise_misshapen(label, p_label, a, p)
cpdef as_array(label, value)
cdef bint is_state_of(cnp.ndarray a, cnp.ndarray p)
cdef check_state(label, p_label, cnp.ndarray array, cnp.ndarray param)
cpdef check_zeroed(label, cnp.ndarray a)


cdef inline Py_ssize_t size_of(cnp.ndarray a):
    """Return the number of elements; NumPy's function cannot be inlined."""
    cdef Py_ssize_t size = 1
    cdef int axis
    for axis in range(cnp.PyArray_NDIM(a)):
        size *= cnp.PyArray_DIM(a, axis)
    return size


cdef inline bint same_shape(cnp.ndarray a, cnp.ndarray b):
    cdef int axis
    if cnp.PyArray_NDIM(a) != cnp.PyArray_NDIM(b):
        return False
    for axis in range(cnp.PyArray_NDIM(a)):
        if cnp.PyArray_DIM(a, axis) != cnp.PyArray_DIM(b, axis):
            return False
    return True


cdef inline bint same_strides(cnp.ndarray a, cnp.ndarray b):
    """Tell whether two arrays of one shape run through memory in the same way."""
    cdef int axis
    for axis in range(cnp.PyArray_NDIM(a)):
        if (
            cnp.PyArray_STRIDE(a, axis) != cnp.PyArray_STRIDE(b, axis)
            and cnp.PyArray_DIM(a, axis) != 1
        ):
            return size_of(a) == 0
    return True


cdef inline bint fits(cnp.ndarray a, cnp.ndarray p):
    """Tell whether an array has the dtype and the shape of a parameter."""
    return (
        (descr_of(a) == descr_of(p) or equivalent(descr_of(a), descr_of(p)))
        and same_shape(a, p)
    )
