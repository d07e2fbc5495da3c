"""Staging: how elements that a loop cannot compute on where they are reach it, and go back.

A loop sees pointers to floats or doubles, one behind the other. What is stored so, in the memory
order of its parameter, costs nothing: the loop gets its address. All else is loaded into a tile in
the cache and computed on there: a gradient in another layout, arrays in another format. What a step
writes is then stored back; gradients are not.

This room knows tiles, and neither loops nor threads.
"""

from libc.string cimport memcpy, memset

from fastoptim._engine.arrays cimport AXES, Walk, advance


cdef void gather(
    array tile, const Tensor* tensor, Py_ssize_t start, Py_ssize_t n, bint zeroing
) noexcept nogil:
    """Load n elements of a gradient, from the start-th on in the memory order of its parameter.

    With `zeroing`, zeros take their place in the gradient.
    """
    cdef Py_ssize_t[AXES] index
    cdef char* at = tensor.g
    cdef int k
    for k in range(tensor.walk.axes - 1, -1, -1):
        index[k] = start % tensor.walk.shape[k]
        at += index[k] * tensor.walk.strides[k]
        start = start // tensor.walk.shape[k]
    if tensor.stored.load == NULL:
        pick(<char*> tile, sizeof(tile[0]), n, tensor.walk, &index[0], &at, zeroing)
    else:
        decode(tile, tensor.stored, n, tensor.walk, &index[0], &at, zeroing)


cdef inline void pick(
    char* out, Py_ssize_t itemsize, Py_ssize_t n,
    const Walk* walk, Py_ssize_t* index, char** at, bint zeroing,
) noexcept nogil:
    """Copy the next n elements of a walk.

    It is inline, since `itemsize` is a constant in one of its calls and the compiler can tell.
    """
    cdef Py_ssize_t i
    for i in range(n):
        memcpy(out + i * itemsize, at[0], itemsize)  # the source may be misaligned
        if zeroing:
            memset(at[0], 0, itemsize)
        advance(walk, walk.axes, index, at)


cdef void decode(
    array tile, const Stored* stored, Py_ssize_t n,
    const Walk* walk, Py_ssize_t* index, char** at, bint zeroing,
) noexcept nogil:
    """Load the next n elements of a walk, which are stored in another format."""
    cdef double[TILE] picked
    cdef Py_ssize_t count
    while n > 0:
        count = min(n, <Py_ssize_t> sizeof(picked) // stored.itemsize)
        pick(<char*> picked, stored.itemsize, count, walk, index, at, zeroing)
        stored.load(tile, <const char*> picked, count)
        tile = tile + count
        n -= count
