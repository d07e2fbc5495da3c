from fastoptim._engine.memory cimport Tensors
from fastoptim._engine.scalars cimport ScalarTable


cdef class Passes:
    cdef Tensors memory

    cdef update(self, ScalarTable table, bint flush)
    cdef double squares(self, double scale, bint flush) except? -1
    cdef list squares_of_each(self, double scale, bint flush)
    cdef list norms(self, double scale, bint flush)
    cdef list directions(self, ScalarTable table, bint flush)
    cdef tuple norm(self, double scale, bint flush)
