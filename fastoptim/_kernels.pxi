# Every rule as one plain loop over one chunk. Each is the twin of the function of the same name
# in reference.py: the same letters, the same operations in the same order, hence the same bits.
#
# setup.py compiles this file once for each instruction-set level and element type. Before it are
# defined: `real`, float or double; `array`, a pointer to it that does not alias; `kernel`, a
# pointer to a loop like those below; `root`, the square root of a real.
#
# How to read and write a kernel:
# - Names take their type from the arrays and from the scalars c, which the engine has rounded to
#   the type of the parameters; so no literal with a fraction, which would be a double, and
#   `cdef real x` for a name whose new value depends on its old one in a choice. A test looks for
#   conversions in the machine code.
# - A condition that is the same for all elements stands inside the loop: the compiler makes one
#   vector loop of each combination (setup.py sets its limits for that).
# - A choice between elements is written `a if test else b`, which becomes a blend.

from cpython.pycapsule cimport PyCapsule_New


# The stage before every rule, as in _stages.py.
cdef inline real before(real g, real p, array o) noexcept nogil:
    scale, wd, rare, limit, l1 = o[0], o[1], o[2], o[3], o[4]
    g = scale * g
    if rare != 0:
        g = limit if g > limit else (-limit if g < -limit else g)
        g = g + (l1 if p > 0 else (-l1 if p < 0 else <real> 0))
    if wd != 0:
        g = g + wd * p
    return g


cdef void sgd(
    Py_ssize_t n, array p, array g, array v, array _1, array _2, array o, array c
) noexcept nogil:
    mu, a, nu, lr = c[0], c[1], c[2], c[3]
    for i in range(n):
        gi = before(g[i], p[i], o)
        if v != NULL:
            vi = mu * v[i] + a * gi
            v[i] = vi
            gi = gi + nu * vi if nu != 0 else vi
        p[i] = p[i] - lr * gi


cdef void rmsprop(
    Py_ssize_t n, array p, array g, array v, array g_avg, array b, array o, array c
) noexcept nogil:
    alpha, a, mu, lr, eps = c[0], c[1], c[2], c[3], c[4]
    for i in range(n):
        gi = before(g[i], p[i], o)
        vi = alpha * v[i] + (a * gi) * gi
        v[i] = vi
        if g_avg != NULL:
            ai = alpha * g_avg[i] + a * gi
            g_avg[i] = ai
            vi = vi - ai * ai
            vi = <real> 0 if vi < 0 else vi
        d = root(vi) + eps
        if b != NULL:
            bi = mu * b[i] + gi / d
            b[i] = bi
            p[i] = p[i] - lr * bi
        else:
            p[i] = p[i] - (lr * gi) / d


cdef void adagrad(
    Py_ssize_t n, array p, array g, array h, array _1, array _2, array o, array c
) noexcept nogil:
    lr, eps = c[0], c[1]
    for i in range(n):
        gi = before(g[i], p[i], o)
        hi = h[i] + gi * gi
        h[i] = hi
        p[i] = p[i] - (lr * gi) / (root(hi) + eps)


cdef void adam(
    Py_ssize_t n, array p, array g, array m, array v, array v_max, array o, array c
) noexcept nogil:
    decay, b1, a1, b2, a2, lr, r2, eps = c[0], c[1], c[2], c[3], c[4], c[5], c[6], c[7]
    for i in range(n):
        gi = before(g[i], p[i], o)
        mi = b1 * m[i] + a1 * gi
        vi = b2 * v[i] + (a2 * gi) * gi
        m[i] = mi
        v[i] = vi
        if v_max != NULL:
            vi = v_max[i] if v_max[i] >= vi else vi
            v_max[i] = vi
        p[i] = decay * p[i] - (lr * mi) / (root(vi) * r2 + eps)


# The stage after every rule, as in _stages.py.
cdef void after(Py_ssize_t n, array p, array ema, const unsigned char* mask, array f) noexcept nogil:
    cdef real pi
    low, high, d, a = f[0], f[1], f[2], f[3]
    for i in range(n):
        pi = p[i]
        pi = low if pi < low else (high if pi > high else pi)
        if mask != NULL:
            pi = pi if mask[i] else <real> 0
        p[i] = pi
        if ema != NULL:
            ema[i] = d * ema[i] + a * pi


# The twin of `sum_of_squares` in _stages.py: 16 running sums, in any vector width the same bits.
cdef double squares(Py_ssize_t n, array g, double scale) noexcept nogil:
    cdef double[16] lanes
    cdef double x
    cdef Py_ssize_t i, k, whole = n - n % 16
    for k in range(16):
        lanes[k] = 0
    for i in range(0, whole, 16):
        for k in range(16):
            x = scale * g[i + k]
            lanes[k] += x * x
    for k in range(n - whole):
        x = scale * g[whole + k]
        lanes[k] += x * x
    for k in range(8):
        lanes[k] += lanes[k + 8]
    for k in range(4):
        lanes[k] += lanes[k + 4]
    for k in range(2):
        lanes[k] += lanes[k + 2]
    return lanes[0] + lanes[1]


cdef object export(void* loop):
    """Return a capsule with the address of a loop."""
    return PyCapsule_New(loop, "fastoptim.kernel", NULL)


cdef object export_rule(kernel loop):  # whose type the compiler checks
    return export(<void*> loop)


KERNELS = {
    "sgd": export_rule(sgd),
    "rmsprop": export_rule(rmsprop),
    "adagrad": export_rule(adagrad),
    "adam": export_rule(adam),
}
STAGES = {"after": export(<void*> after), "squares": export(<void*> squares)}
