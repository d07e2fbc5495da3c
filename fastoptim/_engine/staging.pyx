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
    cdef const Walk* walk = tensor.walk
    cdef Py_ssize_t[AXES] index
    cdef char* at
    cdef Py_ssize_t i
    if tensor.stored.load != NULL:
        decode(tile, tensor, start, n, zeroing)
        return
    at = seek(walk, &index[0], tensor.g, start)
    for i in range(n):
        memcpy(&tile[i], at, sizeof(tile[0]))  # the source may be misaligned
        if zeroing:
            memset(at, 0, sizeof(tile[0]))
        advance(walk, walk.axes, &index[0], &at)


cdef void decode(
    array tile, const Tensor* tensor, Py_ssize_t start, Py_ssize_t n, bint zeroing
) noexcept nogil:
    """Load n elements of a gradient that are stored in another format."""
    cdef double[TILE] picked
    cdef char* room = <char*> picked
    cdef const Walk* walk = tensor.walk
    cdef Py_ssize_t[AXES] index
    cdef char* at = seek(walk, &index[0], tensor.g, start)
    cdef Py_ssize_t i, count, itemsize = tensor.stored.itemsize
    while n > 0:
        count = min(n, <Py_ssize_t> sizeof(picked) // itemsize)
        for i in range(count):
            memcpy(room + i * itemsize, at, itemsize)
            if zeroing:
                memset(at, 0, itemsize)
            advance(walk, walk.axes, &index[0], &at)
        tensor.stored.load(tile, room, count)
        tile = tile + count
        n -= count


cdef void scatter(
    array tile, const Tensor* tensor, Py_ssize_t start, Py_ssize_t n
) noexcept nogil:
    """Store n elements of a gradient where `gather` found them, run by run along the last axis."""
    cdef const Walk* walk = tensor.walk
    cdef Py_ssize_t[AXES] index
    cdef char* at = seek(walk, &index[0], tensor.g, start)
    cdef int last = walk.axes - 1
    cdef Py_ssize_t i, run, done = 0
    cdef Py_ssize_t length = walk.shape[last] if last >= 0 else 1
    cdef Py_ssize_t stride = walk.strides[last] if last >= 0 else 0
    while done < n:
        run = min(n - done, length - index[last] if last >= 0 else <Py_ssize_t> 1)
        if tensor.stored.store != NULL:
            for i in range(run):
                tensor.stored.store(at + i * stride, &tile[done + i], 1)
        else:
            for i in range(run):
                memcpy(at + i * stride, &tile[done + i], sizeof(tile[0]))  # may be misaligned
        done += run
        if done < n:  # at the end of the last axis
            at -= index[last] * stride
            index[last] = 0
            advance(walk, last, &index[0], &at)


cdef inline char* seek(
    const Walk* walk, Py_ssize_t* index, char* base, Py_ssize_t start
) noexcept nogil:
    """Return where the start-th element of a walk is, and write its index along each axis."""
    cdef int k
    for k in range(walk.axes - 1, -1, -1):
        index[k] = start % walk.shape[k]
        base += index[k] * walk.strides[k]
        start = start // walk.shape[k]
    return base
