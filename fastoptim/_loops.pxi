# Every rule as one plain loop over n elements, which are a part of an array. Each loop is the twin
# of the function of the same name in reference.py, whose docstring explains the letters: the same
# operations in the same order, hence the same bits. The order of the loops is that of the rules.
#
# setup.py compiles this file for float and for double at each instruction-set level. The module
# that includes it has defined, for that type: `real`, float or double; `array`, a pointer to real
# that does not alias another; `rule_loop`, a pointer to the loop of a rule; `root` and `magnitude`
# of a real, its square root and absolute value.
#
# The arguments of a loop are n; p and g; four arrays of state, NULL where there is none; the
# scalars o of the stage before the rule; the scalars c of the rule, in the order in which the
# rule's function in reference.py has them.
#
# How to write a loop:
# - Cython infers the type of each name from the arrays and from the scalars, all of them real. A
#   literal with a fraction is a double, and would make the computation around it double: there is
#   none. Where a name is assigned a choice that depends on its own old value, as in
#   `a = a if test else b`, Cython may infer a double: give the choice a new name, or declare
#   `cdef real a`. A test looks for conversions in the machine code.
# - A condition that is the same for all elements stands inside the loop all the same: the compiler
#   makes a vector loop of each combination of conditions (setup.py sets its limits for that).
# - A choice that differs from element to element is written `a if test else b`: it becomes a blend.
# - A parameter is the result of arithmetic with scalars, also where it stays as it is: a compiler
#   would leave out `p - 0`, which takes a denormal number for 0 where that is asked for.
# - The name of the loop is added to LOOPS at the end.

from cpython.pycapsule cimport PyCapsule_New


cdef inline real clipped(real g, real limit) noexcept nogil:
    return limit if g > limit else (-limit if g < -limit else g)


# The stage before every rule, as in _stages.py.
cdef inline real before(real g, real p, array o) noexcept nogil:
    scale, wd, rare, limit, l1 = o[0], o[1], o[2], o[3], o[4]
    g = scale * g
    if rare != 0:
        g = clipped(g, limit)
        g = g + (l1 if p > 0 else (-l1 if p < 0 else <real> 0))
    if wd != 0:
        g = g + wd * p
    return g


# The same stage by itself, before loops that begin behind it.
cdef void before_elements(Py_ssize_t n, array seen, array g, array p, array o) noexcept nogil:
    for i in range(n):
        seen[i] = before(g[i], p[i], o)


# As _sign in reference.py.
cdef inline real sign(real x) noexcept nogil:
    return <real> 1 if x > 0 else (<real> -1 if x < 0 else x)


# As _keeps in reference.py.
cdef inline bint keeps(real x, real g, bint cautious) noexcept nogil:
    return not cautious or not sign(x) * g <= 0


# Rules with cautious steps have two loops in one text, of which the compiler makes a function each:
# together they would be more combinations of conditions than it makes vector loops of. Where a
# schedule decides whether a step is cautious, there is u in either case.

cdef void sgd(
    Py_ssize_t n, array p, array g, array v, array u, array _1, array _2, array o, array c
) noexcept nogil:
    if c[5] == 0 and u == NULL:
        sgd_elements(n, p, g, v, NULL, o, c, False)
    else:
        sgd_elements(n, p, g, v, u, o, c, c[5] != 0)


cdef inline void sgd_elements(
    Py_ssize_t n, array p, array g, array v, array u, array o, array c, bint cautious
) noexcept nogil:
    mu, a, nu, lr, resting = c[0], c[1], c[2], c[3], c[4]
    if resting != 0:
        v = NULL
    for i in range(n):
        gi = before(g[i], p[i], o)
        d = gi
        if v != NULL:
            ai = a * gi
            vi = mu * v[i] + ai
            if u == NULL:
                v[i] = vi
            d = ai + nu * vi if nu != 0 else vi
        keep = keeps(lr * d, gi, cautious)
        if u != NULL:
            u[i] = <real> 1 if keep else <real> 0
        else:
            p[i] = p[i] - lr * (d if keep else <real> 0)


