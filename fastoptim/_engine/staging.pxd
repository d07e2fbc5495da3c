from libc.stdint cimport uintptr_t

from fastoptim._engine.formats cimport Stored
from fastoptim._engine.layouts cimport Route
from fastoptim._loop cimport f32, f64

cdef enum:
    STATE = 4  # arrays of a rule, at the most
    EMA = STATE + 1  # the place of the average among the arrays that a step writes, behind p
    ARRAYS = EMA + 1  # how many arrays of a parameter a step writes, at the most
    TILE = 512  # elements that are staged at a time: 4 KB of doubles on the stack for each array
    ROOM = 4096  # doubles, for gradients in another layout: 32 KB on the stack

ctypedef fused array:
    f32
    f64

cdef struct Touched:
    # Which rows of a parameter a gradient has: see `fastoptim._engine.rows`.
    Py_ssize_t count  # of rows, each counted once
    Py_ssize_t width  # elements of a row
    Py_ssize_t given  # of rows, as they were given
    Py_ssize_t ahead  # how many rows before they are needed their memory is asked for
    Py_ssize_t stride  # bytes from the values of one to those of the next, as they were given
    Py_ssize_t* numbers  # of the rows, ascending
    Py_ssize_t* first  # where the places of each begin; and the end of the last
    Py_ssize_t* places  # of values, row by row, those of each in the order in which they were given
    Py_ssize_t* rows  # the number of the row at each place
    Py_ssize_t* room
    Py_ssize_t capacity

cdef struct Tensor:
    # What the engine knows of one parameter: where its arrays are, and what a step does with them.
    # What a step of many small arrays reads comes first, in the order in which it is read: these
    # are two lines of the cache, and little of the third.
    bint stepped  # in the step under way: whether there is a gradient
    bint gathered  # in that step: whether g is misaligned, or not laid out or stored as p
    bint staged  # whether a step computes in tiles, or does more than its rule, whatever g is like
    bint single  # whether the loops compute in float, not in double
    int loops  # where its rule's loops for that type are among those of a level
    Py_ssize_t head  # elements of a long p before the first that begins a cache line
    Py_ssize_t traffic  # bytes that a step moves
    Py_ssize_t group
    Py_ssize_t t  # steps taken
    Py_ssize_t line  # in that step, the number of its line; -1: neither gradient nor average
    int axes  # what NumPy says of p, by which most gradients are known to be laid out as p is
    int order  # the flag of an array in the order of p; 0 if it is neither C nor Fortran order
    const Py_ssize_t* shape
    void* descr
    Py_ssize_t size  # elements that are stepped; where that is a part, all counts begin with it
    Py_ssize_t extent  # elements that the step goes over: of the rows that g has, or all
    Py_ssize_t nbytes  # from the first byte of g to the last, if it is as dense as p
    Py_ssize_t shift  # bytes of such a g before the first element that is stepped
    const Stored* stored  # how the elements of all its arrays are stored
    uintptr_t gap_low  # memory between the ranges that a step writes, where the last g lay
    uintptr_t gap_high
    char* g
    (char*)[ARRAYS] data  # the addresses of p, state and average, NULL where there is none
    const unsigned char* mask
    Route* route  # allocated when a gradient first needs it
    Py_ssize_t first  # the number of p among the arrays that a step writes
    int rule  # the number of its rule among those of the plan
    int states  # how many state arrays the rule has, also those that there are not
    int direction  # the place of u among the arrays; 0: the rule measures no directions
    bint zeroing  # whether the step leaves zeros in g
    const Stored* g_stored  # how the elements of g are stored, if it is gathered
    Py_ssize_t start  # of the whole parameter, the first element that is stepped
    Py_ssize_t whole  # elements of the whole parameter
    int elsewhere  # which of the arrays are in memory only in waves: a bit for each of `data`
    bint in_rows  # in the step under way: whether g has but some rows, which are `touched`
    Touched* touched  # allocated when a gradient first needs it
    bint unstarted  # whether the average is to start at the next step, as the parameter is then

cdef struct Gathered:
    # Elements of a gradient that were gathered ahead, in the order of its parameter's memory.
    const Tensor* tensor  # NULL before the first
    Py_ssize_t start
    Py_ssize_t end
    double[ROOM] room

cdef char* gathered(
    Gathered* held, const Tensor* tensor, Py_ssize_t start, Py_ssize_t n, Py_ssize_t ahead
) noexcept nogil


cdef inline array load(
    array tile, char* data, const Stored* stored, Py_ssize_t start, Py_ssize_t n
) noexcept nogil:
    """Return where a loop finds n elements of an array: in place, or staged in a tile."""
    if data == NULL:
        return NULL
    if stored.load == NULL:
        return <array> data + start
    stored.load(tile, data + start * stored.itemsize, n)
    return tile


cdef inline void store(
    array tile, char* data, const Stored* stored, Py_ssize_t start, Py_ssize_t n
) noexcept nogil:
    """Write n elements back to an array, if they were staged."""
    if data != NULL and stored.store != NULL:
        stored.store(data + start * stored.itemsize, tile, n)
