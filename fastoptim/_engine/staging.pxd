from cpython.object cimport PyObject
from libc.stdint cimport uintptr_t

from fastoptim._engine.formats cimport Stored
from fastoptim._engine.layouts cimport Route
from fastoptim._loop cimport f32, f64

cdef enum:
    STATE = 3  # arrays of a rule, at the most
    EMA = STATE + 1  # the place of the average among the arrays that a step writes, behind p
    ARRAYS = EMA + 1  # how many arrays of a parameter a step writes, at the most
    TILE = 512  # elements that are staged at a time: 4 KB of doubles on the stack for each array
    ROOM = 4096  # doubles, for gradients in another layout: 32 KB on the stack

ctypedef fused array:
    f32
    f64

cdef struct Tensor:
    # What the engine knows of one parameter: where its arrays are, and what a step does with them.
    (PyObject*)[ARRAYS] arrays  # p, state and average as given, NULL where there is none
    (char*)[ARRAYS] data  # their addresses
    Py_ssize_t head  # elements of a long p before the first that begins a cache line
    const Stored* stored  # how the elements of all of them and of g are stored
    char* g
    Py_ssize_t size
    Py_ssize_t traffic  # bytes that a step moves
    int kind  # what tells its work from that of others, as in tuning.pxd
    const unsigned char* mask
    bint single  # whether the loops compute in float, not in double
    int direction  # the place of u among the arrays; 0: the rule has no trust ratio
    Py_ssize_t group
    Py_ssize_t t  # steps taken
    bint stepped  # in the step under way: whether there is a gradient
    Py_ssize_t line  # in that step, the number of its line; -1: neither gradient nor average
    bint unstarted  # whether the average is to start at the next step, as the parameter is then
    Route* route  # allocated when a gradient first needs it
    bint gathered  # in that step: whether g is misaligned, or not laid out as p
    bint zeroing  # whether the step leaves zeros in g
    uintptr_t gap_low  # memory between the ranges that a step writes, where the last g lay
    uintptr_t gap_high

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