cdef void rmsprop(
    Py_ssize_t n, array p, array g, array v, array g_avg, array b, array _1, array o, array c
) noexcept nogil:
    alpha, a, mu, lr, inside, eps = c[0], c[1], c[2], c[3], c[4], c[5]
    if mu == 0:
        b = NULL
    for i in range(n):
        gi = before(g[i], p[i], o)
        vi = alpha * v[i] + (a * gi) * gi
        v[i] = vi
        if g_avg != NULL:
            ai = alpha * g_avg[i] + a * gi
            g_avg[i] = ai
            vi = vi - ai * ai
            vi = <real> 0 if vi < 0 else vi
        d = root(vi + inside) + eps
        if b != NULL:
            bi = mu * b[i] + gi / d
            b[i] = bi
            p[i] = p[i] - lr * bi
        else:
            p[i] = p[i] - (lr * gi) / d


cdef void adagrad(
    Py_ssize_t n, array p, array g, array h, array _1, array _2, array _3, array o, array c
) noexcept nogil:
    lr, inside, eps = c[0], c[1], c[2]
    for i in range(n):
        gi = before(g[i], p[i], o)
        hi = h[i] + gi * gi
        h[i] = hi
        p[i] = p[i] - (lr * gi) / (root(hi + inside) + eps)


cdef void adam(
    Py_ssize_t n, array p, array g, array m, array v, array v_max, array u, array o, array c
) noexcept nogil:
    if c[8] == 0 and u == NULL:
        adam_elements(n, p, g, m, v, v_max, NULL, o, c, False)
    else:
        adam_elements(n, p, g, m, v, v_max, u, o, c, c[8] != 0)


cdef inline void adam_elements(
    Py_ssize_t n, array p, array g, array m, array v, array v_max, array u, array o, array c,
    bint cautious,
) noexcept nogil:
    decay, b1, a1, b2, a2, lr, r2, eps = c[0], c[1], c[2], c[3], c[4], c[5], c[6], c[7]
    for i in range(n):
        gi = before(g[i], p[i], o)
        mi = b1 * m[i] + a1 * gi
        keep = keeps(mi, gi, cautious)
        if u != NULL:
            u[i] = <real> 1 if keep else <real> 0
        else:
            vi = b2 * v[i] + (a2 * gi) * gi
            m[i] = mi
            v[i] = vi
            if v_max != NULL:
                vi = v_max[i] if v_max[i] >= vi else vi
                v_max[i] = vi
            p[i] = decay * p[i] - (lr * (mi if keep else <real> 0)) / (root(vi) * r2 + eps)


cdef void adadelta(
    Py_ssize_t n, array p, array g, array v, array u, array _1, array _2, array o, array c
) noexcept nogil:
    rho, a, lr, eps = c[0], c[1], c[2], c[3]
    for i in range(n):
        gi = before(g[i], p[i], o)
        vi = rho * v[i] + (a * gi) * gi
        d = root(u[i] + eps) / root(vi + eps) * gi
        v[i] = vi
        u[i] = rho * u[i] + (a * d) * d
        p[i] = p[i] - lr * d


cdef void adamax(
    Py_ssize_t n, array p, array g, array m, array u, array _1, array _2, array o, array c
) noexcept nogil:
    b1, a1, b2, lr, eps = c[0], c[1], c[2], c[3], c[4]
    for i in range(n):
        gi = before(g[i], p[i], o)
        mi = b1 * m[i] + a1 * gi
        d = magnitude(gi) + eps
        fading = b2 * u[i]
        ui = fading if fading >= d else d
        m[i] = mi
        u[i] = ui
        p[i] = p[i] - (lr * mi) / ui


cdef void nadam(
    Py_ssize_t n, array p, array g, array m, array v, array _1, array _2, array o, array c
) noexcept nogil:
    decay, b1, a1, b2, a2 = c[0], c[1], c[2], c[3], c[4]
    lr_g, lr_m, r2, eps = c[5], c[6], c[7], c[8]
    for i in range(n):
        gi = before(g[i], p[i], o)
        mi = b1 * m[i] + a1 * gi
        vi = b2 * v[i] + (a2 * gi) * gi
        m[i] = mi
        v[i] = vi
        p[i] = decay * p[i] - (lr_g * gi + lr_m * mi) / (root(vi) * r2 + eps)


