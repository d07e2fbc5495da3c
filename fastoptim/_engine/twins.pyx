"""The NumPy backend: the same passes by the twins of the loops, on arrays of one axis.

It is the reference: slow, plain, and bit for bit what the compiled backend does. It updates copies:
an error or an interrupt in the middle leaves the arrays as they were.
"""

cimport numpy as cnp
from libc.string cimport memcpy

from fastoptim._engine.formats cimport Format
from fastoptim._engine.memory cimport Memory
from fastoptim._engine.scalars cimport ScalarTable
from fastoptim._engine.staging cimport ARRAYS, EMA, STATE
from fastoptim._engine.machine cimport flushing, fo_get_mode, fo_mode, fo_set_mode
from fastoptim._engine.passes cimport SQUARES_TILE

import numpy as np

from fastoptim._stages import after, before, sum_of_squares

cnp.import_array()

cdef enum:
    LOOKED_AT = 1 << 16  # elements that are looked at together


cdef class FloatingPoint:
    """Lets NumPy compute without warnings, in the floating-point mode of the compiled loops."""

    cdef object warnings
    cdef bint flush
    cdef fo_mode mode

    def __init__(self, bint flush):
        self.flush = flush
        self.warnings = np.errstate(all="ignore")

    def __enter__(self):
        self.warnings.__enter__()
        self.mode = fo_get_mode()
        fo_set_mode(flushing(self.mode, self.flush))

    def __exit__(self, *error):
        fo_set_mode(self.mode)
        self.warnings.__exit__(*error)


