#include "yardsticks.h"

#include "real.h"

#include <math.h>

/* Where it is used the count is a number, so that each has a loop without conditions. */
#define BY_COUNT(stream)                                                                           \
    switch (s->count) {                                                                            \
    case 1:                                                                                        \
        stream(1, s, start, end);                                                                  \
        break;                                                                                     \
    case 2:                                                                                        \
        stream(2, s, start, end);                                                                  \
        break;                                                                                     \
    case 3:                                                                                        \
        stream(3, s, start, end);                                                                  \
        break;                                                                                     \
    case 4:                                                                                        \
        stream(4, s, start, end);                                                                  \
        break;                                                                                     \
    default:                                                                                       \
        stream(5, s, start, end);                                                                  \
    }

/* -- The level `base`, in plain C, which the compiler vectorises ------------------------------- */

static inline void base_streams(int count, const fo_streams *s, ptrdiff_t start, ptrdiff_t end)
{
    const uint64_t *restrict g = s->read;
    uint64_t *restrict p = s->changed[0], *restrict a = s->changed[1];
    uint64_t *restrict b = s->changed[2], *restrict c = s->changed[3], *restrict d = s->changed[4];
    for (ptrdiff_t i = start; i < end; i++) {
        uint64_t x = g[i];
        p[i] += x;
        if (count > 1) a[i] += x;
        if (count > 2) b[i] += x;
        if (count > 3) c[i] += x;
        if (count > 4) d[i] += x;
    }
}

static void base_stream(const fo_streams *s, ptrdiff_t start, ptrdiff_t end)
{
    BY_COUNT(base_streams)
}

static uint64_t base_sum(ptrdiff_t n, const uint64_t *a)
{
    uint64_t total = 0;
    for (ptrdiff_t i = 0; i < n; i++) total += a[i];
    return total;
}

static void base_adam(ptrdiff_t n, float *restrict p, const float *restrict g, float *restrict m,
                      float *restrict v, const fo_adam_scalars *c)
{
    const float b1 = c->b1, a1 = c->a1, b2 = c->b2, a2 = c->a2;
    const float lr = c->lr, r2 = c->r2, eps = c->eps;
    for (ptrdiff_t i = 0; i < n; i++) {
        float mi = b1 * m[i] + a1 * g[i];
        float vi = b2 * v[i] + (a2 * g[i]) * g[i];
        m[i] = mi;
        v[i] = vi;
        p[i] = p[i] - (lr * mi) / (sqrtf(vi) * r2 + eps);
    }
}

static void base_momentum(ptrdiff_t n, float *restrict p, const float *restrict g,
                          float *restrict v, const fo_momentum_scalars *c)
{
    const float mu = c->mu, lr = c->lr;
    for (ptrdiff_t i = 0; i < n; i++) {
        float vi = mu * v[i] + g[i];
        v[i] = vi;
        p[i] = p[i] - lr * vi;
    }
}

#if defined(__x86_64__) || defined(_M_X64)

#include <immintrin.h>

#ifdef _MSC_VER
#define TARGET_OF(level) /* takes all instructions anyway */
#else
#define TARGET_OF(level) __attribute__((target(level)))
#endif

/* -- The level `v3`: AVX2 ---------------------------------------------------------------------- */

#define NAME(x) v3_##x
#define TARGET TARGET_OF("avx2")
#define V __m256
#define W __m256i
#define BYTES 32
#define V_(x) _mm256_##x##_ps
#define LOAD_W(a) _mm256_loadu_si256((const __m256i *)(a))
#define STORE_W(a, x) _mm256_storeu_si256((__m256i *)(a), x)
#define ADD_W _mm256_add_epi64
#define ZERO_W _mm256_setzero_si256
#include "yardstick.h"

/* -- The level `v4`: AVX-512 ------------------------------------------------------------------- */

#define NAME(x) v4_##x
#define TARGET TARGET_OF("avx512f")
#define V __m512
#define W __m512i
#define BYTES 64
#define V_(x) _mm512_##x##_ps
#define LOAD_W(a) _mm512_loadu_si512(a)
#define STORE_W(a, x) _mm512_storeu_si512(a, x)
#define ADD_W _mm512_add_epi64
#define ZERO_W _mm512_setzero_si512
#include "yardstick.h"

#endif

const fo_yardstick fo_yardsticks[] = {
    {"base", base_stream, base_sum, base_adam, base_momentum},
#if defined(__x86_64__) || defined(_M_X64)
    {"v3", v3_stream, v3_sum, v3_adam, v3_momentum},
    {"v4", v4_stream, v4_sum, v4_adam, v4_momentum},
#endif
    {0},
};