cdef void radam(
    Py_ssize_t n, array p, array g, array m, array v, array _1, array _2, array o, array c
) noexcept nogil:
    decay, b1, a1, b2, a2, lr, rectified, eps = c[0], c[1], c[2], c[3], c[4], c[5], c[6], c[7]
    for i in range(n):
        gi = before(g[i], p[i], o)
        mi = b1 * m[i] + a1 * gi
        vi = b2 * v[i] + (a2 * gi) * gi
        m[i] = mi
        v[i] = vi
        if rectified != 0:
            p[i] = decay * p[i] - (lr * mi) / (root(vi) + eps)
        else:
            p[i] = decay * p[i] - lr * mi


cdef void rprop(
    Py_ssize_t n, array p, array g, array prev, array step_size, array _1, array _2, array o,
    array c,
) noexcept nogil:
    eta_minus, eta_plus, low, high = c[0], c[1], c[2], c[3]
    for i in range(n):
        gi = before(g[i], p[i], o)
        turn = sign(gi) * prev[i]
        free = (eta_plus if turn > 0 else (eta_minus if turn < 0 else <real> 1)) * step_size[i]
        h = low if free < low else (high if free > high else free)
        gi = <real> 0 if turn < 0 else gi
        step_size[i] = h
        prev[i] = gi
        p[i] = p[i] - sign(gi) * h


cdef void asgd(
    Py_ssize_t n, array p, array g, array ax, array _1, array _2, array _3, array o, array c
) noexcept nogil:
    decay, eta, mu = c[0], c[1], c[2]
    for i in range(n):
        gi = before(g[i], p[i], o)
        x = decay * p[i] - eta * gi
        ax[i] = ax[i] + mu * (x - ax[i]) if mu != 1 else x
        p[i] = x


cdef void lion(
    Py_ssize_t n, array p, array g, array m, array u, array _1, array _2, array o, array c
) noexcept nogil:
    if c[6] == 0 and u == NULL:
        lion_elements(n, p, g, m, NULL, o, c, False)
    else:
        lion_elements(n, p, g, m, u, o, c, c[6] != 0)


cdef inline void lion_elements(
    Py_ssize_t n, array p, array g, array m, array u, array o, array c, bint cautious
) noexcept nogil:
    decay, b1, a1, b2, a2, lr = c[0], c[1], c[2], c[3], c[4], c[5]
    for i in range(n):
        gi = before(g[i], p[i], o)
        ci = b1 * m[i] + a1 * gi
        keep = keeps(ci, gi, cautious)
        if u != NULL:
            u[i] = <real> 1 if keep else <real> 0
        else:
            m[i] = b2 * m[i] + a2 * gi
            p[i] = decay * p[i] - lr * (sign(ci) if keep else <real> 0)


cdef void adabelief(
    Py_ssize_t n, array p, array g, array m, array s, array _1, array _2, array o, array c
) noexcept nogil:
    decay, b1, a1, b2, a2 = c[0], c[1], c[2], c[3], c[4]
    lr, r2, eps, eps_root = c[5], c[6], c[7], c[8]
    for i in range(n):
        gi = before(g[i], p[i], o)
        mi = b1 * m[i] + a1 * gi
        d = gi - mi
        si = b2 * s[i] + (a2 * d) * d + eps_root
        m[i] = mi
        s[i] = si
        p[i] = decay * p[i] - (lr * mi) / (root(si) * r2 + eps)


cdef void yogi(
    Py_ssize_t n, array p, array g, array m, array v, array _1, array _2, array o, array c
) noexcept nogil:
    b1, a1, a2, lr, r2, eps = c[0], c[1], c[2], c[3], c[4], c[5]
    for i in range(n):
        gi = before(g[i], p[i], o)
        mi = b1 * m[i] + a1 * gi
        s = gi * gi
        vi = v[i] - sign(v[i] - s) * (a2 * s)
        m[i] = mi
        v[i] = vi
        p[i] = p[i] - (lr * mi) / (root(vi) * r2 + eps)


