"""Passes: what a step does with memory. There is one class for each backend, with the same bits.

Each pass goes over all arrays, and checks them first. No code of the user runs between that check
and the compiled loops. It may run while NumPy computes, as signal handlers do, so `NumPyPasses`
checks once more before it writes.
"""

from libc.math cimport isfinite, ldexp, sqrt


cdef class Passes:
    """The passes over the memory of some arrays."""

    cdef update(self, ScalarTable table, bint flush):
        """Update the parameters, state arrays and averages of the step under way."""
        raise NotImplementedError

    cdef double squares(self, double scale, bint flush) except? -1:
        """Return the sum of the squares of scale times all gradients of the step under way.

        The order of the sum depends on the shapes and layouts of the parameters alone, or on those
        of the gradients where the memory has no parameters.
        """
        raise NotImplementedError

    cdef list squares_of_each(self, double scale, bint flush):
        """Return the sums of the squares of scale times each gradient, 0 where there is none."""
        raise NotImplementedError

    cdef list directions(self, ScalarTable table, bint flush):
        """Return how long parameters and the directions of their steps are.

        That is ``(i, sum of the squares of p, sum of those of the direction)`` for the number of
        each parameter that has a gradient, and a rule that is rescaled.
        """
        raise NotImplementedError

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
        bad = self.memory.first_nonfinite()
        if bad is None:  # only the squares were too large
            norm = ldexp(1.0, 600) * sqrt(self.squares(scale * ldexp(1.0, -600), flush))
        return norm, bad
