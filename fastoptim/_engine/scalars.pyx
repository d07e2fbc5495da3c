"""Scalars: the numbers of a step, in lines, as the loops of either type read them.

A line is what all parameters of one group and one step count share: the scalars of the stage before
the rule, of the stage after it, and of the rule. A parameter whose scale or rule depends on its own
elements has a line to itself. This room knows how many scalars there are, and no more of their
meaning than where those of the stage before the rule are that the engine reads itself.
"""

from cpython.mem cimport PyMem_Free, PyMem_Realloc
from cpython.object cimport PyObject
from cpython.tuple cimport PyTuple_Check, PyTuple_GET_SIZE
from libc.float cimport DBL_MIN, FLT_MIN
from libc.math cimport INFINITY

from fastoptim._stages import After, Before

cdef extern from "Python.h":
    PyObject* PyTuple_GET_ITEM(object values, Py_ssize_t k)  # borrowed: the tuple keeps it
    double PyFloat_AsDouble(PyObject* number) except? -1

most_scalars = OWN  # of a rule

if (len(Before._fields), len(After._fields)) != (BEFORE, AFTER):
    raise ImportError("fastoptim: the engine and fastoptim._stages differ in the number of scalars")
for place, name in (
    (SCALE, "scale"), (WEIGHT_DECAY, "weight_decay"), (RARE, "rare"), (MAX_NORM, "max_norm")
):
    if Before._fields[place] != name:
        raise ImportError(f"fastoptim: the engine and fastoptim._stages differ in where {name} is")


cdef class ScalarTable:
    """The lines of a step: as they were given, and rounded to float and to double."""

    def __cinit__(self):
        self.lines = []

    def __dealloc__(self):
        PyMem_Free(self.doubles)
        PyMem_Free(self.singles)

    cdef Py_ssize_t add(self, scalars) except -1:
        """Add a line, whose first three items are tuples of scalars, and return its number."""
        self.lines.append(scalars)
        return len(self.lines) - 1

    cdef clear(self):
        self.lines = []

    cdef round(self, double scale, bint flush):
        """Round all lines for the loops: with `flush`, denormal numbers to zero.

        The stage before the rule multiplies the gradients by `scale`, too.
        """
        cdef Py_ssize_t i, at, count = len(self.lines)
        if count > self.capacity:
            self.grow(count)
        for i in range(count):
            line = self.lines[i]
            at = i * SCALARS
            self.store(at, line[0], BEFORE, BEFORE, flush)
            if scale != 1:
                put(self.doubles, self.singles, at + SCALE, scale * self.doubles[at + SCALE], flush)
            self.store(at + BEFORE, line[1], AFTER, AFTER, flush)
            self.store(at + BEFORE + AFTER, line[2], 0, OWN, flush)

    cdef int store(
        self, Py_ssize_t at, part, Py_ssize_t least, Py_ssize_t most, bint flush
    ) except -1:
        """Store one part of a line, a tuple of `least` to `most` floats."""
        cdef Py_ssize_t k, count
        cdef double number
        if not PyTuple_Check(part):
            raise TypeError(f"scalars: expected a tuple, found {type(part).__name__}")
        count = PyTuple_GET_SIZE(part)
        if not least <= count <= most:
            before, after, own = self.lines[at // SCALARS][:3]
            raise ValueError(
                f"scalars: expected {BEFORE}, {AFTER} and at most {OWN} of them, "
                f"found {len(before)}, {len(after)} and {len(own)}"
            )
        for k in range(count):
            number = PyFloat_AsDouble(PyTuple_GET_ITEM(part, k))
            put(self.doubles, self.singles, at + k, number, flush)
        return 0

    cdef bint limits_norm(self, Py_ssize_t line) noexcept:
        """Tell whether a line, once rounded, limits the norms of its parameters' gradients."""
        return self.doubles[line * SCALARS + MAX_NORM] < INFINITY

    cdef bint limits_norms(self) noexcept:
        """Tell whether one of the lines does."""
        cdef Py_ssize_t line
        for line in range(len(self.lines)):
            if self.limits_norm(line):
                return True
        return False

    cdef list rounded(self, Py_ssize_t line, dtype):
        """Return the three parts of a line as the loops of a type read them, in NumPy's scalars."""
        cdef Py_ssize_t k, at = line * SCALARS
        cdef bint single = dtype.itemsize == sizeof(float)
        parts = []
        for part, room in zip(self.lines[line][:3], (BEFORE, AFTER, OWN)):
            parts.append([
                dtype.type(self.singles[at + k] if single else self.doubles[at + k])
                for k in range(len(part))
            ])
            at += room
        return parts

    cdef grow(self, Py_ssize_t lines):
        """Make room for so many lines."""
        wide = PyMem_Realloc(self.doubles, lines * SCALARS * sizeof(double))
        if not wide:
            raise MemoryError
        self.doubles = <double*> wide
        narrow = PyMem_Realloc(self.singles, lines * SCALARS * sizeof(float))
        if not narrow:
            raise MemoryError
        self.singles = <float*> narrow
        self.capacity = lines


cdef inline void put(
    double* doubles, float* singles, Py_ssize_t at, double number, bint flush
) noexcept nogil:
    """Store a number, rounded to either type."""
    doubles[at] = number
    singles[at] = <float> number
    # With denormals as zero, a minimum returns zero for a denormal bound, but a comparison that
    # chooses returns the bound. With no denormal scalars, all code gives the same bits.
    if flush:
        if -DBL_MIN < doubles[at] < DBL_MIN:
            doubles[at] = 0
        if -FLT_MIN < singles[at] < FLT_MIN:
            singles[at] = 0
