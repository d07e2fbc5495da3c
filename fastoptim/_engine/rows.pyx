"""Rows: which rows of a parameter a gradient has, and where the values of each are.

A gradient may come as numbers of rows and their values, with some rows several times. Here these
numbers are copied, checked and sorted: what is looked at afterwards nobody else can change. The
values stay where they are. They are added up row by row where a pass needs them, into a tile, so
that nothing is made of the size of the parameter, nor of that of the gradient.

What is kept grows with the number of rows that a gradient has, and serves the next steps.
"""

cimport numpy as cnp
from cpython.mem cimport PyMem_Calloc, PyMem_Free, PyMem_Malloc
from libc.string cimport memset

import numpy as np

cnp.import_array()

cdef enum:
    FEW = 32  # rows that are sorted by moving each to its place
    MANY = 4096  # rows for which it pays to sort by more bits at a time
    MOST_DIGITS = 1 << 11
    AHEAD = 32  # rows of which the memory is asked for ahead, at the most, and at the most a tile


cdef Touched* new_touched() except NULL:
    """Return what notes the rows of gradients of one parameter."""
    cdef Touched* touched = <Touched*> PyMem_Calloc(1, sizeof(Touched))
    if not touched:
        raise MemoryError
    return touched


cdef void free_touched(Touched* touched) noexcept:
    if touched:
        PyMem_Free(touched.room)
        PyMem_Free(touched)


cdef Py_ssize_t sort_out(
    Touched* touched, indices, Py_ssize_t count, Py_ssize_t width
) except -2:
    """Note the rows of a gradient, an array of integers, of which the parameter has `count`.

    Return the place of the first number that is none of a row, else -1.
    """
    cdef cnp.ndarray numbers = indices
    cdef Py_ssize_t k, n = cnp.PyArray_DIM(numbers, 0), stride, most = 0
    cdef const char* at
    cdef bint ascending = True
    if not (
        cnp.PyArray_TYPE(numbers) == cnp.NPY_INTP and cnp.PyArray_ISBEHAVED_RO(numbers)
    ):
        numbers = np.array(indices, np.intp)  # uint64 numbers beyond it become negative
    make_room(touched, n)
    at, stride = cnp.PyArray_BYTES(numbers), cnp.PyArray_STRIDE(numbers, 0)
    for k in range(n):
        touched.rows[k] = (<const Py_ssize_t*> (at + k * stride))[0]
    for k in range(n):
        if not 0 <= touched.rows[k] < count:
            return k
        ascending = ascending and (k == 0 or touched.rows[k - 1] < touched.rows[k])
        most = max(most, touched.rows[k])
    touched.width, touched.given = width, n
    touched.ahead = max(1, min(AHEAD, TILE // max(width, 1)))
    with nogil:
        for k in range(n):
            touched.places[k] = k
        if not ascending:
            sort_rows(touched, n, most)
        note_each_once(touched, n)
    return -1


cdef raise_outside(
    label, p_label, indices, Py_ssize_t bad, const Touched* touched, Py_ssize_t count
):
    """Raise, as the number at this place is none of a row."""
    row = touched.rows[bad]
    found = int(indices[bad]) if row < 0 and indices.dtype.kind == "u" else row
    expected = f"the number of a row of {p_label}, from 0 to {count - 1}"
    if count == 0:
        expected = f"none, as {p_label} has no rows"
    raise ValueError(f"{label}.indices[{bad}]: expected {expected}, found {found}")


cdef int make_room(Touched* touched, Py_ssize_t n) except -1:
    """Make room for n rows, and for some more if there was too little."""
    cdef Py_ssize_t capacity
    if n <= touched.capacity and touched.room:
        return 0
    capacity = max(n, 2 * touched.capacity)
    PyMem_Free(touched.room)
    touched.capacity = 0
    touched.room = <Py_ssize_t*> PyMem_Malloc(4 * (capacity + 1) * sizeof(Py_ssize_t))
    if not touched.room:
        raise MemoryError
    touched.rows, touched.places = touched.room, touched.room + (capacity + 1)
    touched.numbers = touched.room + 2 * (capacity + 1)
    touched.first = touched.room + 3 * (capacity + 1)
    touched.capacity = capacity
    return 0


cdef void sort_rows(Touched* touched, Py_ssize_t n, Py_ssize_t most) noexcept nogil:
    """Sort rows by their numbers, and the places of their values with them, stably."""
    cdef Py_ssize_t[MOST_DIGITS] begin
    cdef Py_ssize_t k, j, row, place, digit, total, bits = 8 if n < MANY else 11
    cdef Py_ssize_t last = (1 << bits) - 1
    cdef int shift = 0
    if n <= FEW:
        for k in range(1, n):
            row, place = touched.rows[k], touched.places[k]
            j = k
            while j > 0 and touched.rows[j - 1] > row:
                touched.rows[j], touched.places[j] = touched.rows[j - 1], touched.places[j - 1]
                j -= 1
            touched.rows[j], touched.places[j] = row, place
        return
    while most >> shift > 0:
        memset(begin, 0, (last + 1) * sizeof(Py_ssize_t))
        for k in range(n):
            begin[touched.rows[k] >> shift & last] += 1
        total = 0
        for digit in range(last + 1):
            j = begin[digit]
            begin[digit] = total
            total += j
        for k in range(n):
            digit = touched.rows[k] >> shift & last
            touched.numbers[begin[digit]] = touched.rows[k]
            touched.first[begin[digit]] = touched.places[k]
            begin[digit] += 1
        touched.rows, touched.numbers = touched.numbers, touched.rows
        touched.places, touched.first = touched.first, touched.places
        shift += bits


cdef void note_each_once(Touched* touched, Py_ssize_t n) noexcept nogil:
    """Note each row once, and where the places of its values begin."""
    cdef Py_ssize_t k, count = 0
    for k in range(n):
        if k == 0 or touched.rows[k] != touched.rows[k - 1]:
            touched.numbers[count] = touched.rows[k]
            touched.first[count] = k
            count += 1
    touched.first[count] = n
    touched.count = count


cdef Py_ssize_t count_tiles_of(const Touched* touched, Py_ssize_t tile) noexcept nogil:
    """Count the tiles of so many elements in which there are elements of these rows."""
    cdef Py_ssize_t j, low, high, last = -1, count = 0
    for j in range(touched.count if touched.width > 0 else 0):
        low = max(touched.numbers[j] * touched.width // tile, last + 1)
        high = ((touched.numbers[j] + 1) * touched.width - 1) // tile
        count += high + 1 - low
        last = high
    return count