cdef void ademamix(
    Py_ssize_t n, array p, array g, array m1, array m2, array v, array _1, array o, array c
) noexcept nogil:
    decay, b1, a1, b2, a2, b3, a3 = c[0], c[1], c[2], c[3], c[4], c[5], c[6]
    lr1, lr2, r2, eps = c[7], c[8], c[9], c[10]
    for i in range(n):
        gi = before(g[i], p[i], o)
        mi = b1 * m1[i] + a1 * gi
        slow = b3 * m2[i] + a3 * gi
        vi = b2 * v[i] + (a2 * gi) * gi
        m1[i] = mi
        m2[i] = slow
        v[i] = vi
        p[i] = decay * p[i] - (lr1 * mi + lr2 * slow) / (root(vi) * r2 + eps)


cdef void adopt(
    Py_ssize_t n, array p, array g, array m, array v, array _1, array _2, array o, array c
) noexcept nogil:
    first, decay, b1, a1, b2, a2 = c[0], c[1], c[2], c[3], c[4], c[5]
    lr, limit, eps = c[6], c[7], c[8]
    for i in range(n):
        gi = before(g[i], p[i], o)
        if first != 0:
            v[i] = gi * gi
            p[i] = decay * p[i]
        else:
            free = root(v[i])
            d = eps if free < eps else free
            mi = b1 * m[i] + a1 * clipped(gi / d, limit)
            m[i] = mi
            v[i] = b2 * v[i] + (a2 * gi) * gi
            p[i] = decay * p[i] - lr * mi


cdef void adan(
    Py_ssize_t n, array p, array g, array m, array d, array v, array prev, array o, array c
) noexcept nogil:
    decay, b1, a1, b2, a2, nu, b3, a3 = c[0], c[1], c[2], c[3], c[4], c[5], c[6], c[7]
    lr, eps = c[8], c[9]
    for i in range(n):
        gi = before(g[i], p[i], o)
        change = gi - prev[i]
        s = gi + nu * change
        mi = b1 * m[i] + a1 * gi
        di = b2 * d[i] + a2 * change
        vi = b3 * v[i] + (a3 * s) * s
        m[i] = mi
        d[i] = di
        v[i] = vi
        prev[i] = gi
        p[i] = decay * (p[i] - (lr * (mi + nu * di)) / (root(vi) + eps))


cdef void ftrl(
    Py_ssize_t n, array p, array g, array z, array h, array _1, array _2, array o, array c
) noexcept nogil:
    inverse, l1, l2 = c[0], c[1], c[2]
    for i in range(n):
        gi = before(g[i], p[i], o)
        old = root(h[i])
        hi = h[i] + gi * gi
        new = root(hi)
        zi = z[i] + (gi - (inverse * (new - old)) * p[i])
        z[i] = zi
        h[i] = hi
        p[i] = (clipped(zi, l1) - zi) / (inverse * new + l2)


# The next two rules have a trust ratio: called with u, the loop only writes the direction of the
# step into u; called with NULL, it takes the step.

cdef void lamb(
    Py_ssize_t n, array p, array g, array m, array v, array u, array _1, array o, array c
) noexcept nogil:
    lr, wd, b1, a1, b2, a2, r1, r2, eps = c[0], c[2], c[3], c[4], c[5], c[6], c[7], c[8], c[9]
    for i in range(n):
        gi = before(g[i], p[i], o)
        mi = b1 * m[i] + a1 * gi
        vi = b2 * v[i] + (a2 * gi) * gi
        ui = (r1 * mi) / (root(vi) * r2 + eps) + wd * p[i]
        if u != NULL:
            u[i] = ui
        else:
            m[i] = mi
            v[i] = vi
            p[i] = p[i] - lr * ui


cdef void lars(
    Py_ssize_t n, array p, array g, array v, array u, array _1, array _2, array o, array c
) noexcept nogil:
    lr, mu, nu = c[0], c[2], c[3]
    for i in range(n):
        gi = before(g[i], p[i], o)
        if u != NULL:
            u[i] = gi
        else:
            gi = lr * gi
            vi = mu * v[i] + gi
            v[i] = vi
            p[i] = p[i] - (gi + nu * vi if nu != 0 else vi)


cdef void stableadamw(
    Py_ssize_t n, array p, array g, array m, array v, array u, array _1, array o, array c
) noexcept nogil:
    decay, b1, a1, b2, a2, lr, eps = c[0], c[1], c[2], c[3], c[4], c[5], c[6]
    for i in range(n):
        gi = before(g[i], p[i], o)
        vi = b2 * v[i] + (a2 * gi) * gi
        d = root(vi)
        if u != NULL:
            u[i] = gi / (eps if d < eps else d)
        else:
            mi = b1 * m[i] + a1 * gi
            m[i] = mi
            v[i] = vi
            p[i] = decay * p[i] - (lr * mi) / (d + eps)


