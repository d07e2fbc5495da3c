"""Layouts: how a gradient is gathered that is not laid out in memory as its parameter.

A *route* goes through all elements of a gradient. It cuts the axes in two: over *columns*, which
are neighbours in the parameter, and over *rows*. What is loaded at a time is a *block*, some rows
of some columns, and it is copied in *lines*, in the direction in which the gradient's elements lie
closest: along the rows, or down the columns, which transposes the block.

Whole lines of the cache are used then where elements lie side by side in the gradient, however far
apart they are in the parameter. Where rows are long, blocks lie as in a grid, which is gone through
in *bands* of columns: as wide as a few pages of memory, since to begin anywhere else costs each
array of the parameter a page walk, and as high as the cache allows, since each block costs one for
each of its columns. The elements then come in another order than that of the parameter's memory,
which is the same to a rule, but not to a sum: a route can be asked to keep to that order.

This room knows addresses and strides, and nothing of what is stored there.
"""

cimport numpy as cnp
from cpython.mem cimport PyMem_Calloc
from libc.stdint cimport uintptr_t

from fastoptim._engine.arrays cimport AXES, Walk, memory_order

cnp.import_array()

cdef extern from "Python.h":
    Py_ssize_t PY_SSIZE_T_MAX

cdef extern from "lines.h":
    void fo_copy_line(
        char* to, const char* start, Py_ssize_t stride, Py_ssize_t n, Py_ssize_t size
    ) nogil
    void fo_copy_lines(
        char* to, Py_ssize_t width, const char* start, const Py_ssize_t* at, Py_ssize_t lines,
        Py_ssize_t stride, Py_ssize_t n, Py_ssize_t size
    ) nogil
    void fo_scatter_row(
        char* to, const Py_ssize_t* at, const char* row, Py_ssize_t n, Py_ssize_t size
    ) nogil
    void fo_prefetch(const char* start, const char* end) nogil
    void fo_zero_line(char* at, Py_ssize_t stride, Py_ssize_t n, Py_ssize_t size) nogil

cdef enum:
    CACHE_LINE = 64  # bytes
    LONG = 8  # elements that an axis must have for lines along it
    BAND = 16 << 10  # bytes of a row of a band, at the most
    NARROW = 256  # columns for which it pays to call a loop for each row of a block
    PAIR = 128  # bytes that are fetched together


cdef Route* new_route(int axes) except NULL:
    """Allocate a route for arrays of so many axes."""
    cdef Route* route = <Route*> PyMem_Calloc(1, sizeof(Route) + 2 * axes * sizeof(Axis))
    if not route:
        raise MemoryError
    route.rows.axis = <Axis*> (route + 1)
    route.places.axis = route.rows.axis + axes
    return route


