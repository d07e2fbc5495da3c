cimport numpy as cnp

from fastoptim._engine.memory cimport Tensors
from fastoptim._engine.rows cimport count_tiles_of
from fastoptim._engine.scalars cimport ScalarTable
from fastoptim._engine.staging cimport Tensor

cdef enum:
    SQUARES_TILE = 2048  # elements whose squares are summed at a time, as in _stages.py

cdef enum:
    UPDATE = 0  # the kinds of passes, and how many there are
    NORM = 1
    TRUST_RATIO = 2
    CLIP = 3
    PASSES = 4


cdef class Passes:
    cdef Tensors memory
    cdef object hook  # the Sums of the plan, or None
    cdef object waves  # its Waves, or None
    cdef list pieces  # of each wave, counted from where the range of each parameter begins
    cdef bint torn  # whether the update under way has changed anything yet
    cdef Py_ssize_t tile_count, tile_capacity
    cdef bint tiles_by_rows  # whether the tiles are those of gradients that have but some rows
    cdef double* tile_sums  # of this part's tiles, one or two for each; NULL until they are needed
    cdef const double* summed  # of the tiles that are added up: these, or those of all parts
    cdef object joined  # what keeps the latter

    cdef share(self, hook, waves)
    cdef bint goes_in_waves(self, str what)
    cdef Py_ssize_t wave_count(self, str what)
    cdef list begin(self, Py_ssize_t wave, str what)
    cdef end(self, Py_ssize_t wave, str what)
    cdef rebind(self, list pieces)
    cdef count_tiles(self)
    cdef int join(self, int columns) except -1
    cdef cnp.ndarray rows(self, found, int columns, Py_ssize_t count)
    cdef list added(self, bint joined)
    cdef first_nonfinite(self)

    cdef update(self, ScalarTable table, bint flush)
    cdef sum_gradients(self, double scale, bint flush)
    cdef sum_directions(self, ScalarTable table, bint flush)
    cdef double squares(self, double scale, bint flush) except? -1
    cdef list squares_of_each(self, double scale, bint flush)
    cdef list norms(self, double scale, bint flush)
    cdef list directions(self, ScalarTable table, bint flush)
    cdef tuple norm(self, double scale, bint flush)


cdef inline Py_ssize_t tiles_of(const Tensor* tensor, bint joined) noexcept:
    """Return how many tiles an array has; if they are `joined`, those of all parts.

    Of a gradient that has but some rows, these are the tiles in which it has elements: the sums of
    all others would be 0.
    """
    if tensor.in_rows:
        return count_tiles_of(tensor.touched, SQUARES_TILE)
    return <size_t> ((tensor.whole if joined else tensor.size) + SQUARES_TILE - 1) // SQUARES_TILE
