"""Staging: how elements that a loop cannot compute on where they are reach it, and go back.

A loop sees pointers to floats or doubles, one behind the other. What is stored so, in the memory
order of its parameter, costs nothing: the loop gets its address. All else is loaded into a tile in
the cache and computed on there: a gradient in another layout or dtype, arrays in another format.
What a step writes is then stored back; gradients are not.

This room knows tiles, and neither loops nor threads.
"""

from fastoptim._engine.layouts cimport Block, block_at, gather_block


cdef char* gathered(
    Gathered* held, const Tensor* tensor, Py_ssize_t start, Py_ssize_t n, Py_ssize_t ahead
) noexcept nogil:
    """Return where n elements of a gradient are, gathered, in the order of their parameter.

    If they have to be gathered now, so are others that will be asked for next: `ahead` in all, as
    far as there is room. So rows that lie across each other share the lines of the cache.
    """
    cdef Py_ssize_t itemsize = tensor.g_stored.itemsize
    cdef Py_ssize_t most = <Py_ssize_t> sizeof(held.room) // itemsize
    cdef char* room = <char*> &held.room[0]
    cdef Block block
    if held.tensor != tensor or start < held.start or start + n > held.end:
        held.tensor, held.start, held.end = tensor, start, start
        ahead = start + max(n, min(ahead, most // n * n))
        while held.end < ahead:
            block = block_at(
                tensor.route, held.end + tensor.start, ahead - held.end, most
            )
            gather_block(
                room + (held.end - start) * itemsize, tensor.route, tensor.g, &block, False
            )
            held.end += block.rows * block.columns
    return room + (start - held.start) * itemsize
