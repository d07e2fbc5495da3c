"""What the engine and the loops agree on: the types of arrays, and the arguments of a loop."""

cdef extern from "real.h":
    ctypedef float* f32 "fo_f32"
    ctypedef double* f64 "fo_f64"

# The loop of a rule, (n, p, g, s0, s1, s2, s3, o, c): update n elements of the parameters p and of
# the state arrays s0 to s3 from the gradient g; o holds the scalars of the stage before the rule, c
# those of the rule. State that is not there is NULL.
ctypedef void (*rule32)(Py_ssize_t, f32, f32, f32, f32, f32, f32, f32, f32) noexcept nogil
ctypedef void (*rule64)(Py_ssize_t, f64, f64, f64, f64, f64, f64, f64, f64) noexcept nogil

# The loop of a rule of the user's own, (n, p, g, state, c): as above, but g is the gradient as the
# rule sees it, and `state` the addresses of the state arrays. fastoptim.h has the same for C.
ctypedef void (*open32)(Py_ssize_t, f32, f32, f32*, f32) noexcept nogil
ctypedef void (*open64)(Py_ssize_t, f64, f64, f64*, f64) noexcept nogil

# before(n, seen, g, p, o): write the gradient as a rule sees it, from the gradient g and the
# parameters p; o holds the scalars of the stage.
ctypedef void (*before32)(Py_ssize_t, f32, f32, f32, f32) noexcept nogil
ctypedef void (*before64)(Py_ssize_t, f64, f64, f64, f64) noexcept nogil

# after(n, p, ema, mask, f): the stage after a rule; f holds its scalars; ema and mask may be NULL.
ctypedef void (*after32)(Py_ssize_t, f32, f32, const unsigned char*, f32) noexcept nogil
ctypedef void (*after64)(Py_ssize_t, f64, f64, const unsigned char*, f64) noexcept nogil

# squares(n, g, scale): the sum of the squares of n elements, each multiplied by scale.
ctypedef double (*squares32)(Py_ssize_t, f32, double) noexcept nogil
ctypedef double (*squares64)(Py_ssize_t, f64, double) noexcept nogil

# clip(n, g, o): multiply n elements by o[0], then clip them to o[1].
ctypedef void (*clip32)(Py_ssize_t, f32, f32) noexcept nogil
ctypedef void (*clip64)(Py_ssize_t, f64, f64) noexcept nogil
