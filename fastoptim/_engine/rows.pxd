cimport numpy as cnp
from libc.string cimport memcpy

from fastoptim._engine.formats cimport Stored
from fastoptim._engine.staging cimport ARRAYS, TILE, Tensor, Touched, array

cdef extern from "lines.h":
    void fo_prefetch(const char* start, const char* end) nogil

cdef Touched* new_touched() except NULL
cdef void free_touched(Touched* touched) noexcept
cdef Py_ssize_t sort_out(
    Touched* touched, indices, Py_ssize_t count, Py_ssize_t width
) except -2
cdef raise_outside(
    label, p_label, indices, Py_ssize_t bad, const Touched* touched, Py_ssize_t count
)
cdef Py_ssize_t count_tiles_of(const Touched* touched, Py_ssize_t tile) noexcept nogil


cdef inline void sum_row(
    array out, const Tensor* tensor, Py_ssize_t j, Py_ssize_t column, Py_ssize_t n
) noexcept nogil:
    """Add up the gradients that were given for n elements, at most a tile, of the j-th row.

    As `np.add.at` on zeros does, this begins with +0, of which the first addition makes +0 of -0.
    """
    cdef const Touched* touched = tensor.touched
    cdef const Stored* stored = tensor.g_stored
    cdef double[TILE] tile
    cdef array values
    cdef char* at
    cdef Py_ssize_t k, e
    for k in range(touched.first[j], touched.first[j + 1]):
        if k + touched.ahead < touched.given:
            at = values_at(tensor, k + touched.ahead, column)
            fo_prefetch(at, at + n * stored.itemsize)
        at = values_at(tensor, k, column)
        values = <array> at
        if stored.load != NULL:
            values = <array> &tile[0]
            stored.load(values, at, n)
        if k == touched.first[j]:
            for e in range(n):
                out[e] = values[e] + 0
        else:
            for e in range(n):
                out[e] = out[e] + values[e]


cdef inline char* values_at(
    const Tensor* tensor, Py_ssize_t k, Py_ssize_t column
) noexcept nogil:
    """Return where the k-th values in the order of the rows are, from a column on."""
    cdef const Touched* touched = tensor.touched
    return tensor.g + touched.places[k] * touched.stride + column * tensor.g_stored.itemsize


cdef inline void ask_for_row(
    const Tensor* tensor, Py_ssize_t j, Py_ssize_t column, Py_ssize_t n
) noexcept nogil:
    """Let n elements of what is stepped of a row come from memory, if there is such a row."""
    cdef const Touched* touched = tensor.touched
    cdef Py_ssize_t itemsize = tensor.stored.itemsize
    cdef Py_ssize_t start
    cdef int k
    if j >= touched.count:
        return
    start = (touched.numbers[j] * touched.width + column) * itemsize
    for k in range(ARRAYS):
        if tensor.data[k] != NULL:
            fo_prefetch(tensor.data[k] + start, tensor.data[k] + start + n * itemsize)


cdef inline void take_in(
    array tile, const char* data, const Stored* stored, Py_ssize_t start, Py_ssize_t n
) noexcept nogil:
    """Copy n elements of an array, if there is one, into a tile."""
    if data == NULL:
        return
    if stored.load == NULL:
        memcpy(tile, data + start * stored.itemsize, n * stored.itemsize)
    else:
        stored.load(tile, data + start * stored.itemsize, n)


cdef inline void put_back(
    array tile, char* data, const Stored* stored, Py_ssize_t start, Py_ssize_t n
) noexcept nogil:
    """Copy n elements of a tile back to their array, if there is one."""
    if data == NULL:
        return
    if stored.store == NULL:
        memcpy(data + start * stored.itemsize, tile, n * stored.itemsize)
    else:
        stored.store(data + start * stored.itemsize, tile, n)
