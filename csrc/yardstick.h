/* The loops of one level by hand: yardsticks.c includes this file once for each.
 *
 * It defines NAME(x), a function of the level; TARGET, which lets the compiler take its
 * instructions; vectors V of float and W of 64-bit words, of so many BYTES; and what can be done
 * with them. What does not fill a vector is left to the level `base`. */

enum { NAME(lanes) = BYTES / sizeof(float), NAME(words) = BYTES / sizeof(uint64_t) };

#define LANES NAME(lanes)
#define WORDS NAME(words)
#define CHANGE_W(a, x) STORE_W(a, ADD_W(LOAD_W(a), x))

TARGET static inline void NAME(streams)(int count, const fo_streams *s, ptrdiff_t start,
                                        ptrdiff_t end)
{
    const uint64_t *g = s->read; /* all by names: a store might change what s points to */
    uint64_t *p = s->changed[0], *a = s->changed[1], *b = s->changed[2], *c = s->changed[3];
    uint64_t *d = s->changed[4];
    ptrdiff_t i = start;
    for (; i + WORDS <= end; i += WORDS) {
        W x = LOAD_W(g + i);
        CHANGE_W(p + i, x);
        if (count > 1) CHANGE_W(a + i, x);
        if (count > 2) CHANGE_W(b + i, x);
        if (count > 3) CHANGE_W(c + i, x);
        if (count > 4) CHANGE_W(d + i, x);
    }
    base_streams(count, s, i, end);
}

TARGET static void NAME(stream)(const fo_streams *s, ptrdiff_t start,
                                ptrdiff_t end){BY_COUNT(NAME(streams))}

TARGET static uint64_t NAME(sum)(ptrdiff_t n, const uint64_t *a)
{
    uint64_t sums[4 * WORDS];
    ptrdiff_t i = 0;
    W w = ZERO_W(), x = w, y = w, z = w; /* no addition waits for the one before */
    for (; i + 4 * WORDS <= n; i += 4 * WORDS) {
        w = ADD_W(w, LOAD_W(a + i));
        x = ADD_W(x, LOAD_W(a + i + WORDS));
        y = ADD_W(y, LOAD_W(a + i + 2 * WORDS));
        z = ADD_W(z, LOAD_W(a + i + 3 * WORDS));
    }
    STORE_W(sums, w);
    STORE_W(sums + WORDS, x);
    STORE_W(sums + 2 * WORDS, y);
    STORE_W(sums + 3 * WORDS, z);
    return base_sum(4 * WORDS, sums) + base_sum(n - i, a + i);
}

TARGET static void NAME(adam)(ptrdiff_t n, float *p, const float *g, float *m, float *v,
                              const fo_adam_scalars *c)
{
    const V b1 = V_(set1)(c->b1), a1 = V_(set1)(c->a1), b2 = V_(set1)(c->b2);
    const V a2 = V_(set1)(c->a2), lr = V_(set1)(c->lr), r2 = V_(set1)(c->r2);
    const V eps = V_(set1)(c->eps);
    ptrdiff_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        V gi = V_(loadu)(g + i);
        V mi = V_(add)(V_(mul)(b1, V_(loadu)(m + i)), V_(mul)(a1, gi));
        V vi = V_(add)(V_(mul)(b2, V_(loadu)(v + i)), V_(mul)(V_(mul)(a2, gi), gi));
        V d = V_(add)(V_(mul)(V_(sqrt)(vi), r2), eps);
        V_(storeu)(m + i, mi);
        V_(storeu)(v + i, vi);
        V_(storeu)(p + i, V_(sub)(V_(loadu)(p + i), V_(div)(V_(mul)(lr, mi), d)));
    }
    base_adam(n - i, p + i, g + i, m + i, v + i, c);
}

TARGET static void NAME(momentum)(ptrdiff_t n, float *p, const float *g, float *v,
                                  const fo_momentum_scalars *c)
{
    const V mu = V_(set1)(c->mu), lr = V_(set1)(c->lr);
    ptrdiff_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        V vi = V_(add)(V_(mul)(mu, V_(loadu)(v + i)), V_(loadu)(g + i));
        V_(storeu)(v + i, vi);
        V_(storeu)(p + i, V_(sub)(V_(loadu)(p + i), V_(mul)(lr, vi)));
    }
    base_momentum(n - i, p + i, g + i, v + i, c);
}

#undef NAME
#undef TARGET
#undef V
#undef W
#undef BYTES
#undef V_
#undef LOAD_W
#undef STORE_W
#undef ADD_W
#undef ZERO_W
#undef LANES
#undef WORDS
#undef CHANGE_W
