from fastoptim._engine.memory cimport Memory
from fastoptim._engine.passes cimport Passes
from fastoptim._engine.scalars cimport ScalarTable


cdef class NumPyPasses(Passes):
    cdef list twins

    cdef list updated_rows(self, Py_ssize_t i, list scalars)
    cdef list squares_of_rows(self, Py_ssize_t i, Py_ssize_t size, double scale)
    cdef list updated(self, Py_ssize_t i, Py_ssize_t start, Py_ssize_t stop, list scalars)
    cdef update_one(self, Py_ssize_t i, p, g, state, u, list scalars)
    cdef list copies(self, Py_ssize_t i, Py_ssize_t start, Py_ssize_t stop)
    cdef rounded(self, ScalarTable table, Py_ssize_t i)


cdef list typed(numbers, dtype)
cdef check_settled(Memory memory, Py_ssize_t i, update, list own, bint flush)