cdef void find_route(Route* route, cnp.ndarray g, cnp.ndarray like, bint in_order):
    """Find a route through a gradient for a parameter that lies in memory as `like`."""
    cdef Walk walk
    cdef Py_ssize_t[AXES] steps
    cdef int k, fastest, first
    memory_order(&walk, g, like)
    merge(&walk)
    fastest = closest_axis(&walk)
    first = fastest if fastest == walk.axes - 1 else first_column(&walk, fastest, in_order)
    route.itemsize = cnp.PyArray_ITEMSIZE(g)
    route.down = first > fastest
    first = max(first, 0)  # there may be no axis
    route.columns = Axes(0, route.rows.axis + first)
    route.row_count = route.column_count = 1
    for k in range(walk.axes - 1, -1, -1):
        steps[k] = route.row_count * route.column_count
        if k < first:
            route.row_count *= walk.shape[k]
        else:
            route.column_count *= walk.shape[k]
    for k in range(first, walk.axes):
        add(&route.columns, walk.shape[k], walk.strides[k])
    route.in_order = in_order or not route.down or route.column_count < NARROW
    route.width = route.column_count
    if not route.in_order:
        sort(&walk, steps, first)
        route.width = even_part(route.column_count, BAND // route.itemsize)
    route.rows.count = route.places.count = 0
    for k in range(first):
        add(&route.rows, walk.shape[k], walk.strides[k])
        add(&route.places, walk.shape[k], steps[k])
    route.stride = stride_of(&route.rows if route.down else &route.columns)
    if not route.in_order:
        route.height = rows_of_block(route.width * route.itemsize + HEAD_BYTES)
        if 0 < route.stride < CACHE_LINE:
            route.missing = (
                <uintptr_t> cnp.PyArray_BYTES(g) % CACHE_LINE // route.stride % route.height
            )
        else:
            route.missing = 0


cdef Py_ssize_t rows_of_block(Py_ssize_t pitch) noexcept:
    """Return how many rows a block has: if they fit, as many as use up whole lines of the cache."""
    cdef Py_ssize_t rows = min(BLOCK_BYTES // pitch, <Py_ssize_t> LINES)
    return rows - rows % 16 if rows >= 16 else rows - rows % 4


cdef void merge(Walk* walk) noexcept:
    """Make one axis of neighbours that can be gone through as one."""
    cdef int k, count = 0
    for k in range(walk.axes):
        if count > 0 and walk.strides[count - 1] == walk.shape[k] * walk.strides[k]:
            walk.shape[count - 1] *= walk.shape[k]
        else:
            walk.shape[count] = walk.shape[k]
            count += 1
        walk.strides[count - 1] = walk.strides[k]
    walk.axes = count


cdef int closest_axis(const Walk* walk) noexcept:
    """Return the axis along which elements lie closest in a gradient, short axes left aside.

    The last one, along which they are neighbours in the parameter, comes first if it is as good.
    """
    cdef int k, found = walk.axes - 1
    for k in range(walk.axes - 2, -1, -1):
        if walk.shape[k] >= LONG and walk.strides[k] != 0 and (
            abs(walk.strides[k]) < abs(walk.strides[found])
            or walk.shape[found] < LONG
        ):
            found = k
    return found


cdef int first_column(const Walk* walk, int fastest, bint in_order) noexcept:
    """Return the first axis over which columns are to go, where lines go down the columns."""
    cdef int k
    cdef Py_ssize_t columns = 1
    for k in range(walk.axes - 1, fastest, -1):
        columns *= walk.shape[k]
        if columns >= NARROW and not in_order:
            return k
    return fastest + 1


cdef Py_ssize_t even_part(Py_ssize_t n, Py_ssize_t most) noexcept:
    """Return the size of parts of n, none above `most`, that are about as large as each other."""
    cdef Py_ssize_t parts = (n + most - 1) // most
    return (n + parts - 1) // parts


cdef void sort(Walk* walk, Py_ssize_t* steps, int count) noexcept:
    """Bring the first axes into the order of the gradient's memory, the closest one last."""
    cdef int i, k
    for i in range(1, count):
        for k in range(i, 0, -1):
            if distance(walk.strides[k - 1]) >= distance(walk.strides[k]):
                break
            walk.shape[k - 1], walk.shape[k] = walk.shape[k], walk.shape[k - 1]
            walk.strides[k - 1], walk.strides[k] = walk.strides[k], walk.strides[k - 1]
            steps[k - 1], steps[k] = steps[k], steps[k - 1]


cdef Py_ssize_t distance(Py_ssize_t stride) noexcept:
    """Return how far apart elements are; those that are one and the same need no line."""
    return abs(stride) if stride != 0 else PY_SSIZE_T_MAX


cdef void add(Axes* axes, Py_ssize_t length, Py_ssize_t stride) noexcept:
    """Add an axis behind the others, or lengthen the last one."""
    cdef Axis* last = &axes.axis[axes.count - 1]
    if axes.count > 0 and last.stride == length * stride:
        last.length *= length
        last.stride = stride
    else:
        axes.axis[axes.count] = Axis(length, stride)
        axes.count += 1


cdef Py_ssize_t stride_of(const Axes* axes) noexcept:
    return axes.axis[axes.count - 1].stride if axes.count > 0 else 0


cdef Block block_at(
    const Route* route, Py_ssize_t start, Py_ssize_t n, Py_ssize_t most
) noexcept nogil:
    """Return the block that begins with the start-th element of a route.

    In order, it has at most n elements, and at most `most`. Otherwise it is one of the grid.
    """
    cdef Block block
    cdef Py_ssize_t before = start // (route.row_count * route.width) * route.width
    cdef Py_ssize_t width = min(route.width, route.column_count - before)
    cdef Py_ssize_t length
    start -= before * route.row_count
    block.row, block.column = start // width, before + start % width
    if not route.in_order:
        length = route.rows.axis[route.rows.count - 1].length
        start = block.row % length
        block.rows = min(route.height - (start + route.missing) % route.height, length - start)
        block.columns = width
        block.pitch = width * route.itemsize + HEAD_BYTES
        return block
    n = min(n, most)
    if block.column > 0 or n < width:
        block.rows, block.columns = 1, min(n, width - block.column)
    else:
        block.rows, block.columns = min(n // width, route.row_count - block.row), width
        if route.down:
            length = route.rows.axis[route.rows.count - 1].length
            block.rows = min(block.rows, length - block.row % length)
    block.pitch = block.columns * route.itemsize
    return block


cdef Py_ssize_t block_behind(const Route* route, Py_ssize_t start) noexcept nogil:
    """Return where the first block of the grid begins that does not begin before `start`.

    So tasks, which are ranges, share out the blocks.
    """
    cdef Py_ssize_t before = start // (route.row_count * route.width) * route.width
    cdef Py_ssize_t width = min(route.width, route.column_count - before)
    cdef Py_ssize_t length = route.rows.axis[route.rows.count - 1].length
    cdef Py_ssize_t row, along, over
    if width <= 0:  # the end of the last band
        return start
    before *= route.row_count
    row = (start - before + width - 1) // width
    along = row % length
    if along > 0:
        over = (along + route.missing) % route.height
        if over > 0:
            row += min(route.height - over, length - along)
    return before + row * width


cdef void gather_block(
    char* tile, const Route* route, char* g, const Block* block, bint zeroing
) noexcept nogil:
    """Copy a block into a tile, row after row. With `zeroing`, zeros take its place."""
    cdef Py_ssize_t[LINES] at
    cdef Py_ssize_t k, lines, done = 0, itemsize = route.itemsize
    cdef Py_ssize_t first = block.column if route.down else block.row
    cdef Py_ssize_t count = block.columns if route.down else block.rows
    cdef Py_ssize_t length = block.rows if route.down else block.columns
    cdef const Axes* across = &route.columns if route.down else &route.rows
    if route.down:
        g += offset(&route.rows, block.row)
    else:
        g += offset(&route.columns, block.column)
    while done < count:
        lines = min(count - done, <Py_ssize_t> LINES)
        offsets(&at[0], across, first + done, lines)
        if route.down:
            fo_copy_lines(
                tile + done * itemsize, block.pitch, g, &at[0], lines, route.stride, length,
                itemsize,
            )
        else:
            for k in range(lines):
                fo_copy_line(
                    tile + (done + k) * block.pitch, g + at[k], route.stride, length, itemsize
                )
        if zeroing:
            for k in range(lines):
                fo_zero_line(g + at[k], route.stride, length, itemsize)
        done += lines


cdef void scatter_block(
    char* g, const Route* route, const char* tile, const Block* block
) noexcept nogil:
    """Copy a tile, row after row, to where `gather_block` found its elements."""
    cdef Py_ssize_t[LINES] at
    cdef Py_ssize_t row, columns, column, itemsize = route.itemsize
    for row in range(block.rows):
        column = 0
        while column < block.columns:
            columns = min(block.columns - column, <Py_ssize_t> LINES)
            offsets(&at[0], &route.columns, block.column + column, columns)
            fo_scatter_row(
                g + offset(&route.rows, block.row + row), &at[0],
                tile + row * block.pitch + column * itemsize, columns, itemsize,
            )
            column += columns


cdef void prefetch_block(
    const Route* route, const char* g, const Block* block, Py_ssize_t part, Py_ssize_t parts
) noexcept nogil:
    """Ask for a part of the memory of a block, so that it comes while others are computed on."""
    cdef Py_ssize_t[LINES] at
    cdef Py_ssize_t k, lines, length = block.rows * (
        route.stride if route.stride > 0 else -route.stride
    )
    cdef Py_ssize_t first = part * block.columns // parts
    cdef Py_ssize_t end = (part + 1) * block.columns // parts
    g += offset(&route.rows, block.row)
    if route.stride < 0:
        g -= length + route.stride  # the lowest address
    if <uintptr_t> g % PAIR >= <size_t> length:  # an earlier block has asked for them
        return
    length += <Py_ssize_t> (-<uintptr_t> (g + length) % PAIR)
    while first < end:
        lines = min(end - first, <Py_ssize_t> LINES)
        offsets(&at[0], &route.columns, block.column + first, lines)
        for k in range(lines):
            fo_prefetch(g + at[k], g + at[k] + length)
        first += lines


cdef Py_ssize_t offset(const Axes* axes, Py_ssize_t n) noexcept nogil:
    """Return where the n-th element over some axes is, behind the first one."""
    cdef Py_ssize_t found = 0
    cdef int k
    for k in range(axes.count - 1, -1, -1):
        found += n % axes.axis[k].length * axes.axis[k].stride
        n = n // axes.axis[k].length
    return found


cdef void offsets(
    Py_ssize_t* at, const Axes* axes, Py_ssize_t first, Py_ssize_t n
) noexcept nogil:
    """Write where n elements over some axes are, from the first-th on."""
    cdef Py_ssize_t[AXES] index
    cdef Py_ssize_t i, run, found = 0
    cdef const Axis* axis
    cdef int k, last = axes.count - 1
    if last < 0:
        at[0] = 0
        return
    for k in range(last, -1, -1):
        axis = &axes.axis[k]
        index[k] = first % axis.length
        found += index[k] * axis.stride
        first = first // axis.length
    while n > 0:
        axis = &axes.axis[last]
        run = min(n, axis.length - index[last])
        for i in range(run):
            at[i] = found + i * axis.stride
        at += run
        n -= run
        index[last] += run
        found += run * axis.stride
        for k in range(last, 0, -1):  # on to the next index of the slower axes
            axis = &axes.axis[k]
            if index[k] < axis.length:
                break
            index[k] = 0
            index[k - 1] += 1
            found += axes.axis[k - 1].stride - axis.length * axis.stride
