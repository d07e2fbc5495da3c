"""Passes: what a step does with memory. There is one class for each backend, with the same bits.

Each pass goes over all arrays, and checks them first. No code of the user runs between that check
and the compiled loops. It may run while NumPy computes, as signal handlers do, so `NumPyPasses`
checks once more before it writes. A pass that goes over waves checks everything before the first,
and the arrays of each wave once more, when the client has brought it.

Sums of squares are of tiles, whatever backend has them from whatever gradients. Here they are added
up, in one order; between the two a client may join those of several parts.
"""

cimport numpy as cnp
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from libc.math cimport isfinite, ldexp, sqrt

from fastoptim._engine.memory cimport Memory
from fastoptim._engine.staging cimport Tensor

import numpy as np

from fastoptim._stages import SQUARES_TILE as tile_size

cnp.import_array()

PASS_NAMES = "update", "norm", "directions"  # as clients are told, in the order of the numbers

if tile_size != SQUARES_TILE:
    raise ImportError("fastoptim: the engine and fastoptim._stages differ in the tiles of sums")


cdef class Passes:
    """The passes over the memory of some arrays."""

    def __dealloc__(self):
        PyMem_Free(self.tile_sums)

    cdef share(self, hook, waves):
        """Join sums with those of other parts by a hook, and go over waves."""
        cdef const Tensor* tensors = self.memory.tensors
        cdef Py_ssize_t i, start, stop, next_array = 0, reached = 0
        self.hook, self.waves, self.pieces = hook, waves, []
        for wave in () if waves is None else waves.pieces:
            pieces = []
            for i, start, stop in wave:
                while next_array < i and reached == tensors[next_array].size:
                    next_array, reached = next_array + 1, 0
                start -= tensors[i].start
                stop -= tensors[i].start
                if not (
                    i == next_array and start == reached < stop <= tensors[i].size
                    and (stop % SQUARES_TILE == 0 or stop == tensors[i].size)
                ):
                    raise ValueError("waves: expected pieces of all ranges in order, found others")
                pieces.append((i, start, stop))
                reached = stop
            self.pieces.append(pieces)
        for i in range(next_array, self.memory.count if waves is not None else 0):
            if reached != tensors[i].size:
                raise ValueError("waves: expected pieces of all ranges in order, found fewer")
            reached = 0

    cdef bint goes_in_waves(self, str what):
        """Tell whether there are waves to go over: for the norm, if they bring gradients."""
        return self.waves is not None and (what != "norm" or (<Memory> self.memory).brings)

    cdef Py_ssize_t wave_count(self, str what):
        """Return over how many waves to go, 1 where there are none."""
        return len(self.pieces) if self.goes_in_waves(what) else 1

    cdef list begin(self, Py_ssize_t wave, str what):
        """Let the client bring a wave, if there are any, and return its pieces.

        In a pass its arrays are checked once more.
        """
        cdef Memory memory = <Memory> self.memory
        if not self.goes_in_waves(what):
            return memory.all_pieces()
        pieces, in_pass = self.pieces[wave], what in PASS_NAMES
        addresses = self.waves.before(wave, what)
        if in_pass:
            self.rebind(pieces)
        memory.place(pieces, addresses, in_pass and memory.brings)
        if what != "norm":
            memory.check_placed(pieces)
        return pieces

    cdef end(self, Py_ssize_t wave, str what):
        """Let the client take a wave back, if there are any."""
        if self.goes_in_waves(what):
            self.waves.behind(wave, what)

    cdef rebind(self, list pieces):
        """Check the arrays of a pass under way once more, as code of the user may have run."""
        if len(pieces) > 0:
            (<Memory> self.memory).bind_some(pieces[0][0], pieces[len(pieces) - 1][0] + 1, True)

    cdef count_tiles(self):
        """Count the tiles of the sums, and make room for these."""
        cdef Py_ssize_t i, count = 0
        cdef const Tensor* tensors = self.memory.tensors
        if self.tile_sums != NULL and not (self.tiles_by_rows or self.memory.by_rows):
            return
        for i in range(self.memory.count):
            count += tiles_of(&tensors[i], False)
        if self.tile_sums == NULL or count > self.tile_capacity:
            PyMem_Free(self.tile_sums)
            self.tile_capacity = max(count, 2 * self.tile_capacity if self.memory.by_rows else 0)
            self.tile_sums = <double*> PyMem_Malloc((2 * self.tile_capacity + 1) * sizeof(double))
            if not self.tile_sums:
                raise MemoryError
        self.tile_count, self.tiles_by_rows = count, self.memory.by_rows

    cdef int join(self, int columns) except -1:
        """Note the sums of the tiles of all whole arrays, which the hook may have to join."""
        cdef Py_ssize_t i, count = 0
        self.summed = self.tile_sums
        if self.hook is not None:
            for i in range(self.memory.count):
                count += tiles_of(&self.memory.tensors[i], True)
            self.joined = self.rows(self.hook.each, columns, count)
            self.summed = <const double*> cnp.PyArray_DATA(<cnp.ndarray> self.joined)
        return 0

    cdef cnp.ndarray rows(self, function, int columns, Py_ssize_t count):
        """Return the rows of all parts, `count` of them if that is not negative."""
        cdef cnp.npy_intp[2] shape = [self.tile_count, columns]
        own = cnp.PyArray_SimpleNewFromData(2, shape, cnp.NPY_DOUBLE, self.tile_sums)
        cnp.set_array_base(own, self)
        found = np.ascontiguousarray(function(own), np.float64)
        if found.ndim != 2 or found.shape[1] != columns or len(found) != count >= 0:
            raise ValueError(f"sums: expected {count} x {columns}, found shape {found.shape}")
        return found

    cdef list added(self, bint joined):
        """Return what the sums of the tiles of each array add up to, one for each tile."""
        cdef const Tensor* tensor
        cdef Py_ssize_t i, end, tile = 0
        cdef double total
        sums = []
        for i in range(self.memory.count):
            tensor = &self.memory.tensors[i]
            total, end = 0, tile + tiles_of(tensor, joined)
            while tile < end:
                total += self.summed[tile]
                tile += 1
            sums.append(total)
        return sums

    cdef first_nonfinite(self):
        """Return the label of the first gradient that holds a NaN or an infinity, or None.

        Scaled like this, the squares of finite numbers have a finite sum.
        """
        cdef Py_ssize_t i
        self.sum_gradients(ldexp(1.0, -600), False)
        self.summed = self.tile_sums
        bad = None
        for i, total in enumerate(self.added(False)):
            if not isfinite(<double> total):
                bad = self.memory.gradient_label(i)
                break
        return bad if self.hook is None else self.hook.first(bad)

    cdef update(self, ScalarTable table, bint flush):
        """Update the parameters, state arrays and averages of the step under way."""
        raise NotImplementedError

    cdef sum_gradients(self, double scale, bint flush):
        """Sum the squares of each tile of scale times the gradients; 0 where there is none."""
        raise NotImplementedError

    cdef sum_directions(self, ScalarTable table, bint flush):
        """Sum the squares of each tile of the parameters and of the directions of their steps.

        Those of parameters that have no gradient, or whose rule is not rescaled, say nothing.
        """
        raise NotImplementedError

    cdef double squares(self, double scale, bint flush) except? -1:
        """Return the sum of the squares of scale times all gradients of the step under way.

        The order of the sum depends on the shapes and layouts of the parameters alone, or on those
        of the gradients where the memory has no parameters.
        """
        cdef Py_ssize_t tile, count
        cdef double total = 0
        self.sum_gradients(scale, flush)
        count, self.summed = self.tile_count, self.tile_sums
        if self.hook is not None:
            self.joined = self.rows(self.hook.total, 1, -1)
            self.summed = <const double*> cnp.PyArray_DATA(<cnp.ndarray> self.joined)
            count = len(self.joined)
        for tile in range(count):
            total += self.summed[tile]
        return total

    cdef list squares_of_each(self, double scale, bint flush):
        """Return the sums of the squares of scale times each gradient, 0 where there is none."""
        self.sum_gradients(scale, flush)
        self.join(1)
        return self.added(self.hook is not None)

    cdef list directions(self, ScalarTable table, bint flush):
        """Return how long parameters and the directions of their steps are.

        That is ``(i, sum of the squares of p, sum of those of the direction)`` for the number of
        each parameter that has a gradient, and a rule that is rescaled.
        """
        cdef const Tensor* tensor
        cdef Py_ssize_t i, end, tile = 0
        cdef double p_squares, u_squares
        self.sum_directions(table, flush)
        self.join(2)
        sums = []
        for i in range(self.memory.count):
            p_squares = u_squares = 0
            tensor = &self.memory.tensors[i]
            end = tile + tiles_of(tensor, self.hook is not None)
            while tile < end:
                p_squares += self.summed[2 * tile]
                u_squares += self.summed[2 * tile + 1]
                tile += 1
            if tensor.stepped and tensor.direction > 0:
                sums.append((i, p_squares, u_squares))
        return sums

    cdef list norms(self, double scale, bint flush):
        """Return the L2 norm of scale times each gradient of the step under way."""
        cdef list small = None, large = None, found = self.squares_of_each(scale, flush)
        cdef Py_ssize_t i
        cdef double norm, least = ldexp(1.0, -500)
        for i in range(self.memory.count):
            norm = sqrt(<double> found[i])
            if self.memory.tensors[i].stepped and norm < least:  # squares may have lost bits
                if small is None:
                    small = self.squares_of_each(scale * ldexp(1.0, 600), flush)
                norm = ldexp(1.0, -600) * sqrt(<double> small[i])
            elif not isfinite(norm):  # perhaps only the squares were too large
                if large is None:
                    large = self.squares_of_each(scale * ldexp(1.0, -600), flush)
                norm = ldexp(1.0, 600) * sqrt(<double> large[i])
            found[i] = norm
        return found

    cdef tuple norm(self, double scale, bint flush):
        """Return the L2 norm of scale times all gradients of the step under way.

        With it comes the name of the first gradient that holds a NaN or an infinity, if one does.
        """
        cdef double norm = sqrt(self.squares(scale, flush))
        if norm < ldexp(1.0, -500):  # the squares may have lost bits, or vanished
            norm = ldexp(1.0, -600) * sqrt(self.squares(scale * ldexp(1.0, 600), flush))
        if isfinite(norm):
            return norm, None
        bad = self.first_nonfinite()
        if bad is None:  # only the squares were too large
            norm = ldexp(1.0, 600) * sqrt(self.squares(scale * ldexp(1.0, -600), flush))
        return norm, bad
