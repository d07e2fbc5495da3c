from fastoptim._engine.passes cimport Passes
from fastoptim._engine.scalars cimport ScalarTable


cdef class NumPyPasses(Passes):
    cdef list twins

    cdef list updated(self, Py_ssize_t i, list scalars)
    cdef update_one(self, Py_ssize_t i, p, state, u, list scalars)
    cdef list copies(self, Py_ssize_t i)
    cdef parts(self, double scale, bint flush)
    cdef rounded(self, ScalarTable table, Py_ssize_t i)


cdef list typed(numbers, dtype)
