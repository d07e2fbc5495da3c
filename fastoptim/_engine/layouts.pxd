cimport numpy as cnp

cdef enum:
    LINES = 256  # of a block that are copied at a time, at the most
    BLOCK_BYTES = 264 << 10  # of a tile for a block of a grid, at the most
    HEAD_BYTES = 64  # between rows of a tile, which would else displace each other in the cache

cdef struct Axis:
    Py_ssize_t length
    Py_ssize_t stride

cdef struct Axes:
    # Axes that are gone through together, the last one fastest.
    int count
    Axis* axis

cdef struct Route:
    # How to go through a gradient, and where its elements belong in its parameter.
    Axes rows  # of the gradient, as are the columns; strides in bytes
    Axes columns
    Axes places  # of the parameter, over the rows; strides in elements
    Py_ssize_t row_count
    Py_ssize_t column_count  # of elements that are neighbours in the parameter
    Py_ssize_t width  # of a band of columns
    Py_ssize_t itemsize
    bint down  # whether lines go down a column, not along a row
    Py_ssize_t stride  # from one element of a line to the next
    bint in_order  # whether the n-th element of the route is the n-th of the parameter
    # Where it is not, blocks are as wide as their band, and lie as in a grid:
    Py_ssize_t height  # rows of a block, but for the first and the last one along the last axis
    Py_ssize_t missing  # rows of the first block, so that the others begin where cache lines do

cdef struct Block:
    # Some rows of some columns.
    Py_ssize_t row  # the first
    Py_ssize_t column
    Py_ssize_t rows  # how many
    Py_ssize_t columns
    Py_ssize_t pitch  # bytes from one row to the next, in a tile

cdef Route* new_route(int axes) except NULL
cdef void find_route(Route* route, cnp.ndarray g, cnp.ndarray like, bint in_order)
cdef Block block_at(
    const Route* route, Py_ssize_t start, Py_ssize_t n, Py_ssize_t most
) noexcept nogil
cdef Py_ssize_t block_behind(const Route* route, Py_ssize_t start) noexcept nogil
cdef void gather_block(
    char* tile, const Route* route, char* g, const Block* block, bint zeroing
) noexcept nogil
cdef void scatter_block(
    char* g, const Route* route, const char* tile, const Block* block
) noexcept nogil
cdef void prefetch_block(
    const Route* route, const char* g, const Block* block, Py_ssize_t part, Py_ssize_t parts
) noexcept nogil
cdef void offsets(
    Py_ssize_t* at, const Axes* axes, Py_ssize_t first, Py_ssize_t n
) noexcept nogil
