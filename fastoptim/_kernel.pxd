"""What the engine and the kernels agree on: the types of arrays and the shape of a kernel."""

cdef extern from "real.h":
    ctypedef float* f32 "fo_f32"
    ctypedef double* f64 "fo_f64"

# kernel(n, p, g, s0, s1, s2, o, c): update n elements of the parameters p and of the state arrays
# s0..s2 from the gradient g; o holds the scalars of the stage before the rule, c those of the rule.
# State that is not there is NULL.
ctypedef void (*kernel32)(Py_ssize_t, f32, f32, f32, f32, f32, f32, f32) noexcept nogil
ctypedef void (*kernel64)(Py_ssize_t, f64, f64, f64, f64, f64, f64, f64) noexcept nogil
