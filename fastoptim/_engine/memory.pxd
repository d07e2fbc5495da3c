cimport numpy as cnp
from cpython.object cimport PyObject
from libc.stdint cimport uintptr_t

from fastoptim._engine.arrays cimport Range
from fastoptim._engine.formats cimport Format, Stored
from fastoptim._engine.staging cimport Tensor

cdef struct Owned:
    # An array that a step writes: which one it is, and where it was when it came here.
    PyObject* array
    char* data
    Py_ssize_t nbytes
    Py_ssize_t owner  # the number of the parameter that it belongs to
    Py_ssize_t k  # which of the arrays of that parameter: 0 is the parameter itself


cdef class Tensors:
    cdef Tensor* tensors
    cdef readonly Py_ssize_t count
    cdef Py_ssize_t traffic  # of the pass under way, in bytes
    cdef int kind  # of the work of that pass, as in tuning.pxd
    cdef int kinds  # what there is of each tensor, whatever its gradient is like
    cdef bint by_rows  # whether gradients of the pass under way have but some rows
    cdef readonly list formats, grads

    cdef allocate(self, Py_ssize_t count)
    cdef bind(self, bint in_order)
    cdef cnp.ndarray place_rows(self, Py_ssize_t i, Tensor* tensor, cnp.ndarray values)
    cdef void note_kind(self, bint gathered) noexcept
    cdef bint is_fresh(self) noexcept
    cdef gradient_label(self, Py_ssize_t i)


cdef class Gradients(Tensors):
    cdef object labels

    cdef add(self, Py_ssize_t i, cnp.ndarray g, bint writing)
    cdef raise_unwritable(self, Py_ssize_t i, g)
    cdef raise_unknown(self, Py_ssize_t i, g)
    cdef add_rows(self, Py_ssize_t i, g)
    cdef check_apart(self)
    cdef check_two_apart(self, Py_ssize_t other, Py_ssize_t i)


cdef class Memory(Tensors):
    cdef Owned* owned  # by the numbers of the parameters
    cdef Py_ssize_t owned_count
    cdef Range* ranges  # of parameters and state, sorted by address, none overlapping
    cdef Py_ssize_t range_count
    cdef bint zeroing
    cdef bint in_parts  # whether a range of some parameter is stepped
    cdef bint in_waves  # whether passes go over one wave after the other
    cdef bint brings  # whether waves bring gradients
    cdef object casting  # in the pass under way: as `Plan.step` has it
    cdef list given  # the arrays that are written, kept alive
    cdef object labels
    cdef readonly list params  # views of the parameters
    cdef readonly list masks
    cdef readonly list numbers  # of what steps were taken, beside how many

    cdef add(self, Py_ssize_t i, entry)
    cdef own_state(self, array, cnp.ndarray param, Py_ssize_t i, Py_ssize_t k)
    cdef own(self, cnp.ndarray array, Py_ssize_t i, Py_ssize_t k)
    cdef sort_ranges(self)
    cdef label(self, Py_ssize_t i, Py_ssize_t k)
    cdef label_at(self, Py_ssize_t n)
    cdef cnp.ndarray part(self, Py_ssize_t i, Tensor* tensor, cnp.ndarray p, span)
    cdef flat(self, Py_ssize_t i, Py_ssize_t k, Py_ssize_t start, Py_ssize_t stop)
    cdef flat_mask(self, Py_ssize_t i, Py_ssize_t start, Py_ssize_t stop)
    cdef flat_gradient(self, Py_ssize_t i, Py_ssize_t start, Py_ssize_t stop)
    cdef zero_gradient(self, Py_ssize_t i, Py_ssize_t start, Py_ssize_t stop)
    cdef list all_pieces(self)
    cdef bind_some(self, Py_ssize_t first, Py_ssize_t behind, bint in_order)
    cdef place(self, list pieces, addresses, bint brings)
    cdef int check_placed(self, list pieces) except -1
    cdef collect(self, grads, casting)
    cdef as_gradient(self, Py_ssize_t i, g)
    cdef note_rows(self, Py_ssize_t i, g)
    cdef refuse_rows(self, Py_ssize_t i)
    cdef forget_rows(self)
    cdef tuple rows(self, Py_ssize_t i)
    cdef int bind_rows(self, Py_ssize_t i, Tensor* tensor, cnp.ndarray values) except -1
    cdef cnp.ndarray shaped_rows(self, Py_ssize_t i, cnp.ndarray values, cnp.ndarray p)
    cdef int check_owned(self, Py_ssize_t i, bint writing) except -1
    cdef raise_changed(self, Owned* owned, bint writing)
    cdef int bind_gradient(
        self, Py_ssize_t i, Tensor* tensor, cnp.ndarray g, bint in_order
    ) except -1
    cdef cnp.ndarray shaped(self, Py_ssize_t i, cnp.ndarray g, cnp.ndarray p)
    cdef const Stored* stored_as(
        self, Py_ssize_t i, cnp.ndarray g, cnp.ndarray p, str name
    ) except NULL
    cdef int find_gap(
        self, Py_ssize_t i, Tensor* tensor, uintptr_t low, uintptr_t high
    ) except -1
    cdef check_all_zeroed(self)