cdef class NumPyPasses(Passes):
    """Passes with NumPy.

    Parameters
    ----------
    memory : Memory
        What they go over.
    twins : list of Twin
        What updates p and its state in place, by the number of the rule.
    """

    def __cinit__(self, Memory memory, list twins):
        self.memory, self.twins = memory, twins

    cdef update(self, ScalarTable table, bint flush):
        cdef Memory memory = <Memory> self.memory
        cdef Py_ssize_t wave, i, start, stop, k
        self.torn = False
        memory.bind(True)
        for wave in range(self.wave_count("update")):
            found = []
            pieces = self.begin(wave, "update")
            with FloatingPoint(flush):
                for i, start, stop in pieces:
                    if memory.tensors[i].line >= 0:
                        scalars = self.rounded(table, i)
                        found.append((i, start, stop, self.updated(i, start, stop, scalars)))
            self.rebind(pieces)  # code of the user, such as a signal handler, may have run since
            self.torn = True
            for i, start, stop, arrays in found:
                for k in range(ARRAYS):
                    if arrays[k] is not None:
                        a = <cnp.ndarray> arrays[k]
                        if memory.tensors[i].in_rows:
                            memory.flat(i, k, start, stop)[arrays[ARRAYS]] = a
                            continue
                        at = memory.tensors[i].data[k] + start * memory.tensors[i].stored.itemsize
                        memcpy(at, cnp.PyArray_BYTES(a), cnp.PyArray_NBYTES(a))
                if memory.zeroing and memory.tensors[i].stepped:
                    memory.zero_gradient(i, start, stop)
            self.end(wave, "update")

    cdef list updated(self, Py_ssize_t i, Py_ssize_t start, Py_ssize_t stop, list scalars):
        """Return what is written to p, the state arrays and the average, None for what stays."""
        cdef Memory memory = <Memory> self.memory
        cdef Format stored = memory.formats[i]
        if memory.tensors[i].in_rows:
            return self.updated_rows(i, scalars)
        p, *state, ema = self.copies(i, start, stop)
        if memory.tensors[i].stepped:
            self.update_one(i, p, memory.flat_gradient(i, start, stop), state, None, scalars)
        after(p, ema, memory.flat_mask(i, start, stop), *scalars[1])
        if not memory.tensors[i].stepped:  # only the average moves
            p, state = None, [None] * len(state)
        arrays = p, *state, *[None] * (STATE - len(state)), ema
        return [None if a is None else stored.encoded(a) for a in arrays]

    cdef list updated_rows(self, Py_ssize_t i, list scalars):
        """Return what is written to the rows that a gradient has, and where these elements are."""
        cdef Memory memory = <Memory> self.memory
        cdef Format stored = memory.formats[i]
        places, g = memory.rows(i)
        size = memory.tensors[i].size
        p, *state, ema = [a if a is None else a[places] for a in self.copies(i, 0, size)]
        mask = memory.flat_mask(i, 0, size)
        self.update_one(i, p, g, state, None, scalars)
        after(p, ema, mask if mask is None else mask[places], *scalars[1])
        arrays = p, *state, *[None] * (STATE - len(state)), ema
        return [*(None if a is None else stored.encoded(a) for a in arrays), places]

    cdef update_one(self, Py_ssize_t i, p, g, state, u, list scalars):
        """Update one parameter, or only write the direction of its step to u."""
        first, _, own = scalars
        update, rescale, *_ = self.twins[self.memory.tensors[i].rule]
        g = before(g, p, *first)
        update(p, g, *(state if rescale is None else (*state, u)), *own)

    cdef list copies(self, Py_ssize_t i, Py_ssize_t start, Py_ssize_t stop):
        """Return copies of p, the state arrays and the average, None where there is none."""
        cdef Memory memory = <Memory> self.memory
        cdef Format stored = memory.formats[i]
        memory.check_owned(i, True)
        places = *range(memory.tensors[i].states + 1), EMA
        arrays = [memory.flat(i, k, start, stop) for k in places]
        return [None if a is None else stored.decoded_copy(a) for a in arrays]

    cdef rounded(self, ScalarTable table, Py_ssize_t i):
        """Return the scalars of a parameter as the loops read them."""
        return table.rounded(self.memory.tensors[i].line, (<Format> self.memory.formats[i]).real)

    cdef sum_gradients(self, double scale, bint flush):
        cdef Memory memory = <Memory> self.memory
        cdef Py_ssize_t wave, i, start, stop, tile = 0
        self.count_tiles()
        memory.bind(True)
        for wave in range(self.wave_count("norm")):
            pieces = self.begin(wave, "norm")
            with FloatingPoint(flush):
                for i, start, stop in pieces:
                    if memory.tensors[i].in_rows:
                        for squares in self.squares_of_rows(i, stop, scale):
                            self.tile_sums[tile] = squares
                            tile += 1
                        continue
                    if memory.tensors[i].stepped:
                        g = memory.flat_gradient(i, start, stop)
                    else:
                        g = np.zeros(stop - start)
                    for squares in sum_of_squares(g, scale):
                        self.tile_sums[tile] = squares
                        tile += 1
            self.end(wave, "norm")

    cdef list squares_of_rows(self, Py_ssize_t i, Py_ssize_t size, double scale):
        """Return the sums of the tiles in which there are elements of the rows of a gradient."""
        places, g = (<Memory> self.memory).rows(i)
        dense = np.zeros(size, g.dtype)
        dense[places] = g
        squares = list(sum_of_squares(dense, scale))
        return [squares[tile] for tile in np.unique(places // SQUARES_TILE)]

    cdef sum_directions(self, ScalarTable table, bint flush):
        cdef Memory memory = <Memory> self.memory
        cdef Py_ssize_t wave, i, start, stop, tile = 0
        self.count_tiles()
        memory.bind(True)
        for wave in range(self.wave_count("directions")):
            pieces = self.begin(wave, "directions")
            with FloatingPoint(flush):
                for i, start, stop in pieces:
                    p, *state, _ = self.copies(i, start, stop)
                    u = np.zeros_like(p)
                    if memory.tensors[i].stepped and memory.tensors[i].direction > 0:
                        g = memory.flat_gradient(i, start, stop)
                        self.update_one(i, p, g, state, u, self.rounded(table, i))
                    for both in zip(sum_of_squares(p, 1.0), sum_of_squares(u, 1.0)):
                        self.tile_sums[2 * tile], self.tile_sums[2 * tile + 1] = both
                        tile += 1
            self.end(wave, "directions")


cdef check_settled(Memory memory, Py_ssize_t i, update, list own, bint flush):
    """Raise unless a step of a rule leaves all elements of a parameter whose gradient is zero."""
    cdef Format stored = memory.formats[i]
    cdef Py_ssize_t start, stop, k, size = memory.tensors[i].size
    for start in range(0, size, LOOKED_AT):
        memory.check_owned(i, False)
        stop = min(start + LOOKED_AT, size)
        old = [memory.flat(i, k, start, stop) for k in range(memory.tensors[i].states + 1)]
        new = [None if a is None else stored.decoded_copy(a) for a in old]
        with FloatingPoint(flush):
            update(new[0], np.zeros_like(new[0]), *new[1:], *own)
        for a, b in zip(old, new):
            if a is not None and not np.array_equal(stored.decoded(a), b, equal_nan=True):
                raise ValueError(
                    f"{memory.gradient_label(i)}: expected an array, as a step moves also rows of "
                    f"{memory.label(i, 0)} without a gradient, whose elements are not what its "
                    "state makes of them, found Rows: let it start as zeros, or take a step with a "
                    "dense gradient first, also when a hyperparameter was set"
                )


cdef list typed(numbers, dtype):
    """Return some numbers as scalars of a dtype, rounded as C does it, without a warning."""
    if dtype.itemsize == sizeof(float):
        return [np.float32(<float> <double> x) for x in numbers]
    return [np.float64(x) for x in numbers]