cdef void schedulefreesgd(
    Py_ssize_t n, array p, array g, array z, array _1, array _2, array _3, array o, array c
) noexcept nogil:
    first, share, lr_y, lr = c[0], c[1], c[2], c[3]
    for i in range(n):
        gi = before(g[i], p[i], o)
        start = p[i] if first != 0 else z[i]
        y = p[i] + share * (start - p[i]) - lr_y * gi
        z[i] = start - lr * gi
        p[i] = y


cdef void schedulefreeadamw(
    Py_ssize_t n, array p, array g, array z, array v, array _1, array _2, array o, array c
) noexcept nogil:
    first, share, lr_y, lr, wd = c[0], c[1], c[2], c[3], c[4]
    b2, a2, r2, eps = c[5], c[6], c[7], c[8]
    for i in range(n):
        gi = before(g[i], p[i], o)
        vi = b2 * v[i] + (a2 * gi) * gi
        v[i] = vi
        u = gi / (root(vi) * r2 + eps) + wd * p[i]
        start = p[i] if first != 0 else z[i]
        y = p[i] + share * (start - p[i]) - lr_y * u
        z[i] = start - lr * u
        p[i] = y


# The stage after every rule, as in _stages.py.
cdef void after(
    Py_ssize_t n, array p, array ema, const unsigned char* mask, array f
) noexcept nogil:
    cdef real pi, ei
    low, high, d, a = f[0], f[1], f[2], f[3]
    for i in range(n):
        pi = p[i]
        pi = low if pi < low else (high if pi > high else pi)
        if mask != NULL:
            pi = pi if mask[i] else <real> 0
        p[i] = pi
        if ema != NULL:
            ei = d * ema[i] + a * pi
            ei = low if ei < low else (high if ei > high else ei)
            if mask != NULL:
                ei = ei if mask[i] else <real> 0
            ema[i] = ei


# What the stage before every rule begins with, for gradients that are clipped in place.
cdef void clip(Py_ssize_t n, array g, array o) noexcept nogil:
    scale, limit = o[0], o[1]
    for i in range(n):
        g[i] = clipped(scale * g[i], limit)


# The twin of `sum_of_squares` in _stages.py. The 16 running sums give the same bits whatever the
# width of the vectors is.
cdef double squares(Py_ssize_t n, array g, double scale) noexcept nogil:
    cdef double[16] lanes
    cdef double x
    cdef Py_ssize_t i, k, whole = n - n % 16
    for k in range(16):
        lanes[k] = 0
    for i in range(0, whole, 16):
        for k in range(16):
            x = g[i + k]
            x = x if scale == 1 else scale * x  # scale is nearly always 1
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
    return PyCapsule_New(loop, "fastoptim.loop", NULL)


cdef object export_rule(rule_loop loop):  # the compiler checks what arguments the loop has
    return export(<void*> loop)


LOOPS = {
    "sgd": export_rule(sgd),
    "rmsprop": export_rule(rmsprop),
    "adagrad": export_rule(adagrad),
    "adam": export_rule(adam),
    "adadelta": export_rule(adadelta),
    "adamax": export_rule(adamax),
    "nadam": export_rule(nadam),
    "radam": export_rule(radam),
    "rprop": export_rule(rprop),
    "asgd": export_rule(asgd),
    "lion": export_rule(lion),
    "adabelief": export_rule(adabelief),
    "yogi": export_rule(yogi),
    "ademamix": export_rule(ademamix),
    "adopt": export_rule(adopt),
    "adan": export_rule(adan),
    "ftrl": export_rule(ftrl),
    "lamb": export_rule(lamb),
    "lars": export_rule(lars),
    "stableadamw": export_rule(stableadamw),
    "schedulefreesgd": export_rule(schedulefreesgd),
    "schedulefreeadamw": export_rule(schedulefreeadamw),
}
STAGES = {
    "before": export(<void*> before_elements),
    "after": export(<void*> after),
    "clip": export(<void*> clip),
    "squares": export(<void*> squares),
}
