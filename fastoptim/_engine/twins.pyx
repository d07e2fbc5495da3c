"""The NumPy backend: the same passes by the twins of the loops, on whole arrays.

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

import numpy as np

from fastoptim._stages import after, before, sum_of_squares

cnp.import_array()


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
        cdef Memory memory = self.memory
        cdef Py_ssize_t i, k
        found = []
        memory.bind(True)
        with FloatingPoint(flush):
            for i in range(memory.count):
                if memory.tensors[i].line >= 0:
                    found.append((i, self.updated(i, self.rounded(table, i))))
        memory.bind(True)  # code of the user, such as a signal handler, may have run since
        for i, arrays in found:
            for k in range(ARRAYS):
                if arrays[k] is not None:
                    a = <cnp.ndarray> arrays[k]
                    memcpy(memory.tensors[i].data[k], cnp.PyArray_BYTES(a), cnp.PyArray_NBYTES(a))
            if memory.zeroing and memory.tensors[i].stepped:
                memory.grads[i][...] = 0

    cdef list updated(self, Py_ssize_t i, list scalars):
        """Return what is written to p, the state arrays and the average, None for what stays."""
        cdef Format stored = self.memory.formats[i]
        p, *state, ema = self.copies(i)
        if self.memory.tensors[i].stepped:
            self.update_one(i, p, state, None, scalars)
        after(p, ema, self.memory.masks[i], *scalars[1])
        if not self.memory.tensors[i].stepped:  # only the average moves
            p, state = None, [None] * len(state)
        arrays = p, *state, *[None] * (STATE - len(state)), ema
        return [None if a is None else stored.encoded(a) for a in arrays]

    cdef update_one(self, Py_ssize_t i, p, state, u, list scalars):
        """Update one parameter, or only write the direction of its step to u."""
        first, _, own = scalars
        g = before(self.memory.gradient(i), p, *first)
        update, rescale, *_ = self.twins[self.memory.tensors[i].rule]
        update(p, g, *(state if rescale is None else (*state, u)), *own)

    cdef list copies(self, Py_ssize_t i):
        """Return copies of p, the state arrays and the average, None where there is none."""
        cdef Memory memory = self.memory
        cdef Format stored = memory.formats[i]
        memory.check_owned(i, True)
        places = *range(memory.tensors[i].states + 1), EMA
        arrays = [memory.view(i, k) for k in places]
        return [None if a is None else stored.decoded_copy(a) for a in arrays]

    cdef rounded(self, ScalarTable table, Py_ssize_t i):
        """Return the scalars of a parameter as the loops read them."""
        return table.rounded(self.memory.tensors[i].line, (<Format> self.memory.formats[i]).real)

    cdef double squares(self, double scale, bint flush) except? -1:
        return in_order([part for parts in self.parts(scale, flush) for part in parts])

    cdef list squares_of_each(self, double scale, bint flush):
        return [in_order(parts) for parts in self.parts(scale, flush)]

    cdef parts(self, double scale, bint flush):
        """Return the sums of the squares of the tiles of each gradient."""
        cdef Memory memory = self.memory
        cdef Py_ssize_t i
        found = []
        memory.bind(True)
        with FloatingPoint(flush):
            for i in range(memory.count):
                parts = []
                if memory.tensors[i].stepped:
                    g = memory.gradient(i)
                    parts += sum_of_squares(g, memory.params[i], scale)
                found.append(parts)
        return found

    cdef list directions(self, ScalarTable table, bint flush):
        cdef Memory memory = self.memory
        cdef Py_ssize_t i
        found = []
        memory.bind(True)
        with FloatingPoint(flush):
            for i in range(memory.count):
                if memory.tensors[i].stepped and memory.tensors[i].direction > 0:
                    p, *state, _ = self.copies(i)
                    u = np.empty_like(p)
                    self.update_one(i, p, state, u, self.rounded(table, i))
                    found.append((i, *[list(sum_of_squares(x, p, 1.0)) for x in (p, u)]))
        return [(i, in_order(p), in_order(u)) for i, p, u in found]


cdef double in_order(list parts):
    """Return the sum of some numbers, added up one after the other."""
    cdef double total = 0
    for part in parts:
        total += part
    return total


cdef list typed(numbers, dtype):
    """Return some numbers as scalars of a dtype, rounded as C does it, without a warning."""
    if dtype.itemsize == sizeof(float):
        return [np.float32(<float> <double> x) for x in numbers]
    return [np.float64(x) for x in numbers]
