cimport numpy as cnp
from libc.stdint cimport uintptr_t

from fastoptim._engine.arrays cimport Range
from fastoptim._engine.formats cimport Format
from fastoptim._engine.staging cimport Tensor


cdef class Memory:
    cdef Tensor* tensors
    cdef readonly Py_ssize_t count
    cdef Range* ranges  # of parameters and state, sorted by address, none overlapping
    cdef Py_ssize_t range_count
    cdef Py_ssize_t traffic  # of the step under way, in bytes
    cdef int kind  # of the work of that step, as in tuning.pxd
    cdef bint zeroing
    cdef list given  # the arrays that are written, kept alive; the lists below hold views
    cdef readonly list labels, formats, params, states, emas, masks, grads

    cdef add(self, Py_ssize_t i, entry, bint trust)
    cdef own_state(self, array, cnp.ndarray param, Py_ssize_t i, Py_ssize_t k)
    cdef own(self, array, Py_ssize_t i, Py_ssize_t k)
    cdef sort_ranges(self)
    cdef label(self, Py_ssize_t i, Py_ssize_t k)
    cdef label_at(self, Py_ssize_t n)
    cdef collect(self, grads)
    cdef as_gradient(self, Py_ssize_t i, g)
    cdef bind(self, bint in_order)
    cdef bint is_fresh(self) noexcept
    cdef int check_owned(self, Py_ssize_t i, bint writing) except -1
    cdef int check_tensor(self, Py_ssize_t i, Tensor* tensor, bint writing) except -1
    cdef int bind_gradient(
        self, Py_ssize_t i, Tensor* tensor, cnp.ndarray g, bint in_order
    ) except -1
    cdef int find_gap(
        self, Py_ssize_t i, Tensor* tensor, uintptr_t low, uintptr_t high
    ) except -1
    cdef check_all_zeroed(self)
